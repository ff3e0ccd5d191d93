"""Wrong input: one short message on stderr, nothing on stdout, the documented exit code, no traceback."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest

from jstc.errors import GateError, Interrupted, StageError
from jstc.runs import commands

DIGITS = ["search", "resnet20", "--dataset", "digits", "--flops", "0.5", "--device", "cpu"]
Usage = namedtuple("Usage", "total used free")


def search(**changes):
    words = {"model": "resnet20", "--dataset": "digits", "--flops": "0.5", **changes}
    model = words.pop("model")
    return ["search", model, *(word for pair in words.items() for word in pair if pair[1] is not None)]


WRONG = {
    "unknown model": (
        search(model="resnet21"),
        "error: unknown model 'resnet21'; did you mean",
    ),
    "unknown dataset": (
        search(**{"--dataset": "cifra10"}),
        "error: unknown dataset 'cifra10'; did you mean 'cifar10'",
    ),
    "no data folder": (
        search(**{"--dataset": "cifar10"}),
        "error: dataset 'cifar10' needs a data folder: --data DIR",
    ),
    "missing folder": (
        search(**{"--dataset": "cifar10", "--data": "nowhere"}),
        "error: dataset 'cifar10': nowhere does not exist",
    ),
    "unreadable image tree": (
        search(model="resnet18", **{"--dataset": "imagefolder", "--data": "."}),
        "error: dataset 'imagefolder': . has no folders; expected a folder with train/",
    ),
    "impossible budget": (
        search(**{"--flops": "0.001"}),
        "error: no sub-network meets flops 40.93 k: the smallest reachable has",
    ),
    "two lists of budgets": (
        search(**{"--flops": "0.7,0.5", "--params": "0.5,0.4"}),
        "error: flops and params are lists: one of them can be, and the other bounds then hold for each",
    ),
    "the second bound is impossible": (
        search(**{"--params": "0.001"}),
        "error: no sub-network meets params 269: the smallest reachable has",
    ),
    "no budget": (
        search(**{"--flops": None}),
        "error: no budget: a recipe needs the key flops, params or latency, "
        "`jstc search` the option --flops, --params or --latency",
    ),
    "a latency without a unit": (
        search(**{"--flops": None, "--latency": "2"}),
        "error: --latency: '2' is neither a share such as 0.5 or 50%, nor a time with its unit, such as 2ms",
    ),
    "a provider without a latency": (
        search(**{"--batch": "8"}),
        "error: --batch says where a latency is meant: give --latency as well, such as 2ms",
    ),
    "a folder for embedded data": (
        search(**{"--data": "d"}),
        "error: --data d: dataset 'digits' comes with jstc; leave it out, or take another dataset",
    ),
    "no dataset": (search(**{"--dataset": None}), "error: --dataset is missing"),
    "not a budget": (
        search(**{"--flops": "much"}),
        "error: --flops: 'much' is not a share such as 0.5 or 50%, nor a count such as 500M",
    ),
    "a budget above a share": (
        search(**{"--flops": "1.5"}),
        "error: --flops: '1.5' is neither a share, which goes up to 1, "
        "nor a count, which is a whole number such as 500M",
    ),
    "missing weights": (search(**{"--weights": "w.pt"}), "error: no weights file at w.pt"),
    "wrong setting": (
        search(**{"--set": "train.lr=fast"}),
        'error: --set train.lr: expected a number above 0, got "fast"',
    ),
    "missing recipe": (["run", "r.yaml"], "error: no recipe at r.yaml"),
    "no run": (["export"], "error: no runs under runs/; start one with `jstc run RECIPE`"),
    "not a run": (["report", "."], "error: . is not a run directory"),
    "no such run": (["slim", "runs/x"], "error: no run directory at runs/x"),
    "no such file": (["eval", "x.onnx"], "error: no file at x.onnx"),
    "formats": (["report", ".", "--json", "--markdown"], "error: give either --json or --markdown"),
    "two runs": (["bench", "a", "b"], "error: give one run directory, or several ONNX files"),
    "a run and a file": (["bench", "a", "b.onnx"], "error: give either one run directory or ONNX files"),
    "inspect": (["inspect", "resnet21"], "error: unknown model 'resnet21'; did you mean"),
    "inspect, a folder for embedded data": (
        ["inspect", "resnet20", "--dataset", "digits", "--data", "d"],
        "error: --data d: dataset 'digits' comes with jstc",
    ),
    "inspect, data alone": (["inspect", "resnet20", "--data", "d"], "give --dataset NAME as well"),
    "inspect, classes twice": (
        ["inspect", "resnet20", "--dataset", "digits", "--num-classes", "5"],
        "error: give either --num-classes or --dataset",
    ),
    "no such command": (["serach"], "No such command 'serach'"),
    "no such option": (
        ["run", "x.yaml", "--frehs"],
        "error: jstc run has no option --frehs; did you mean --fresh?",
    ),
    "no such word": (["search", "m", "--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
    "no argument": (["run"], "Missing argument 'RECIPE'"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_gets_a_message_and_exit_code_2(jstc_command, tmp_path, words, message):
    called = jstc_command(*words)
    assert message in called.err
    assert (called.code, called.out) == (2, "")
    assert "Traceback" not in called.err
    assert not (tmp_path / "runs").exists()


def test_the_smallest_reachable_budget_is_named(jstc_command):
    err = jstc_command(*search(**{"--flops": "0.001"})).err
    assert "a share of 0.01" in err
    assert "ask for that or more" in err


RECIPES = {
    "wrong key": ("trian:\n  lr: 1\n", "error: r.yaml, line 4: unknown key trian; did you mean train?"),
    "wrong type": (
        "train:\n  batch_size: two\n",
        'error: r.yaml, line 5: train.batch_size: expected a whole number above 0, got "two"',
    ),
}


def test_where_a_latency_is_meant_says_nothing_of_a_recipe_with_flops(jstc_command, tmp_path):
    (tmp_path / "r.yaml").write_text("model: resnet20\ndataset: digits\nflops: 0.5\n")
    called = jstc_command("search", "resnet20", "--recipe", "r.yaml", "--provider", "cpu")
    assert called.code == 2
    assert "--provider says where a latency is meant" in called.err


@pytest.mark.parametrize(("text", "message"), RECIPES.values(), ids=RECIPES)
def test_a_wrong_recipe_is_named_with_its_line(jstc_command, tmp_path, text, message):
    (tmp_path / "r.yaml").write_text("model: resnet20\ndataset: digits\nflops: 0.5\n" + text)
    called = jstc_command("run", "r.yaml")
    assert called.err == message + "\n"
    assert (called.code, called.out) == (2, "")


def test_a_full_disk(jstc_command, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 10**6))
    called = jstc_command(*DIGITS)
    assert called.code == 2
    assert "error: not enough disk space for runs/resnet20-digits-flops0.5" in called.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StageError("no progress"), 1, "error: no progress\n"),
        (GateError("too slow"), 3, "error: too slow\n"),
        (Interrupted("interrupted during search"), 130, "error: interrupted during search\n"),
        (
            ZeroDivisionError("by zero"),
            1,
            "error: ZeroDivisionError: by zero (--debug shows the traceback)\n",
        ),
        (OSError(28, "No space left on device", "f"), 1, "error: No space left on device: f (--debug shows"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_codes(jstc_command, monkeypatch, error, code, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(commands, "run", fail)
    called = jstc_command(*DIGITS)
    assert called.code == code
    assert message in called.err
    assert called.out == ""
    assert "Traceback" not in called.err


def test_debug_shows_the_traceback_and_only_then(jstc_command):
    called = jstc_command("inspect", "resnet21", "--debug")
    assert called.code == 2
    assert "Traceback (most recent call last)" in called.err
    assert called.err.rstrip().splitlines()[-1].startswith("error: unknown model")
    assert "Traceback" not in jstc_command("inspect", "resnet21").err
