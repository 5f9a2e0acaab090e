"""A kdcore task in a loop of Hugging Face accelerate, on scikit-learn's digits. Needs kdcore-byot; run it with `accelerate launch`, or python."""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import kdcore


def main(epochs: int = 5, count: int = 1400) -> float:
    """Trains on the first `count` digits. Returns the accuracy of the last exit on those after them, in percent."""
    digits, accelerator = load_digits(), Accelerator()
    images, labels = torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images[:count], labels[:count], torch.arange(count)), batch_size=32, shuffle=True)

    composed = kdcore.compose("test_resnet_32px", "byot", num_classes=10, image_size=8, in_chans=1, device=accelerator.device)
    task = composed.task()
    optimizer = torch.optim.SGD(task.get_clip_parameters(), lr=0.02, momentum=0.9)
    # accelerate takes what trains, whole; a frozen teacher stays outside
    task.trainable_module, optimizer, loader = accelerator.prepare(task.trainable_module, optimizer, loader)
    for epoch in range(epochs):
        for batch in loader:  # images, labels, sample numbers
            answer = task.train()(*batch)
            optimizer.zero_grad()
            accelerator.backward(answer["loss"])
            optimizer.step()
            task.after_step()  # for parts with a memory
        accelerator.print(f"epoch {epoch + 1}: loss {answer['loss'].item():.3f}", flush=True)
    net = composed.student.strip(exit=-1).eval()  # a plain module: images -> logits
    with torch.no_grad():
        right = net(images[count:].to(accelerator.device)).argmax(dim=1).cpu() == labels[count:]
    accelerator.print(f"{100 * right.float().mean().item():.1f} % of {len(right)} new digits are right")
    return 100 * right.float().mean().item()


if __name__ == "__main__":
    main()
