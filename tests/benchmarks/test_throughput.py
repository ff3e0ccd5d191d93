"""The benchmark of throughput: whose seconds are whose, real rounds of a tiny search, peak memory."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess

import pytest
import torch

from jstc.train.loop import stream

pytest.importorskip("resource")

from benchmarks import children
from benchmarks.throughput import __main__ as throughput
from benchmarks.throughput import child, clock, loading, reconstruction, setups, tables, training
from jstc.recipe.loading import from_flags
from tests.helpers.children import environment

NETWORK = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
"""
FEW = (
    "search.recalibration_images=16",
    "search.eval_images=16",
    "search.thresholds=threshnet",
    "search.candidate_images=8",
)


@pytest.fixture
def setup(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(NETWORK, encoding="utf-8")
    return setups.Setup(model=f"{file}:net", batch=8, steps=2, repeats=1, image_size=8, workers=0,
                        device="cpu", threads=1, sets=FEW)  # fmt: skip


@pytest.fixture
def subject(setup):
    return setups.Subject.of(setup)


@pytest.fixture
def ticking():
    """A clock that goes on by one second whenever it is looked at."""
    ticks = itertools.count()
    return lambda: float(next(ticks))


def test_every_second_belongs_to_the_innermost_part(ticking):
    watch = clock.Stopwatch(now=ticking)
    with watch.part("outer"), watch.part("inner"):
        pass
    assert watch.read() == {"other": 2.0, "outer": 2.0, "inner": 1.0}
    watch.restart()
    assert watch.read() == {"other": 1.0}


def test_within_a_part_nothing_waits_for_the_device(ticking):
    waits = []
    watch = clock.Stopwatch(lambda: waits.append(1), ticking)
    with watch.part("steps"):
        before = len(waits)
        assert list(watch.over(iter([1, 2, 3]), "steps")) == [1, 2, 3]
        watch.around(int, "steps")(1)
        assert len(waits) == before
    assert len(waits) == 2


def test_the_making_of_batches_outside_of_a_step_counts_as_training(ticking):
    watch = clock.Stopwatch(now=ticking)
    assert list(watch.over(iter("ab"), "steps")) == ["a", "b"]
    assert watch.read()["steps"] == 3.0  # two batches, and to find that there are no more


def test_the_search_code_is_as_it_was_after_being_watched():
    before = [getattr(owner, name) for owner, name, _ in clock._PARTS]
    with clock.watched(clock.Stopwatch()):
        assert all(
            getattr(owner, name) is not old
            for (owner, name, _), old in zip(clock._PARTS, before, strict=True)
        )
    assert [getattr(owner, name) for owner, name, _ in clock._PARTS] == before


def test_real_rounds_are_taken_apart_completely(subject, tmp_path):
    rounds = throughput.search_rounds(subject, tmp_path, steps=2)
    assert [each.coarse for each in rounds] == [True, False]
    for each in rounds:
        assert each.images == 16
        assert each.plain_seconds > 0
        assert {"training steps", "sampling", "cutting", "mapping back", "checkpoint", "history"} <= set(
            each.seconds
        )
        assert each.total == pytest.approx(each.steps + each.judging + each.outside)
    whole = subject.channels.cost().flops
    half_as_wide = 0.3 * whole  # its few input channels stay
    assert rounds[0].flops <= half_as_wide < rounds[1].flops <= 0.5 * whole


def test_plain_training_trains_the_whole_network_on_new_batches_each_time(subject, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "stream", lambda *a, **o: asked.append(o["start"]) or stream(*a, **o))
    plain = training.Plain(subject)
    weights = [p for p in plain.network.parameters() if p.dim() > 1]  # a bias before a norm has no gradient
    before = [weight.clone() for weight in weights]
    assert plain.seconds(2) > 0 and plain.seconds(3) > 0
    assert asked == [0, 2]
    assert all(not old.equal(new) for old, new in zip(before, weights, strict=True))


def round_(coarse, *, steps, judging=0.0, cutting=0.0, plain):
    seconds = {"training steps": steps, "judging": judging, "cutting": cutting, "other": 0.0}
    return training.Round(
        coarse, images=100, flops=20 if coarse else 50, seconds=seconds, plain_seconds=plain
    )


def test_the_share_outside_of_training_leaves_judging_out():
    rounds = [round_(False, steps=9.0, judging=10.0, cutting=1.0, plain=20.0)] * 3
    found = tables.shares(rounds, steps=10, usual_steps=100)
    assert found["measured"] == pytest.approx(0.1)
    assert found["usual"] == pytest.approx(1 / 91)
    assert found["judging_of_whole"] == pytest.approx(0.5)
    assert found["seconds"] == {"cutting": 1.0, "other": 0.0}
    assert found["steps_for_3_percent"] == 36  # 1 s of 36 * 0.9 + 1


def test_rounds_are_compared_with_the_plain_training_beside_them():
    rounds = [round_(True, steps=2.0 * n, cutting=2.0 * n, plain=8.0 * n) for n in (1, 2, 3)]
    rounds += [round_(False, steps=4.0 * n, judging=4.0 * n, plain=8.0 * n) for n in (1, 2, 3)]
    lines, found = tables.search_table(rounds, target_flops=100, steps=10, usual_steps=10)
    coarse, fine = found["coarse"], found["fine"]
    assert (coarse["flops"], fine["flops"]) == pytest.approx((0.2, 0.5))
    assert coarse["training steps"]["over_plain"]["median"] == pytest.approx(4)
    assert coarse["whole rounds"]["over_plain"]["median"] == pytest.approx(2)
    assert fine["whole rounds"]["over_plain"]["median"] == pytest.approx(1)
    assert fine["without judging"]["over_plain"]["median"] == pytest.approx(2)
    assert any("coarse, training steps" in line and "4.00x" in line for line in lines)
    json.dumps(found)


def test_the_loader_is_taken_apart(subject):
    found = loading.measured(subject, steps=2, repeats=1)
    assert list(found) == ["random"]
    assert min(found["random"]["training"], found["random"]["evaluation"]) > 0
    assert set(found["random"]["ms_per_image"]) == {"augment", "normalise", "collect, to device"}
    assert len(tables.loader_table(found, workers=0)) == 3


def test_an_image_tree_has_one_in_memory_beside_it(setup, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split, label, number in itertools.product(("train", "val"), "ab", range(9)):
        path = tmp_path / "tree" / split / label / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (12, 12), (20 * number, 0, 0)).save(path)
    tree = setups.Setup(
        **vars(setup) | {"dataset": "imagefolder", "data": str(tmp_path / "tree"), "batch": 4}
    )
    subject = setups.Subject.of(tree)
    other = subject.other_data().dataset
    splits = (other.train, other.search_val, subject.dataset.train)
    one, same, another = (getattr(split, "loaders") for split in splits)  # noqa: B009
    assert one is same is not another
    found = loading.measured(subject, steps=2, repeats=1)
    assert list(found) == ["imagefolder", "random"]
    assert set(found["imagefolder"]["ms_per_image"]) == {
        "decode",
        "augment",
        "normalise",
        "collect, to device",
    }
    assert min(found["imagefolder"]["ms_per_image"].values()) > 0


def test_a_setup_reaches_another_process_unchanged(setup):
    assert setups.Setup.of_json(setup.to_json()) == setup
    assert (
        setup.usual_recipe.search.rounds
        == from_flags({"model": "m", "dataset": "d", "flops": 0.5}).search.rounds
    )


def test_memory_is_looked_at_after_the_work(setup, monkeypatch):
    done = []
    monkeypatch.setattr(child, "_exercise", lambda subject, kind, steps: done.append((kind, steps)))
    monkeypatch.setattr(child, "peak_resident", lambda: 5e6 * len(done))
    found = child.memory(setup, "search")
    assert done == [("search", 2)]
    assert (found["process"], found["gpu"]) == (5.0, None)
    assert any("search" in line and "5" in line for line in tables.memory_table({"search": found}))


@pytest.mark.parametrize("kind", ["nothing", "loader", "plain", "search"])
def test_what_memory_is_measured_of(setup, monkeypatch, kind):
    done = []
    monkeypatch.setattr(training.Searching, "round", lambda self: done.append("round"))
    monkeypatch.setattr(training.Plain, "seconds", lambda self, steps: done.append(steps))
    subject = setups.Subject.of(dataclasses.replace(setup, repeats=0))
    child._exercise(subject, kind, 2)
    assert done == {"plain": [2], "search": ["round", "round"]}.get(kind, [])


@pytest.mark.slow
def test_peak_memory_is_that_of_the_process_and_not_of_its_parent(setup):
    ballast = bytearray(600_000_000)
    command = children.command("benchmarks.throughput.child", "memory", setup.to_json(), "search")
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(), timeout=300)
    found = json.loads(done.stdout)
    held = child.peak_resident() / 1e6
    del ballast
    assert 100 < found["process"] < held
    assert found["gpu"] is None


@pytest.mark.slow
def test_two_processes_scale(setup, tmp_path):
    out = tmp_path / "result.json"
    command = children.command("benchmarks.throughput", "--model", setup.model, "--batch=8",
               "--steps=2", "--repeats=1", "--image-size=8", "--device=cpu", "--parts=scaling",
               f"--out={out}", *(f"--set={each}" for each in FEW))  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(), timeout=600)
    assert "weak" in done.stdout and "strong" in done.stdout
    found = json.loads(out.read_text())["scaling"]
    assert (found["world"], found["batches"]) == (2, {"alone": 8, "weak": 16})
    assert [each["coarse"] for each in found["rounds"]] == [True, False]


def test_the_table_of_scaling_counts_images():
    turn = {"alone": 2.0, "weak": 4.0, "strong": 1.0}
    found = {"world": 2, "steps": 5, "batches": {"alone": 8, "weak": 16}, "turns": [turn] * 3, "rounds": []}
    _, alone, weak, strong = tables.scaling_table(found)
    assert "20.0" in alone and "1.00x" in alone
    assert "20.0" in weak and "1.00x" in weak  # twice the images in twice the time
    assert "40.0" in strong and "2.00x" in strong


def test_a_cut_is_mended_beside_a_forward(setup, tmp_path, monkeypatch, capsys):
    out = tmp_path / "found.json"
    weights = tmp_path / "weights.pt"
    network = setups.Subject.of(setup).network()
    torch.save(network.state_dict(), weights)
    numbers = {"image-size": 8, "images": 48, "threads": 1, "unseen": 40, "repeats": 2}
    options = numbers | {"model": setup.model, "device": "cpu", "weights": weights, "out": out}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr("sys.argv", ["reconstruction", *arguments])
    reconstruction.main()
    found = json.loads(out.read_text())
    assert (found["images"], len(found["turns"])) == (48, 2)
    assert found["peak"] >= found["peak_before"] > 0 < found["said_memory"]
    assert all(layer["before"] < layer["after"] for layer in found["explained"].values())
    assert next(iter(found["accuracy"])) == "uncut"
    told = capsys.readouterr().out
    assert all(name in told for name in found["explained"]) and "times the forward" in told
