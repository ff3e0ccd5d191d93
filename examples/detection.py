"""torchvision's SSDlite (MobileNetV3) at half its FLOPs, cut as a whole: own loop, COCO boxes, mAP.

python examples/detection.py --out runs/detection     # needs pycocotools
jstc bench runs/detection/whole.onnx runs/detection/slim.onnx
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import scenes
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import jstc


class Values(torch.nn.Module):
    def forward(self, maps):
        return list(maps.values())


def layers(network):
    """A detector's layers alone, for images [N, 3, H, W] in -1..1: boxes are chosen behind them."""
    return torch.nn.Sequential(network.backbone, Values(), network.head)


def loss_of(network, batch):
    was, network.training = network.training, True  # it gives losses only then; its norms stay as they are
    loss = sum(network(*batch).values())
    network.training = was
    return loss


def train(network, data, epochs, seed, rate=1e-3):
    loader, optimizer = scenes.loader(data, 8, seed), torch.optim.AdamW(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, epochs * len(loader))
    network.train()
    for batch in (batch for _ in range(epochs) for batch in loader):
        optimizer.zero_grad()
        loss_of(network, batch).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def mean_ap(network, data, truth):
    with torch.inference_mode():
        return scenes.mean_ap(network([image for image, _ in data]), data, truth)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true", help="train uniformly narrow and uncut ones, too")
    places = {"data": Path("scenes"), "out": Path("runs/detection"), "weights": Path("runs/ssdlite.pt")}
    numbers = {"images": 240, "side": 96, "given": 20, "candidates": 16, "rounds": 3, "epochs": 5, "seed": 0}
    for name, value in {**places, **numbers, "flops": 0.5}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    o = parser.parse_args(argv)
    scenes.write(o.data, images=o.images, side=o.side)
    data, held = scenes.boxes(o.data, "train"), (scenes.boxes(o.data, "val"), o.data / "val.json")
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    model.transform.fixed_size = (o.side, o.side)
    if not o.weights.exists():  # yours have been trained before
        o.weights.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train(model, data, o.given, 0).state_dict(), o.weights)
    model.load_state_dict(torch.load(o.weights, weights_only=True))
    image, batches = data[0][0], list(scenes.loader(data, 16))[:8]
    search = jstc.JointSearch(
        model.eval(), ([image],), out=o.out / "search", flops=o.flops, rounds=o.rounds, seed=o.seed,
        trained=True, batches=batches, loss=loss_of, settings={"search.candidates": o.candidates},
        # Layers are mended one by one: in a forward that does the same for any number of images
        call=lambda network, batch: layers(network)(torch.stack(batch[0]) * 2 - 1),
    )  # fmt: skip
    while not search.done:
        round = search.ask()
        search.tell(round, mean_ap(train(round.network, data, 1, o.seed + round.number), *held))
    for round in search.finalists():
        jstc.recalibrate(round.network, batches)
        search.tell(round, mean_ap(round.network, *held))
    slim = search.finish()
    slim = replace(slim, score=mean_ap(train(slim.network, data, o.epochs, o.seed), *held))
    table = {"uncut": mean_ap(model, *held), "slim": slim.score}
    if o.compare:
        even = search.channels.slice(model, search.channels.uniform_plan(flops=o.flops))
        for name, network in {"uniformly narrow": even, "uncut, trained on": copy.deepcopy(model)}.items():
            table[name] = mean_ap(train(network, data, o.rounds + o.epochs, o.seed), *held)
    print(f"FLOPs {slim.cost.flops / search.channels.cost().flops:.3f}, mAP", table, flush=True)
    slim.save(o.out / "slim")
    for name, network in {"whole": model, "slim": slim.network}.items():
        print(jstc.export_onnx(layers(network), image[None], o.out / f"{name}.onnx", batch=1).outputs)
    return table


if __name__ == "__main__":
    main()
