"""The exception tree, its exit codes, and near names."""

from __future__ import annotations

import pickle
import re

import pytest

from jstc import errors
from jstc.errors import DivergedError, InputError, JstcError, UnknownNameError


def test_the_tree_in_the_docstring_is_the_tree():
    drawn, parents = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^ {4}([|` -]*)(\w+Error|Interrupted)\b(?: +exit code (\d+))?", line)
        if found:
            depth = len(found[1]) // 4
            parents[depth] = found[2]
            drawn[found[2]] = (parents.get(depth - 1), found[3])
    real = {name: getattr(errors, name) for name in CLASSES}
    assert drawn.keys() == real.keys()
    for name, (parent, code) in drawn.items():
        assert real[name].__base__ is (Exception if parent is None else real[parent])
        assert code is None or real[name].exit_code == int(code)


CLASSES = [name for name in errors.__all__ if name[0].isupper()]


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_ours_and_has_a_code_and_a_text(name):
    kind = getattr(errors, name)
    assert issubclass(kind, JstcError) and kind.__doc__
    assert kind.exit_code in (1, 2, 3, 130)


def test_exit_codes_follow_the_tree():
    codes = {name: getattr(errors, name).exit_code for name in CLASSES}
    assert {n for n, c in codes.items() if c == 3} == {"GateError"}
    assert {n for n, c in codes.items() if c == 130} == {"Interrupted"}
    assert {n for n, c in codes.items() if c == 1} == {
        "JstcError",
        "StageError",
        "ChannelError",
        "ParityError",
        "DivergedError",
        "DiskFullError",
        "FolderGoneError",
        "WorkerError",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet51", "unknown model 'resnet51'; did you mean 'resnet50'?"),
        ("VGG16_bm", "unknown model 'VGG16_bm'; did you mean 'vgg16_bn' or 'vgg11_bn'?"),
        ("zzz", "unknown model 'zzz'"),
    ],
)
def test_near_names_are_suggested(name, expected):
    error = UnknownNameError("model", name, ["resnet50", "vgg16_bn", "alexnet", "vgg11_bn"])
    assert str(error) == expected
    assert error.near == re.findall(r"'(\w+)'", expected)[1:]


def test_letters_in_another_order_are_near_at_any_length():
    assert errors.near_names("rl", ["lr", "model"]) == ["lr"]
    assert errors.near_names("tyni", ["tiny", "tyn"]) == ["tiny"]
    assert errors.near_names("a", ["b"] * 5) == []


def test_a_hint_follows():
    assert str(UnknownNameError("dataset", "x", [], "See `jstc datasets`.")) == (
        "unknown dataset 'x'. See `jstc datasets`."
    )


def test_a_message_is_made_of_its_fields():
    error = InputError("runs/a; b is a file", "name another; or delete it")
    assert str(error) == "runs/a; b is a file; name another; or delete it"
    assert (error.problem, error.advice, error.details) == (
        "runs/a; b is a file",
        "name another; or delete it",
        (),
    )
    plain = InputError("nothing at x")
    assert (str(plain), plain.problem, plain.advice) == ("nothing at x", "nothing at x", "")


def test_details_are_lines_of_their_own():
    error = InputError("other settings", "start over", details=["seed: 0 -> 1", "threads: 1 -> 2"])
    assert str(error) == "other settings:\n  seed: 0 -> 1\n  threads: 1 -> 2\nstart over"
    assert (error.problem, error.details) == ("other settings", ("seed: 0 -> 1", "threads: 1 -> 2"))
    assert str(InputError("other settings", details=["a"])) == "other settings:\n  a"


def test_the_fields_survive_the_way_between_two_processes():
    sent = InputError("a problem", "an advice", details=["a line"])
    got = pickle.loads(pickle.dumps(sent))
    assert (str(got), got.problem, got.advice, got.details) == (
        str(sent),
        "a problem",
        "an advice",
        ("a line",),
    )


def test_a_divergence_says_what_was_tried_before_what_to_try():
    error = DivergedError("before step 3", lr=0.1, tried="so it did twice")
    assert error.problem == "training diverged before step 3; so it did twice"
    assert str(error) == f"{error.problem}; {error.advice}"
    assert error.advice.startswith("try a lower train.lr (now 0.1)")


def test_a_divergence_names_the_precision_and_a_wider_one():
    low = DivergedError("before step 3", lr=0.1, precision="bfloat16")
    assert low.problem == "training in bfloat16 diverged before step 3"
    assert low.advice.endswith("or train.precision=float32")
    wide = DivergedError("before step 3", lr=0.1, precision="float32")
    assert wide.problem == "training in float32 diverged before step 3"
    assert "train.precision" not in wide.advice
