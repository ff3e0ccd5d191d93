"""torchvision's LR-ASPP (MobileNetV3) at half its FLOPs: own loop, COCO polygons as masks, mean IoU.

    python examples/segmentation.py --out runs/segmentation
    jstc bench runs/segmentation/whole.onnx runs/segmentation/slim.onnx

With `--compare` the uniformly narrow network and the uncut one are trained for as many epochs, too.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import scenes
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import jstc


def loss_of(network, batch):
    return F.cross_entropy(network(batch[0])["out"], batch[1])


def train(network, data, epochs, seed, rate=2e-3, round=None):
    """Any loop; in rounds this one keeps the rate, and goes on with the optimiser's state."""
    loader = DataLoader(data, 8, True, drop_last=True, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 1 if round else 0.01, epochs * len(loader))
    if round:
        round.load(optimizer)
    network.train()
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            loss_of(network, batch).backward()
            optimizer.step()
            schedule.step()
    if round:
        round.save(optimizer)
    return network.eval()


@torch.inference_mode()
def miou(network, data):
    """Mean over classes of intersection over union, in percent."""
    found = torch.cat([network(images)["out"].argmax(1) for images, _ in DataLoader(data, 30)])
    pairs = [(found == k, data.tensors[1] == k) for k in range(int(data.tensors[1].max()) + 1)]
    return 100 * sum(float((a & b).sum() / (a | b).sum()) for a, b in pairs) / len(pairs)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true")
    places = {"data": Path("scenes"), "out": Path("runs/segmentation"), "weights": Path("runs/lraspp.pt")}
    numbers = {"images": 240, "side": 64, "given": 20, "candidates": 16, "rounds": 3, "epochs": 5, "seed": 0}
    for name, value in {**places, **numbers, "flops": 0.5}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    o = parser.parse_args(argv)
    scenes.write(o.data, images=o.images, side=o.side)
    data, held = scenes.masks(o.data, "train"), scenes.masks(o.data, "val")
    torch.manual_seed(0)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    if not o.weights.exists():  # yours have been trained before
        o.weights.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train(model, data, o.given, 0).state_dict(), o.weights)
    model.load_state_dict(torch.load(o.weights, weights_only=True))
    table = {"uncut": miou(model.eval(), held)}

    example, batches = held[:1][0], list(DataLoader(data, 16))[:8]
    search = jstc.JointSearch(
        model, example, out=o.out / "search", flops=o.flops, rounds=o.rounds, seed=o.seed,
        trained=True, batches=batches, loss=loss_of, settings={"search.candidates": o.candidates},
    )  # fmt: skip
    while not search.done:
        round = search.ask()
        train(round.network, data, 1, o.seed + round.number, round=round)
        search.tell(round, miou(round.network, held))
    for round in search.finalists():
        jstc.recalibrate(round.network, batches)
        search.tell(round, miou(round.network, held))
    slim = search.finish()
    slim = replace(slim, score=miou(train(slim.network, data, o.epochs, o.seed), held))
    table["slim"] = slim.score
    if o.compare:
        even = search.channels.slice(model, search.channels.uniform_plan(flops=o.flops))
        for name, network in {"uniformly narrow": even, "uncut, trained on": copy.deepcopy(model)}.items():
            table[name] = miou(train(network, data, o.rounds + o.epochs, o.seed), held)
    print(f"FLOPs {slim.cost.flops / search.channels.cost().flops:.3f}, mIoU", table, flush=True)
    slim.save(o.out / "slim")
    for name, network in {"whole": model, "slim": slim.network}.items():
        print(jstc.export_onnx(network, example, o.out / f"{name}.onnx", batch=1).outputs)
    return table


if __name__ == "__main__":
    main()
