"""torchvision's SSDlite (MobileNetV3) at half its FLOPs, cut as a whole: own loop, COCO boxes, mAP.

python examples/detection.py --out runs/detection     # needs pycocotools
jstc bench runs/detection/whole.onnx runs/detection/slim.onnx
"""

import argparse
import contextlib
import copy
import io
from dataclasses import replace
from pathlib import Path

import scenes
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import jstc


class Layers(torch.nn.Module):
    """A detector's layers alone, on images [N, 3, H, W] in -1..1; boxes are chosen behind them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network.head(list(self.network.backbone(images).values()))


def call(network, batch):
    return Layers(network)(torch.stack(batch[0]) * 2 - 1)  # all at once: layers are mended one by one


def loss_of(network, batch):
    was, network.training = network.training, True  # it gives losses only then; its norms stay as they are
    try:
        return sum(network(*batch).values())
    finally:
        network.training = was


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


@torch.inference_mode()
def mean_ap(network, data, truth):
    """COCO's mAP (IoU 0.5 to 0.95), in percent."""
    found = network([pixels for pixels, _ in data])
    sizes = torch.cat([one["boxes"][:, 2:] - one["boxes"][:, :2] for one in found])
    rows = torch.cat(
        [torch.full_like(one["scores"], t["id"]) for one, (_, t) in zip(found, data, strict=True)]
    )
    parts = {key: torch.cat([one[key] for one in found]) for key in ("boxes", "scores", "labels")}
    columns = (rows, parts["boxes"][:, :2], sizes, parts["scores"], parts["labels"])
    with contextlib.redirect_stdout(io.StringIO()):
        detected = (
            torch.cat([column.float().reshape(len(rows), -1) for column in columns], 1).double().numpy()
        )
        judged = COCOeval(COCO(truth), COCO(truth).loadRes(detected), "bbox")
        judged.evaluate(), judged.accumulate(), judged.summarize()
    return 100 * float(judged.stats[0])


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
    table = {"uncut": mean_ap(model.eval(), *held)}

    image, batches = data[0][0], list(scenes.loader(data, 16))[:8]
    search = jstc.JointSearch(
        model, ([image],), out=o.out / "search", flops=o.flops, rounds=o.rounds, seed=o.seed, trained=True,
        batches=batches, call=call, loss=loss_of, settings={"search.candidates": o.candidates},
    )  # fmt: skip
    while not search.done:
        round = search.ask()
        search.tell(round, mean_ap(train(round.network, data, 1, o.seed + round.number), *held))
    for round in search.finalists():
        jstc.recalibrate(round.network, batches, call=call)
        search.tell(round, mean_ap(round.network, *held))
    slim = search.finish()
    slim = replace(slim, score=mean_ap(train(slim.network, data, o.epochs, o.seed), *held))
    table["slim"] = slim.score
    if o.compare:
        even = search.channels.slice(model, search.channels.uniform_plan(flops=o.flops))
        for name, network in {"uniformly narrow": even, "uncut, trained on": copy.deepcopy(model)}.items():
            table[name] = mean_ap(train(network, data, o.rounds + o.epochs, o.seed), *held)
    print(f"FLOPs {slim.cost.flops / search.channels.cost().flops:.3f}, mAP", table, flush=True)
    slim.save(o.out / "slim")
    for name, network in {"whole": model, "slim": slim.network}.items():
        print(jstc.export_onnx(Layers(network), image[None], o.out / f"{name}.onnx", batch=1).outputs)
    return table


if __name__ == "__main__":
    main()
