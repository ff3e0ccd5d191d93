"""Ultralytics' YOLO11n at half its FLOPs, by Ultralytics' own trainer.

pip install ultralytics                               # its licence is AGPL-3.0
python examples/yolo.py --out runs/yolo
jstc bench runs/yolo/whole.onnx runs/yolo/slim.onnx
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import scenes
import torch
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import DetectionModel

import jstc


def train(network, epochs, settings):
    """Ultralytics' trainer on a network of ours; returns the moving average, which it would keep."""
    trainer = DetectionTrainer(overrides={**settings, "epochs": epochs, "save": False, "val": False})
    trainer.model = network.train()
    trainer.train()
    return trainer.ema.ema


def mean_ap(network, settings):
    """mAP (IoU 0.5 to 0.95) in percent, by Ultralytics' validator, which fuses layers of what it is given."""
    judge = DetectionValidator(args={**settings, "mode": "val", "rect": False})
    judge(model=copy.deepcopy(network).eval())
    return 100 * float(judge.metrics.box.map)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    places = {"data": Path("scenes"), "out": Path("runs/yolo")}
    numbers = {"images": 240, "side": 96, "given": 10, "rounds": 4, "epochs": 6, "seed": 0}
    for name, value in {**places, **numbers, "flops": 0.5}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    o = parser.parse_args(argv)
    scenes.write(o.data, images=o.images, side=o.side)
    settings = {
        "data": str(o.data / "data.yaml"), "imgsz": o.side, "batch": 8, "workers": 0, "seed": o.seed,
        "device": "cpu", "amp": False, "plots": False, "verbose": False, "optimizer": "AdamW", "lr0": 2e-3,
        "warmup_epochs": 0, "mosaic": 0, "fliplr": 0, "model": "yolo11n.yaml", "exist_ok": True,
        "project": str(o.out.resolve()), "name": "ultralytics",
    }  # fmt: skip
    torch.manual_seed(o.seed)
    model = DetectionModel("yolo11n.yaml", nc=4, verbose=False)
    example = torch.rand(1, 3, o.side, o.side)
    search = jstc.JointSearch(
        model.eval(), example, out=o.out / "search", flops=o.flops, rounds=o.rounds, seed=o.seed,
        outputs=lambda found: found[0],  # the others, for the loss, would keep the neck from being cut
    )  # fmt: skip
    while not search.done:
        round = search.ask()
        trained = train(round.network, 1, settings)
        search.tell(round, mean_ap(trained, settings), network=trained)
    for round in search.finalists():
        search.tell(round, mean_ap(round.network, settings))
    slim = search.finish()
    slim = replace(slim, network=train(slim.network, o.epochs, settings))
    slim = replace(slim, score=mean_ap(slim.network, settings))
    whole = train(model, o.given, settings)
    table = {"uncut": mean_ap(whole, settings), "slim": slim.score}
    print(f"FLOPs {slim.cost.flops / search.channels.cost().flops:.3f}, mAP", table, flush=True)
    slim.save(o.out / "slim")
    for name, network in {"whole": whole, "slim": slim.network}.items():
        path, first = o.out / f"{name}.onnx", lambda found: found[0]
        print(jstc.export_onnx(network, example, path, batch=1, outputs=first).outputs)
    return table


if __name__ == "__main__":
    main()
