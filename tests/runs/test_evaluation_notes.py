from __future__ import annotations

from jstc.export.scoring import Score
from jstc.runs.evaluation import afterthoughts


def _notes(images: int, limit: int | None = None, undefined: int = 0) -> list[str]:
    score = Score(images=images, right=1, right_of_five=None, undefined=undefined, seconds=1.0)
    return afterthoughts(score, 1200, limit)


def test_how_many_images_an_accuracy_is_over() -> None:
    assert _notes(1200) == _notes(1200, 5000) == []
    assert _notes(100, 100) == ["100 of the 1,200 images of the test split, spread evenly over it"]
    assert _notes(1197) == ["3 of these images cannot be read: they are left out"]
    assert len(_notes(99, 100, undefined=1)) == 3
