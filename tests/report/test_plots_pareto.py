"""Accuracy against FLOPs over several budgets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jstc.report.plots.networks import draw_pareto
from jstc.summary import SweepSummary

TARGET = {"flops": 10_000_000, "params": 270_000, "accuracy": 0.99}


def point(share: float, accuracy: Any) -> dict[str, Any]:
    return {"label": f"flops{share}", "flops": int(10e6 * share), "params": 1, "accuracy": accuracy}


def pareto(points: list[Any], path: Path, *, target: Any, images: int | None = None) -> str:
    tested = {"finetune": {"test_images": images}}
    rows = [{"label": one["label"], "slim": {k: one[k] for k in TARGET}} | tested for one in points]
    whole = {"schema": 1, "model": "m", "dataset": "d", "target": target or {}, "sweep": rows}
    drawing = draw_pareto(SweepSummary.model_validate(whole))
    if drawing is not None:
        path.write_text(drawing.svg)
    return drawing.caption if drawing else ""


POINTS = [point(0.7, 0.9883), point(0.35, 0.9716), point(0.5, 0.9866)]


def test_every_budget_and_the_target_have_their_number(tmp_path: Path) -> None:
    pareto(POINTS, tmp_path / "p.svg", target=TARGET)
    text = (tmp_path / "p.svg").read_text()
    for label in ("flops0.7: 98.83 %", "flops0.5: 98.66 %", "flops0.35: 97.16 %", "target: 99.00 %"):
        assert f">{label}<" in text
    assert "<title>Accuracy against FLOPs: 97.16 % at 3.50 M FLOPs, 98.66 % at" in text


def test_the_order_of_the_points_does_not_matter(tmp_path: Path) -> None:
    pareto(POINTS, tmp_path / "a.svg", target=None)
    pareto(POINTS[::-1], tmp_path / "b.svg", target=None)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "target" not in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    ("points", "target"),
    [
        ([], TARGET),
        (POINTS[:1], None),
        (POINTS[:1], {**TARGET, "accuracy": None}),
        ([point(0.5, None), point(0.3, None)], TARGET),
    ],
)
def test_fewer_than_two_are_no_picture(tmp_path: Path, points: list[Any], target: Any) -> None:
    path = tmp_path / "p.svg"
    pareto(points, path, target=target)
    assert not path.exists()


def heights(path: Path) -> list[float]:
    """Numbers along the axis of accuracies."""
    return [float(text) for text in re.findall(r">(\d\d(?:\.\d+)?)</text>", path.read_text())]


def test_the_sampling_error_is_drawn_and_the_axis_holds_it(tmp_path: Path) -> None:
    """97.0 against 96.8 % on 599 images is no difference to be seen."""
    path, points = tmp_path / "p.svg", [point(0.5, 0.97), point(0.3, 0.968)]
    assert "intervals" not in pareto(points, path, target=None)
    assert max(heights(path)) - min(heights(path)) < 0.5
    told = pareto(points, path, target=None, images=599)
    assert told.endswith("Thin bars are the 95 % intervals of accuracies on 599 images.")
    assert max(heights(path)) - min(heights(path)) > 2  # 95.1 to 98.1 %
    assert path.read_text().count('style="fill: none; stroke: #59636e; stroke-linecap: round"') == 2


def test_equal_accuracies_are_drawn_too(tmp_path: Path) -> None:
    pareto([point(0.5, 0.9), point(0.3, 0.9)], tmp_path / "p.svg", target={**TARGET, "accuracy": 0.9})
    assert "flops0.3: 90.00 %" in (tmp_path / "p.svg").read_text()


def test_labels_stand_apart(tmp_path: Path) -> None:
    shares = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    accuracies = (0.7611, 0.7615, 0.7608, 0.759, 0.754, 0.741, 0.715)
    pareto([point(*pair) for pair in zip(shares, accuracies, strict=True)], tmp_path / "p.svg", target=TARGET)
    text = (tmp_path / "p.svg").read_text()
    found = re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>(flops[^<]+)<', text)
    places = {label: (float(x), float(y)) for x, y, label in found}
    assert len(places) == 7
    for one, (x, y) in places.items():
        for other, (other_x, other_y) in places.items():
            assert one == other or abs(y - other_y) > 8 or abs(x - other_x) > 20, (one, other)
