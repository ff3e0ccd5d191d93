"""Parts of timm's train script: its optimizer, scheduler, mixup and average of weights.

Needs `pip install timm`. The network is one of timm's by name; the images are the 8 x 8 digits of
scikit-learn, enlarged to 32 x 32.
"""

import dataclasses
from pathlib import Path

import timm
import torch
import typer
from sklearn.datasets import load_digits
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import jstc


def train(network: nn.Module, loader: DataLoader, epochs: int, rate: float) -> ModelEmaV3:
    """Train a network, and return the average of its weights."""
    optimizer = create_optimizer_v2(network, opt="adamw", lr=rate, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, "cosine", num_epochs=epochs, min_lr=rate / 100)
    mixup = Mixup(mixup_alpha=0.1, label_smoothing=0.1, num_classes=10)
    average = ModelEmaV3(network, decay=0.9, use_warmup=True)
    for epoch in range(epochs):
        network.train()
        for step, (x, y) in enumerate(loader, epoch * len(loader)):
            optimizer.zero_grad()
            mixed, wanted = mixup(x, y)
            SoftTargetCrossEntropy()(network(mixed), wanted).backward()
            optimizer.step()
            average.update(network, step)
        scheduler.step(epoch + 1)
    return average


@torch.no_grad()
def accuracy(network: nn.Module, loader: DataLoader) -> float:
    network.eval()
    right = [network(x).argmax(1) == y for x, y in loader]
    return float(torch.cat(right).float().mean())


def loss(network: nn.Module, batch: list) -> torch.Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def main(
    out: Path = Path("runs/timm"),
    model: str = "test_byobnet",
    rounds: int = 4,
    seed: int = 0,
    tiny: bool = False,
) -> None:
    """A network of timm at half its FLOPs; tiny: little data, in seconds."""
    timm.utils.random_seed(seed)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
    images = nn.functional.interpolate(images, size=(32, 32), mode="bilinear")
    sizes, epochs, candidates = ((100, 50, 50, 1597), 2, 4) if tiny else ((996, 300, 501), 10, 12)
    parts = random_split(TensorDataset(images, torch.tensor(labels)), sizes)
    training, validation, test = (DataLoader(part, 50, shuffle=part is parts[0]) for part in parts[:3])
    network = timm.create_model(model, in_chans=1, num_classes=10)
    network = train(network, training, epochs, 4e-3).module

    batches = list(training)[:4]
    given = {"trained": True, "batches": batches, "loss": loss, "settings": {"search.candidates": candidates}}
    search = jstc.JointSearch(
        network, images[:1], out=out / "search", flops=0.5, rounds=rounds, seed=seed, **given
    )
    while not search.done:
        round = search.ask()
        average = train(round.network, training, 1, 2e-3)
        search.tell(round, accuracy(average.module, validation), network=average)
    for round in search.finalists():
        jstc.recalibrate(round.network, batches)
        search.tell(round, accuracy(round.network, validation))
    slim = search.finish()
    tuned = train(slim.network, training, 4, 2e-3).module
    slim = dataclasses.replace(slim, network=tuned, score=accuracy(tuned, validation))
    slim.save(out / "slim")
    for name, net in (("whole", network), ("slim", slim.network)):
        file = jstc.export_onnx(net, images[:1], out / f"{name}.onnx")
        print(f"{name}: accuracy {accuracy(net, test):.4f}, ONNX differs by {file.max_abs_diff:.1e} at most")
    print(f"FLOPs {search.channels.cost().flops:,} -> {slim.cost.flops:,}")


if __name__ == "__main__":
    typer.run(main)
