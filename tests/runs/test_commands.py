"""A whole run, small: a network of the user's own on the digits at 8 pixels."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jstc
from jstc.recipe import loading
from jstc.runs import commands
from tests.helpers.children import environment

SETTINGS = [
    "baseline=true", "device=cpu", "threads=1", "input.image_size=8", "train.batch_size=64", "train.lr=0.05",
    "search.rounds=3", "search.steps_per_round=6", "search.eval_images=200", "search.importance=learned",
    "search.coarse_share=0.34",
    "finetune.epochs=2", "finetune.steps_per_epoch=6", "bench.batch_sizes=[1]", "bench.seconds=0.05",
    "bench.provider=cpu", "export.parity_images=8",
]  # fmt: skip
ENVIRONMENT = environment()


def recipe_for(network, *overrides):
    return loading.from_flags(
        {"model": network, "dataset": "digits", "flops": "0.5"}, [*SETTINGS, *overrides]
    )


@pytest.fixture(scope="module")
def finished(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return commands.run(recipe_for(network), out=path, command="jstc run x.yaml")


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "summary.json").read_text())


def test_the_directory_is_the_documented_one(finished):
    written = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert written >= {
        "recipe.yaml", "manifest.json", "summary.json", "report.md", "search/history.jsonl",
        "search/plan.json", "search/checkpoint.safetensors", "slim/model.safetensors",
        "slim/model.json",
        "export/model.onnx", "export/MODEL_CARD.md", "export/labels.txt", "export/run.py",
        "bench/bench.json", "bench/environment.json",
    }  # fmt: skip
    assert {name for name in written if name.endswith("plan.json")} == {"search/plan.json"}
    assert not [name for name in written if ".tmp-" in name]


def test_the_summary_has_the_promised_keys(summary):
    assert summary["schema"] == 1
    assert (summary["dataset"], summary["seed"]) == ("digits", 0)
    assert set(summary["budget"]) == {"metric", "limit", "share"}
    assert set(summary["target"]) >= {"flops", "params", "accuracy"}
    assert set(summary["slim"]) >= {"flops", "params", "accuracy", "max_abs_diff_fold"}
    assert set(summary["onnx"][0]) >= {
        "file", "precision", "accuracy", "max_abs_diff", "top1_agreement", "bytes",
    }  # fmt: skip
    assert set(summary["bench"][0]) >= {
        "file", "provider", "batch", "median_ms", "p95_ms", "speedup_vs_target",
    }  # fmt: skip
    assert [row["file"] for row in summary["bench"][:2]] == ["bench/target.onnx", summary["onnx"][0]["file"]]
    assert set(summary["seconds"]) >= {"search", "finetune", "slim", "export", "bench"}


def test_the_figures_are_within_their_promises(summary):
    assert 0.9 * summary["budget"]["limit"] < summary["slim"]["flops"] <= summary["budget"]["limit"]
    assert summary["slim"]["max_abs_diff_fold"] <= 1e-5
    assert summary["onnx"][0]["max_abs_diff"] <= 1e-4
    assert abs(summary["onnx"][0]["accuracy"] - summary["slim"]["accuracy"]) < 0.01
    assert summary["target"]["accuracy"] is not None
    assert all(seconds > 0 for seconds in summary["seconds"].values())


def test_the_slim_network_loads_and_counts_as_the_summary_says(finished, summary):
    network = jstc.load(finished / "slim", allow_code=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == summary["slim"]["params"]


def test_the_labels_are_beside_the_file(finished):
    assert (finished / "export" / "labels.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))
    card = (finished / "export" / "MODEL_CARD.md").read_text()
    assert "float32 [batch, 3, 8, 8]" in card


def test_the_same_run_again_touches_nothing(network, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.*") if path.suffix != ".lock"}
    commands.run(recipe_for(network), out=finished, command="jstc run x.yaml")
    changed = [path for path, at in before.items() if path.is_file() and path.stat().st_mtime_ns != at]
    assert changed == []


def test_a_search_that_was_killed_gives_the_numbers_of_one_that_was_not(network, finished, tmp_path):
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    recipe.write_text(loading.to_yaml(recipe_for(network)))
    options = ["--recipe", str(recipe), "--quiet", "--json", "--out", str(out)]
    command = [sys.executable, "-m", "jstc", "search", network, *options]
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        _wait_for(out / "search" / "checkpoint.safetensors", process)
        process.send_signal(signal.SIGKILL)
    assert not (out / "search" / "result.json").exists()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["stage"] == "search"
    assert done.stderr == ""
    for name in ("search/plan.json", "search/subnetwork.safetensors"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def _wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the run ended before it wrote its first checkpoint"
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


def test_the_same_from_python(network, tmp_path):
    import torch
    from torch.utils.data import TensorDataset

    namespace = {}
    exec(Path(network.removesuffix(":make")).read_text(), namespace)  # the class, as a user's notebook has it
    torch.manual_seed(0)
    model = namespace["Small"](4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, labels = torch.randn(160, 3, 8, 8), torch.randint(4, (160,))
    train, val = TensorDataset(images[:128], labels[:128]), TensorDataset(images[128:], labels[128:])
    settings = [text for text in SETTINGS if not text.startswith(("baseline", "input"))]
    result = jstc.search(model, train, val, flops=0.5, out=tmp_path / "r", settings=settings)
    channels = jstc.analyse(model, torch.zeros(1, 3, 8, 8))
    assert channels.cost(result.plan).flops == result.flops <= channels.cost().flops * 0.5
    assert sum(parameter.numel() for parameter in result.network.parameters()) == result.params
    assert result.network(images[:2]).shape == (2, 4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again = jstc.search(model, train, val, flops=0.5, out=tmp_path / "r", settings=settings)
    assert again.plan == result.plan


def test_data_that_is_not_a_dataset_is_refused(tmp_path):
    from torch import nn

    from jstc.errors import DataError

    with pytest.raises(DataError, match=r"train_data\[0\] is of type int; give a map-style Dataset"):
        jstc.search(nn.Conv2d(3, 4, 1), [1, 2], [3], flops=0.5, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
