"""The table of `jstc doctor`: networks, sizes, precisions, and what is wrong."""

from __future__ import annotations

import pytest

from jstc.runs import kernel_table
from jstc.train import kernels
from jstc.train.kernels import judge


def test_every_network_has_a_row_for_each_size_and_precision(monkeypatch: pytest.MonkeyPatch):
    kernels.reset()
    monkeypatch.setattr(kernel_table, "_NETWORKS", ("resnet18",))
    monkeypatch.setattr(kernel_table, "_SIZES", (8,))
    monkeypatch.setattr("jstc.train.device.has_fast_bfloat16", lambda where: True)

    def faults(call, form, images):
        strided = form is None and call.dtype == "bfloat16" and call.stride == (2, 2)
        return {"gradient of the weight": 3.0} if strided else {}

    monkeypatch.setattr(judge, "num_images", lambda call, batch: batch)
    monkeypatch.setattr(judge, "faults", faults)
    monkeypatch.setattr("jstc.train.kernels.watch.read", lambda setting: {})
    monkeypatch.setattr("jstc.train.kernels.watch.save", lambda setting, verdicts: None)
    rows = kernel_table.kernel_table()["rows"]
    kernels.reset()
    found = {(row["model"], row["dtype"]): row for row in rows}
    assert len(rows) == len(found) == 4
    assert found["resnet18", "float32"]["layers"] == found["resnet18", "bfloat16"]["layers"] > 10
    assert found["resnet18", "float32"]["wrong"] == found["dilated convolutions", "bfloat16"]["wrong"] == []
    wrong = found["resnet18", "bfloat16"]["wrong"]
    assert {one["form"] for one in wrong} == {"float32, channels-last"}
    assert all("stride 2" in one["layer"] for one in wrong)
