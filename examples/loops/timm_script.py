"""A kdcore task in a loop by the conventions of timm's train.py, on scikit-learn's digits: the first `count` train. Needs kdcore-byot."""

import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy

import kdcore


def main(epochs: int = 5, count: int = 1400) -> float:
    digits, steps = load_digits(), -(-count // 32)
    images, labels = torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)
    task = kdcore.compose("test_resnet_32px", "byot", num_classes=10, image_size=8, in_chans=1, epochs=epochs).task()
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="sgd", lr=0.05, weight_decay=5e-4)
    scheduler, epochs = create_scheduler_v2(optimizer, num_epochs=epochs, updates_per_epoch=steps, step_on_epochs=False)
    task.setup_ema(decay=0.99, use_warmup=True)  # timm's ModelEmaV3 of everything that trains
    for epoch in range(epochs):
        loss = AverageMeter()
        for step, rows in enumerate(torch.randperm(count).split(32), start=epoch * steps):
            task.train().at(epoch=step / steps, progress=step / steps / epochs)  # where training stands, for weights that move
            result = task(images[rows], labels[rows], rows)  # "loss", "output" and every term by its name
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            task.after_step()  # for parts with a memory
            task.update_ema(step=step)
            scheduler.step_update(step + 1)
            loss.update(result["loss"].item(), len(rows))
        with torch.no_grad():
            net = task.network(ema=True).strip(exit=-1).eval()  # a plain module: images -> logits
            top1 = accuracy(net(images[count:]), labels[count:])[0].item()
        print(f"epoch {epoch + 1}: loss {loss.avg:.3f}, {top1:.1f} % of {len(labels) - count} new digits are right", flush=True)
    return top1


if __name__ == "__main__":
    main()
