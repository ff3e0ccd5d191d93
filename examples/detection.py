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
from torch.utils.data import DataLoader
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import jstc


def loss_of(network, batch):
    was, network.training = network.training, True  # it gives losses only then; its norms stay as they are
    try:
        return sum(network(*batch).values())
    finally:
        network.training = was


def loader_of(data, size, seed=0):
    order = torch.Generator().manual_seed(seed)
    return DataLoader(data, size, True, collate_fn=lambda b: tuple(zip(*b)), generator=order, drop_last=True)


def train(network, data, epochs, seed, rate=1e-3):
    loader, optimizer = loader_of(data, 8, seed), torch.optim.AdamW(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, epochs * len(loader))
    network.train()
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            loss_of(network, batch).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def mean_ap(network, data, annotations):
    """COCO's mAP (IoU 0.5 to 0.95), in percent."""
    rows = []
    for pixels, target in data:
        [found] = network([pixels])
        found["boxes"][:, 2:] -= found["boxes"][:, :2]
        for box, label, sure in zip(*(found[key].tolist() for key in ("boxes", "labels", "scores"))):
            rows.append({"image_id": target["id"], "category_id": label, "bbox": box, "score": sure})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        judged = COCOeval(truth, truth.loadRes(rows), "bbox") if rows else None
        for step in (judged.evaluate, judged.accumulate, judged.summarize) if rows else ():
            step()
    return 100 * float(judged.stats[0]) if rows else 0.0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true", help="train uniformly narrow and uncut ones, too")
    places = {"data": Path("scenes"), "out": Path("runs/detection"), "weights": Path("runs/ssdlite.pt")}
    numbers = {"images": 240, "side": 96, "given": 20, "candidates": 16, "rounds": 3, "epochs": 5, "seed": 0}
    for name, value in {**places, **numbers, "flops": 0.5}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    o = parser.parse_args(argv)
    scenes.write(o.data, images=o.images, side=o.side)
    data, held, annotations = scenes.boxes(o.data, "train"), scenes.boxes(o.data, "val"), o.data / "val.json"
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    model.transform.fixed_size = (o.side, o.side)
    if not o.weights.exists():  # yours have been trained before
        o.weights.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train(model, data, o.given, 0).state_dict(), o.weights)
    model.load_state_dict(torch.load(o.weights, weights_only=True))
    table = {"uncut": mean_ap(model.eval(), held, annotations)}

    batches = list(loader_of(data, 16))[:8]
    search = jstc.JointSearch(
        model, ([held[0][0]],), out=o.out / "search", flops=o.flops, rounds=o.rounds, seed=o.seed, trained=True,
        batches=batches, loss=loss_of, settings={"search.candidates": o.candidates},
    )  # fmt: skip
    while not search.done:
        round = search.ask()
        train(round.network, data, 1, o.seed + round.number)
        search.tell(round, mean_ap(round.network, held, annotations))
    for round in search.finalists():
        jstc.recalibrate(round.network, batches)
        search.tell(round, mean_ap(round.network, held, annotations))
    slim = search.finish()
    slim = replace(slim, score=mean_ap(train(slim.network, data, o.epochs, o.seed), held, annotations))
    table["slim"] = slim.score
    if o.compare:
        even = search.channels.slice(model, search.channels.uniform_plan(flops=o.flops))
        for name, network in {"uniformly narrow": even, "uncut, trained on": copy.deepcopy(model)}.items():
            table[name] = mean_ap(train(network, data, o.rounds + o.epochs, o.seed), held, annotations)
    print(f"FLOPs {slim.cost.flops / search.channels.cost().flops:.3f}, mAP", table, flush=True)
    slim.save(o.out / "slim")
    for name, network in {"whole": model, "slim": slim.network}.items():  # boxes are chosen behind the file
        raw = torch.nn.Sequential(network.backbone, Values(), network.head)
        print(jstc.export_onnx(raw, held[0][0][None] * 2 - 1, o.out / f"{name}.onnx", batch=1).outputs)
    return table


class Values(torch.nn.Module):
    def forward(self, maps):
        return list(maps.values())


if __name__ == "__main__":
    main()
