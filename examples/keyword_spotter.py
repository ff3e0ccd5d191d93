"""A keyword spotter in one dimension: depthwise separable convolutions over 40 mel bands x 98 frames.
The words are synthetic: twelve orders of three vowels, by random voices, in noise. Needs jstc alone.
"""

import dataclasses
import itertools
from pathlib import Path

import torch
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import jstc

WORDS = torch.tensor(list(itertools.permutations(range(4), 3))[::2])
FORMANTS = torch.tensor([[270, 2290], [660, 1720], [730, 1090], [300, 870.0]])  # of vowels, in Hz


def make_data(number: int) -> TensorDataset:
    """Logarithmic mel energies [number, 40, 98] of one second each, 98 frames of 10 ms, and their words."""
    words, mel = torch.randint(len(WORDS), (number,)), torch.linspace(100, 2146, 40)[:, None]
    pitch, tract = 90 + 150 * torch.rand(number, 1, 1), 0.85 + 0.3 * torch.rand(number, 1, 1)
    begin, length = 30 * torch.rand(number, 1), 35 + 30 * torch.rand(number, 1)
    place = 3 * (torch.arange(98) - begin) / length  # where in the word: vowel 0, 1 or 2, or outside
    near = (1.2 - (place[..., None] - torch.arange(3) - 0.5).abs()).clamp(min=0)  # they glide
    formants = near / near.sum(2, keepdim=True).clamp(min=1e-6) @ (FORMANTS[WORDS[words]] * tract)
    peaks = 2595 * (1 + formants / 700).log10()[:, None]  # [number, 1, 98, 2]
    envelope = torch.exp(-(((mel[..., None] - peaks) / 130) ** 2)).sum(3)
    voice = 1 + torch.cos(2 * torch.pi * 700 * (10 ** (mel / 2595) - 1) / pitch)
    energy = envelope * voice * ((place > 0) & (place < 3))[:, None] + 0.1 + 0.6 * torch.rand(number, 1, 1)
    return TensorDataset((energy * torch.empty_like(energy).exponential_() + 1e-3).log(), words)


def make_network(width: int) -> nn.Sequential:
    def conv(inputs: int, size: int, stride: int, groups: int) -> list[nn.Module]:
        layer = nn.Conv1d(inputs, width, size, stride, size // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm1d(width), nn.ReLU()]

    layers = [nn.BatchNorm1d(40), *conv(40, 5, 2, 1)]
    for stride in (1, 2, 1, 1):
        layers += conv(width, 9, stride, width) + conv(width, 1, 1, 1)  # depthwise, pointwise
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, len(WORDS)))


def train(network: nn.Module, data: TensorDataset, epochs: int, rate: float) -> None:
    network.train()
    loader = DataLoader(data, 50, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * len(loader))
    for _, batch in itertools.product(range(epochs), loader):
        optimizer.zero_grad()
        loss(network, batch).backward()
        optimizer.step()
        schedule.step()


def loss(network: nn.Module, batch: list[Tensor]) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


@torch.no_grad()
def accuracy(network: nn.Module, data: TensorDataset) -> float:
    return float((network.eval()(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean())


def main(out: Path = Path("runs/keywords"), rounds: int = 8, seed: int = 0, tiny: bool = False) -> None:
    """A keyword spotter at half its FLOPs; tiny: a small network and little data, in seconds."""
    torch.manual_seed(seed)
    clips, epochs, width, candidates = (100, 2, 16, 6) if tiny else (1500, 8, 96, 24)
    training, validation, test = make_data(clips), make_data(clips // 3), make_data(clips)
    network, example = make_network(width), torch.zeros(1, 40, 98)
    train(network, training, epochs, 3e-3)
    batches = list(DataLoader(training, 50))[:6]
    given = {"trained": True, "batches": batches, "loss": loss, "settings": {"search.candidates": candidates}}
    search = jstc.JointSearch(
        network, example, out=out / "search", flops=0.5, rounds=rounds, seed=seed, **given
    )
    while not search.done:
        round = search.ask()
        train(round.network, training, 1, 1e-3)
        search.tell(round, accuracy(round.network, validation))
    for round in search.finalists():
        jstc.recalibrate(round.network, batches)
        search.tell(round, accuracy(round.network, validation))
    slim = search.finish()
    train(slim.network, training, epochs // 2, 1e-3)
    slim = dataclasses.replace(slim, score=accuracy(slim.network, validation))
    slim.save(out / "slim")
    for name, net in (("whole", network), ("slim", slim.network)):
        file = jstc.export_onnx(net, example, out / f"{name}.onnx")
        print(f"{name}: accuracy {accuracy(net, test):.4f}, ONNX differs by {file.max_abs_diff:.1e} at most")
    print(f"FLOPs {search.channels.cost().flops:,} -> {slim.cost.flops:,}")


if __name__ == "__main__":
    typer.run(main)
