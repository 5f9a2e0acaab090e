"""A kdcore task in a bare PyTorch loop, on scikit-learn's digits. Every exit learns the labels, and the shallow ones imitate the deepest."""

import torch
from sklearn.datasets import load_digits

import kdcore


def main(epochs: int = 5, count: int = 1400) -> float:
    """Trains on the first `count` digits. Returns the accuracy of the last exit on those after them, in percent."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)

    about = {"num_classes": 10, "image_size": 8, "in_chans": 1}
    composed = kdcore.compose("test_resnet_32px", "deep-supervision", losses=["kl@deepest:shallow=0.5"], **about)
    task = composed.task()
    optimizer = torch.optim.SGD(task.get_clip_parameters(), lr=0.05, momentum=0.9)  # the parameters that train
    for epoch in range(epochs):
        task.train()
        for rows in torch.randperm(count).split(32):
            answer = task(images[rows], labels[rows], rows)  # "loss", "output" and every term by its name
            optimizer.zero_grad()
            answer["loss"].backward()
            optimizer.step()
            task.after_step()  # for parts with a memory
        print(f"epoch {epoch + 1}: loss {answer['loss'].item():.3f}", flush=True)

    for exit in range(1, composed.context.student_shapes.exits + 1):
        net = composed.student.strip(exit=exit).eval()  # a plain module: images -> logits
        with torch.no_grad():
            right = 100 * (net(images[count:]).argmax(dim=1) == labels[count:]).float().mean().item()
        print(f"exit {exit}: {right:.1f} % of {len(labels) - count} new digits are right")
    return right


if __name__ == "__main__":
    main()
