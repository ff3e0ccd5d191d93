"""A small data set in COCO form, for examples that run anywhere: round signs with digits, on photographs.

    python examples/scenes.py scenes --images 240 --side 96 --classes 4

The digits are handwritten and the photographs real, both out of scikit-learn; that one is pasted on the other
is synthetic. Training and validation share no digit, and no part of a photograph. Beside `train.json` and
`val.json` there are YOLO's `data.yaml` and `labels/`. Your own data takes its place with such files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits, load_sample_images
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.functional import pil_to_tensor


def write(folder: Path, *, images: int = 240, side: int = 96, classes: int = 4, seed: int = 0) -> Path:
    """Write the data set unless it is there: `images` for training, half as many for validation."""
    if (folder / "data.yaml").exists():
        return folder
    digits = load_digits(n_class=classes)
    photographs = load_sample_images().images
    for split, number in {"train": images, "val": -(-images // 2)}.items():
        rng = np.random.default_rng([seed, split == "val"])
        own = np.flatnonzero((np.arange(len(digits.target)) % 4 == 0) == (split == "val"))
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        categories = [{"id": k + 1, "name": str(k)} for k in range(classes)]
        found: dict = {"images": [], "annotations": [], "categories": categories}
        for image in range(number):
            scene, signs = _scene(rng, photographs, digits, own, side, right=split == "val")
            name = f"images/{split}/{image:04}.png"
            scene.save(folder / name)
            found["images"].append({"id": image, "file_name": name, "width": side, "height": side})
            rows = []
            for label, x, y, r in signs:
                angles = [k * math.pi / 12 for k in range(24)]
                corners = [(x + r * math.cos(a), y + r * math.sin(a)) for a in angles]
                found["annotations"].append({
                    "id": len(found["annotations"]) + 1, "image_id": image, "category_id": label + 1,
                    "bbox": [x - r, y - r, 2 * r, 2 * r], "area": math.pi * r * r, "iscrowd": 0,
                    "segmentation": [[round(v, 2) for corner in corners for v in corner]],
                })  # fmt: skip
                rows.append(" ".join([str(label), *(f"{v / side:.5f}" for v in (x, y, 2 * r, 2 * r))]))
            (folder / "labels" / split / f"{image:04}.txt").write_text("\n".join(rows) + "\n")
        (folder / f"{split}.json").write_text(json.dumps(found))
    names = "".join(f"  {k}: '{k}'\n" for k in range(classes))
    text = f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}"
    (folder / "data.yaml").write_text(text)
    return folder


def _scene(rng, photographs, digits, own, side, *, right):
    photograph = Image.fromarray(photographs[rng.integers(len(photographs))])
    half, height = photograph.width // 2, photograph.height
    size = int(rng.integers(height // 4, height // 2))
    x, y = half * right + rng.integers(half - size), rng.integers(height - size)
    scene = photograph.crop((x, y, x + size, y + size)).resize((side, side))
    signs: list[tuple[int, int, int, int]] = []
    for _ in range(int(rng.integers(1, 4))):
        r = int(rng.integers(side // 8, side // 4))
        x, y = (int(v) for v in rng.integers(r, side - r, size=2))
        if any(math.hypot(x - a, y - b) < r + c for _, a, b, c in signs):
            continue
        which = rng.choice(own)
        signs.append((int(digits.target[which]), x, y, r))
        ink, plate = rng.integers(0, 100, 3), rng.integers(155, 256, 3)
        ink, plate = (ink, plate) if rng.random() < 0.5 else (plate, ink)
        ImageDraw.Draw(scene).ellipse((x - r, y - r, x + r, y + r), fill=tuple(map(int, plate)))
        width = int(r * 1.3)
        stroke = Image.fromarray((digits.images[which] * 15.9).astype(np.uint8))
        stroke = stroke.resize((width, width), Image.Resampling.BICUBIC)
        scene.paste(tuple(map(int, ink)), (x - width // 2, y - width // 2), stroke)
    return scene, signs


def masks(folder: Path, split: str) -> TensorDataset:
    """Images [N, 3, H, W] and masks [N, H, W] of classes, 0 where there is none, out of COCO's polygons."""
    coco = json.loads((folder / f"{split}.json").read_text())
    drawn = {image["id"]: Image.new("L", (image["width"], image["height"])) for image in coco["images"]}
    for one in coco["annotations"]:
        for polygon in one["segmentation"]:
            ImageDraw.Draw(drawn[one["image_id"]]).polygon(polygon, fill=one["category_id"])
    images = [pil_to_tensor(Image.open(folder / image["file_name"])) / 127.5 - 1 for image in coco["images"]]
    classes = [pil_to_tensor(mask)[0].long() for mask in drawn.values()]
    return TensorDataset(torch.stack(images), torch.stack(classes))


def boxes(folder: Path, split: str) -> list:
    """An image [3, H, W] in 0..1 with torchvision's target of it, for each image, out of COCO's boxes."""
    coco = json.loads((folder / f"{split}.json").read_text())
    found = []
    for image in coco["images"]:
        own = [one for one in coco["annotations"] if one["image_id"] == image["id"]]
        corners = torch.tensor([one["bbox"] for one in own], dtype=torch.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = torch.tensor([one["category_id"] for one in own], dtype=torch.int64)
        pixels = pil_to_tensor(Image.open(folder / image["file_name"])) / 255
        found.append((pixels, {"boxes": corners, "labels": labels, "id": image["id"]}))
    return found


def loader(data: list, size: int, seed: int = 0) -> DataLoader:
    """Batches of a tuple of images and one of targets, as torchvision's detectors take them."""
    order = torch.Generator().manual_seed(seed)
    together = lambda batch: tuple(zip(*batch, strict=True))  # noqa: E731
    return DataLoader(data, size, shuffle=True, collate_fn=together, generator=order, drop_last=True)


def mean_ap(found: list, data: list, truth: Path) -> float:
    """COCO's mAP (IoU 0.5 to 0.95), in percent, of what a detector found in the images of `boxes`."""
    from pycocotools.coco import COCO  # which only the example of detection needs
    from pycocotools.cocoeval import COCOeval

    rows = []
    for one, (_, target) in zip(found, data, strict=True):
        corners, ones = one["boxes"], torch.ones_like(one["scores"])
        parts = (
            corners[:, :2],
            corners[:, 2:] - corners[:, :2],
            one["scores"][:, None],
            one["labels"][:, None],
        )
        rows.append(torch.cat([target["id"] * ones[:, None], *parts], 1))
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(truth)
        judged = COCOeval(annotated, annotated.loadRes(torch.cat(rows).double().numpy()), "bbox")
        for step in (judged.evaluate, judged.accumulate, judged.summarize):
            step()
    return 100 * float(judged.stats[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, value in {"images": 240, "side": 96, "classes": 4, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = vars(parser.parse_args())
    print(write(options.pop("folder"), **options))
