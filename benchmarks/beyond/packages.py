"""Networks of torchvision, segmentation_models_pytorch and Ultralytics, with random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.beyond.case import Case, Inputs, Make, classes, images, noise, segmentation

__all__ = ["SMP", "TORCHVISION", "ULTRALYTICS"]

# -- torchvision -----------------------------------------------------------------------------------------

_CLASSES = 21


def _torchvision(name: str, **options: Any) -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def _segments(name: str, size: int) -> Make:
    def make() -> Case:
        inputs = images(size)
        network = _torchvision(name, weights_backbone=None, num_classes=_CLASSES)
        return Case(network, inputs, segmentation(inputs, _CLASSES, 2, lambda found: found["out"]))

    return make


def _pictures(size: int) -> Inputs:
    """A list of images [3, size, size], as detectors take them."""

    def inputs(batch: int) -> tuple[list[Tensor]]:
        generator = torch.Generator().manual_seed(8)
        return ([torch.rand(3, size, size, generator=generator) for _ in range(batch)],)

    return inputs


def _boxes(size: int) -> dict[str, Tensor]:
    """Two objects in an image."""
    corners = torch.tensor([[0.06, 0.08, 0.55, 0.6], [0.2, 0.3, 0.8, 0.9]]) * size
    return {"boxes": corners, "labels": torch.tensor([1, 2])}


def _keypoints(size: int) -> dict[str, Tensor]:
    points = torch.rand(2, 17, 2, generator=torch.Generator().manual_seed(9)) * size * 0.5 + size * 0.1
    boxes = _boxes(size)
    return {
        **boxes,
        "labels": torch.ones(2, dtype=torch.long),
        "keypoints": torch.cat([points, torch.ones(2, 17, 1)], 2),
    }


def _masks(size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return {**_boxes(size), "masks": (torch.rand(2, size, size, generator=generator) > 0.5).byte()}


def _detects(
    name: str,
    size: int,
    targets: Callable[[int], dict[str, Tensor]] = _boxes,
    *,
    compared: tuple[str, ...] = (),
    **options: Any,
) -> Make:
    def make() -> Case:
        inputs = _pictures(size)

        def loss(network: nn.Module) -> Tensor:
            # Some draw which boxes they learn from; and some change what they are given.
            torch.manual_seed(0)
            found = network(*inputs(2), [targets(size) for _ in range(2)])
            return torch.stack([part.reshape(()) for part in found.values()]).sum()

        network = _torchvision(name, weights_backbone=None, **options)
        rpn: Any = getattr(network, "rpn", None)
        if rpn is not None:
            rpn.min_size = -1.0  # empty boxes, too: see `_EQUALLY_MANY`
        return Case(network, inputs, loss, part="backbone", part_inputs=images(size), compared=compared)

    return make


def _video() -> Case:
    inputs = noise(3, 8, 32, 32)
    network = _torchvision("r3d_18", num_classes=10)
    return Case(network, inputs, lambda net: F.cross_entropy(net(*inputs(2)), classes(10, 2)))


def _flow() -> Case:
    def inputs(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(8)
        return tuple(torch.rand(2, batch, 3, 128, 128, generator=generator) * 2 - 1)

    def loss(network: nn.Module) -> Tensor:
        flows = network(*inputs(1), num_flow_updates=2)
        return torch.stack([(flow - 1).abs().mean() for flow in flows]).sum()

    return Case(_torchvision("raft_small"), inputs, loss, outputs=lambda flows: flows[-1])


_SMALLER: dict[str, Any] = {"min_size": 160, "max_size": 160}
_EQUALLY_MANY: dict[str, Any] = {
    "rpn_pre_nms_top_n_test": 20,
    "rpn_nms_thresh": 1.0,
    "box_score_thresh": -1.0,
    "box_nms_thresh": 1.0,
    "box_detections_per_img": 20,
}
"""So many boxes of each level are looked at and so many returned, whatever a network thinks of them.

The work of the second stage grows with the boxes, and what random weights suppress is different after a cut.
"""
_TWO_STAGES: dict[str, Any] = {
    **_SMALLER,
    **_EQUALLY_MANY,
    "compared": ("rpn.head", "roi_heads.box_predictor"),
}

TORCHVISION: dict[str, Make] = {
    "lraspp_mobilenet_v3_large": _segments("lraspp_mobilenet_v3_large", 96),
    "deeplabv3_resnet50": _segments("deeplabv3_resnet50", 64),
    "deeplabv3_mobilenet_v3_large": _segments("deeplabv3_mobilenet_v3_large", 96),
    "fcn_resnet50": _segments("fcn_resnet50", 64),
    "ssdlite320_mobilenet_v3_large": _detects("ssdlite320_mobilenet_v3_large", 320, compared=("head",)),
    "ssd300_vgg16": _detects("ssd300_vgg16", 300),
    "retinanet_resnet50_fpn": _detects("retinanet_resnet50_fpn", 160, **_SMALLER),
    "fcos_resnet50_fpn": _detects("fcos_resnet50_fpn", 160, **_SMALLER),
    "fasterrcnn_mobilenet_v3_large_320_fpn": _detects(
        "fasterrcnn_mobilenet_v3_large_320_fpn", 160, **_TWO_STAGES
    ),
    "fasterrcnn_resnet50_fpn": _detects("fasterrcnn_resnet50_fpn", 160, **_TWO_STAGES),
    "maskrcnn_resnet50_fpn": _detects("maskrcnn_resnet50_fpn", 160, _masks, **_TWO_STAGES),
    "keypointrcnn_resnet50_fpn": _detects("keypointrcnn_resnet50_fpn", 160, _keypoints, **_TWO_STAGES),
    "r3d_18": _video,
    "raft_small": _flow,
}

# -- segmentation_models_pytorch -------------------------------------------------------------------------


def _smp(kind: str, encoder: str) -> Make:
    def make() -> Case:
        smp = importlib.import_module("segmentation_models_pytorch")
        network = getattr(smp, kind)(encoder_name=encoder, encoder_weights=None, classes=5)
        inputs = images(64)
        return Case(network, inputs, segmentation(inputs, 5, 2))

    return make


SMP: dict[str, Make] = {
    f"{kind}, {encoder}": _smp(kind, encoder)
    for kind in ("Unet", "FPN", "DeepLabV3Plus", "Segformer")
    for encoder in ("resnet18", "mobilenet_v2")
}

# -- Ultralytics -----------------------------------------------------------------------------------------


def _batch(size: int, task: str) -> dict[str, Tensor]:
    """Two images with three objects, as Ultralytics' own data loader gives them."""
    generator = torch.Generator().manual_seed(8)
    pictures = torch.rand(2, 3, size, size, generator=generator)
    if task == "classify":
        return {"img": pictures, "cls": torch.tensor([1, 2])}
    batch = {
        "img": pictures,
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
        "cls": torch.tensor([[3.0], [0.0], [7.0]]),
        "bboxes": torch.tensor([[0.4, 0.5, 0.3, 0.4], [0.5, 0.4, 0.6, 0.4], [0.6, 0.6, 0.3, 0.5]]),
    }
    if task == "segment":
        inside = torch.rand(2, size // 4, size // 4, generator=generator)
        batch |= {"masks": (inside > 0.5).float(), "sem_masks": (inside * 80).long()}
    if task == "pose":
        batch["keypoints"] = torch.rand(3, 17, 3, generator=generator)
    return batch


def _yolo(
    config: str, size: int = 64, task: str = "detect", outputs: Callable[[Any], Any] | None = None
) -> Make:
    def make() -> Case:
        ultralytics: Any = importlib.import_module("ultralytics")
        kind = ultralytics.RTDETR if config.startswith("rtdetr") else ultralytics.YOLO
        network: Any = kind(config).model
        # What its own trainer sets.
        network.args = importlib.import_module("ultralytics.cfg").get_cfg()
        network.nc = network.yaml["nc"]

        def loss(net: Any) -> Tensor:
            torch.manual_seed(0)  # RT-DETR draws noise
            net.criterion = (
                None  # made anew: it remembers sizes and devices of the network that it was made for
            )
            batch = _batch(size, task)
            batch["img"] = batch["img"].to(next(net.parameters()).device)
            total: Tensor = net.loss(batch)[0].sum()
            return total

        return Case(network, images(size), loss, outputs=outputs)

    return make


def _first(found: Any) -> Any:
    return found[0]


ULTRALYTICS: dict[str, Make] = {
    "yolov8n": _yolo("yolov8n.yaml"),
    "yolov8n, predictions": _yolo("yolov8n.yaml", outputs=_first),
    "yolo11n": _yolo("yolo11n.yaml"),
    "yolo11n, predictions": _yolo("yolo11n.yaml", outputs=_first),
    "yolo11n-seg": _yolo("yolo11n-seg.yaml", task="segment"),
    "yolo11n-pose": _yolo("yolo11n-pose.yaml", task="pose"),
    "yolo11n-cls": _yolo("yolo11n-cls.yaml", task="classify"),
    "rtdetr-l": _yolo("rtdetr-l.yaml", 128),
    "rtdetr-l, predictions": _yolo("rtdetr-l.yaml", 128, outputs=_first),
}
