from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from jstc.data import DataInfo
from jstc.export.scoring import Score
from jstc.runs.evaluation import afterthoughts, assumptions


def _notes(images: int, limit: int | None = None, undefined: int = 0) -> list[str]:
    score = Score(images=images, right=1, right_of_five=None, undefined=undefined, seconds=1.0)
    return afterthoughts(score, 1200, limit)


def test_how_many_images_an_accuracy_is_over() -> None:
    assert _notes(1200) == _notes(1200, 5000) == []
    assert _notes(100, 100) == ["100 of the 1,200 images of the test split, spread evenly over it"]
    assert _notes(1197) == ["3 of these images cannot be read: they are left out"]
    assert len(_notes(99, 100, undefined=1)) == 3


def test_another_preprocessing_is_said_but_not_on_the_data_of_the_files_own_run() -> None:
    info = DataInfo("photos", ("a", "b"), 3, 32, 32, (0.5,) * 3, (0.5,) * 3, 37)
    to = replace(info.preprocessing, resize_side=40)
    file: Any = SimpleNamespace(
        labels=info.labels, normalisation=to, preprocessing=to, prepares=False, takes_pixels=False,
        outputs=1, gives_classes=False,
    )  # fmt: skip
    _, [note] = assumptions(file, info)
    assert "as the file says" in note
    assert "resize_side 40 instead of 37" in note
    assert assumptions(file, info, own=True) == (None, [])
