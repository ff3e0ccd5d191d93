"""What the model card is told of a run."""

from __future__ import annotations

from jstc.core import files
from jstc.runs.stages.description import scored_images


def test_images_that_could_not_be_read_are_not_counted(tmp_path):
    assert scored_images(tmp_path, split=20) == 20
    (tmp_path / "finetune").mkdir()
    files.write_json(tmp_path / "finetune" / "result.json", {"accuracy": 0.5, "test_images": 19})
    assert scored_images(tmp_path, split=20) == 19
