"""Lightning: a LightningModule and its Trainer, one fit in every round. Needs `pip install lightning`.
What is searched is the network inside of the LightningModule, which is made anew around every round's.
The images are the 8 x 8 digits of scikit-learn.
"""

import dataclasses
import logging
from pathlib import Path

import lightning
import torch
import typer
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import jstc


class Classifier(lightning.LightningModule):
    def __init__(self, network: nn.Module, rate: float = 0.0) -> None:
        super().__init__()
        self.network, self.rate = network, rate

    def training_step(self, batch: list) -> torch.Tensor:
        return loss(self.network, batch)

    def validation_step(self, batch: list) -> None:
        right = self.network(batch[0]).argmax(1) == batch[1]
        self.log("accuracy", right.float().mean(), batch_size=len(right))

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), self.rate, weight_decay=0.05)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loss(network: nn.Module, batch: list) -> torch.Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1], label_smoothing=0.1)


def trainer(epochs: int = 1) -> lightning.Trainer:
    off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return lightning.Trainer(max_epochs=epochs, **off)


def make_network(width: int) -> nn.Sequential:
    def conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = conv(1, width) + conv(width, width) + conv(width, 2 * width, 2) + conv(2 * width, 2 * width)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def main(out: Path = Path("runs/lightning"), rounds: int = 8, seed: int = 0, tiny: bool = False) -> None:
    """A network of digits at half its FLOPs; tiny: little data, in seconds."""
    lightning.seed_everything(seed, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    sizes = (100, 50, 50, 1597) if tiny else (997, 300, 500)
    parts = random_split(TensorDataset(images, torch.tensor(labels)), sizes)
    training, validation, test = (DataLoader(part, 50, shuffle=part is parts[0]) for part in parts[:3])
    epochs, width, candidates = (2, 8, 6) if tiny else (6, 32, 24)

    def fit(network: nn.Module, epochs: int, rate: float) -> None:
        trainer(epochs).fit(Classifier(network, rate), training)

    def accuracy(network: nn.Module, data: DataLoader = validation) -> float:
        return trainer().validate(Classifier(network), data, verbose=False)[0]["accuracy"]

    network = make_network(width)
    fit(network, epochs, 2e-3)
    batches = list(training)[:6]
    settings = {"search.candidates": candidates}
    given = {"trained": True, "batches": batches, "loss": loss, "settings": settings, "seed": seed}
    search = jstc.JointSearch(network, images[:1], out=out / "search", flops=0.5, rounds=rounds, **given)
    while not search.done:
        round = search.ask()
        fit(round.network, 1, 1e-3)
        search.tell(round, accuracy(round.network))
    for round in search.finalists():
        jstc.recalibrate(round.network, batches)
        search.tell(round, accuracy(round.network))
    slim = search.finish()
    fit(slim.network, epochs // 2, 1e-3)
    dataclasses.replace(slim, score=accuracy(slim.network)).save(out / "slim")
    for name, net in (("whole", network), ("slim", slim.network)):
        file = jstc.export_onnx(net, images[:1], out / f"{name}.onnx")
        print(f"{name}: accuracy {accuracy(net, test):.4f}, ONNX differs by {file.max_abs_diff:.1e} at most")
    print(f"FLOPs {search.channels.cost().flops:,} -> {slim.cost.flops:,}")


if __name__ == "__main__":
    typer.run(main)
