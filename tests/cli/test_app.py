"""Commands and flags by name, help that is quick, and results that are pure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

import jstc
from tests.helpers.children import environment

ENVIRONMENT = environment()
WORK = {"--allow-pickle", "--fresh", "--json", "--quiet", "-q", "--verbose", "-v", "--debug"}
START = {"--out", "-o", "--set", "--data", "--weights", "--seed", "--device"}
# Users script against these: a name may be added here, none may go.
FLAGS = {
    "init": {"--out", "--debug"},
    "run": WORK | START | {"--model", "--dry-run"},
    "search": WORK
    | START
    | {"--dataset", "--flops", "--params", "--recipe", "--cifar"}
    | {"--latency", "--provider", "--batch", "--threads", "--dry-run"},
    "finetune": WORK | {"--model", "--set"},
    "slim": WORK | {"--model", "--set"},
    "export": WORK
    | {"--model"}
    | {"--precision", "--max-accuracy-drop", "--batch", "--opset", "--fp16-io", "--set"}
    | {"--with-preprocess", "--without-preprocess"},
    "bench": WORK
    | {"--model"}
    | {"--provider", "--batch", "--threads", "--seconds", "--set"}
    | {f"--{no}{what}" for no in ("", "no-") for what in ("memory", "profile", "trace")},
    "eval": {"--dataset", "--data", "--provider", "--threads", "--limit"}
    | {"--quiet", "-q", "--json", "--debug"},
    "report": {"--json", "--markdown", "--html", "--out", "-o", "--debug"},
    "compare": {f"--max-{what}" for what in ("slowdown", "accuracy-drop", "agreement-drop")}
    | {f"--max-{what}-increase" for what in ("flops", "params", "bytes", "diff")}
    | {"--measure", "--no-measure", "--provider", "--batch", "--threads", "--seconds"}
    | {"--allow-missing", "--allow-different", "--fail-unclear", "--markdown", "--junit"}
    | {"--json", "--quiet", "-q", "--debug"},
    "inspect": {"--dataset", "--data", "--num-classes", "--in-channels", "--image-size", "--cifar"}
    | {"--shape", "--part"}
    | {"--ignore", "--set", "--svg", "--all", "--verbose", "-v", "--json", "--debug"},
    "models": {"--json", "--debug"},
    "datasets": {"--json", "--debug"},
    "doctor": {"--json", "--debug"},
    "schema": {"--debug"},
}


def flags_of(command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_the_list_of_commands_and_flags_is_frozen():
    import typer

    from jstc.cli.app import app

    group = typer.main.get_group(app)
    found = {name: flags_of(command) for name, command in group.commands.items()}
    found = {name: {flag for flag in flags if flag.startswith("-")} for name, flags in found.items()}
    assert {name: flags - {"--help", "-h"} for name, flags in found.items()} == FLAGS
    assert "--version" in flags_of(group)


@pytest.mark.parametrize(
    "command", [[], *([name] for name in FLAGS)], ids=lambda words: " ".join(words) or "jstc"
)
def test_every_command_explains_itself_within_80_columns(jstc_command, command):
    called = jstc_command(*command, "--help")
    assert called.code == 0
    assert "Usage: jstc" in called.out
    assert max(map(len, called.out.splitlines())) <= 80


def test_the_list_of_commands_has_whole_sentences_and_a_way_to_begin(jstc_command):
    text = jstc_command("--help").out
    listed = [line for line in text.partition("Commands:")[2].splitlines() if line.strip()]
    assert [line.split()[0] for line in listed] == list(FLAGS)
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []
    assert "jstc run quickstart" in text and "jstc init" in text


UNKNOWN = {
    # a key of the recipe, by its name or by what it is called elsewhere
    "search resnet20 --epochs 3": "--set finetune.epochs=3 or --set search.rounds=3",
    "search resnet20 --image-size=32 -q": "--set input.image_size=32",
    "search resnet20 --lr 0.1": "--set train.lr=0.1",
    "run r.yaml --flops 0.7,0.5": "--set flops=0.7,0.5",
    "run r.yaml --epochs --fresh": "--set finetune.epochs=VALUE or --set search.rounds=VALUE",
    "inspect resnet20 --min-width 8": "--set channels.min_width=8",
    # one that is an option of the command itself
    "search resnet20 --macs 0.5": "--flops",
    "search resnet20 --gpu": "--device",
    # another option, alone or after a key
    "search resnet20 --sede 3": "--seed",
    "search resnet20 --batch-size 64": "--set train.batch_size=64 or --batch",
    "bench --batch-size 8": "--batch",
    "compare a.json b.json --max-slow 5%": "--max-slowdown",
}


@pytest.mark.parametrize(("words", "meant"), UNKNOWN.items())
def test_an_unknown_option_is_answered_with_what_was_meant(jstc_command, words, meant):
    command, option = words.split()[0], next(word for word in words.split() if word.startswith("--"))
    called = jstc_command(*words.split())
    assert (called.code, called.out) == (2, "")
    option = option.partition("=")[0]
    assert called.err == f"error: jstc {command} has no option {option}; did you mean {meant}?\n"


@pytest.mark.parametrize("words", ["export --lr 3", "doctor --wheel", "bench --epochs 3"])
def test_a_key_that_the_command_cannot_set_is_not_offered(jstc_command, words):
    command, option = words.split()[:2]
    called = jstc_command(*words.split())
    expected = f"error: jstc {command} has no option {option}; `jstc {command} -h` lists its options\n"
    assert (called.code, called.err) == (2, expected)


LOADED = """
import sys
from jstc.cli import main
try:
    main(sys.argv[2:])
except SystemExit as done:
    assert not done.code
found = set(sys.argv[1].split()) & set(sys.modules)
assert not found, found
"""


def run_without(heavy: str, *words: str) -> None:
    command = [sys.executable, "-c", LOADED, heavy, *words]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(words):
    heavy = "torch torchvision numpy onnx onnxruntime yaml safetensors sklearn scipy jinja2 matplotlib"
    run_without(heavy, *words)


@pytest.mark.parametrize("word", ["models", "datasets", "schema"])
def test_lists_need_no_torch(word):
    run_without("torch torchvision onnx", word)


@pytest.mark.parametrize("words", [["inspect", "resnet20", "--cifar"], ["doctor"]], ids=" ".join)
def test_what_trains_nothing_loads_no_compiler(words):
    run_without("torch._dynamo torch._inductor sympy", *words)


def test_an_inspection_loads_nothing_of_onnx():
    run_without("onnx onnxruntime", "inspect", "resnet20", "--cifar")


def test_the_schema_of_recipes_is_printed_for_editors(jstc_command):
    called = jstc_command("schema")
    document = json.loads(called.out)
    assert (called.code, next(iter(document))) == (0, "$schema")
    assert "recency_bonus" in document["$defs"]["SearchSettings"]["properties"]


SEEN_AT_IMPORT = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("TORCH_CPP_LOG_LEVEL"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
from jstc.cli import main
main(["models"])
"""


def test_torch_is_quiet_from_its_first_line_in_several_processes():
    """Each process would say the same, and torch reads what it may say when it is loaded."""
    ranks = {"TORCHELASTIC_RUN_ID": "t", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    plain = {name: value for name, value in ENVIRONMENT.items() if name != "TORCH_CPP_LOG_LEVEL"}
    command = [sys.executable, "-c", SEEN_AT_IMPORT]
    done = subprocess.run(command, env=plain | ranks, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "ERROR"


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "jstc", "--version"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"jstc {jstc.__version__}\n"


def test_a_reader_that_goes_away_is_no_fault():
    command = f"{sys.executable} -m jstc models | head -c 1 >{os.devnull}"
    done = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    also = "Also: timm:NAME, hf:ORG/NAME, path/to/file.py:factory, package.module:factory\n"
    assert done.stderr.replace(also, "") == ""


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["models"], "name"),
        (["datasets"], "needs_root"),
        (["inspect", "resnet20"], "groups"),
        (["doctor"], "cpu"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_json_is_one_document_and_nothing_else(jstc_command, words, key):
    called = jstc_command(*words, "--json")
    document = json.loads(called.out)
    assert called.code == 0
    assert key in (document[0] if isinstance(document, list) else document)


def test_the_doctor_says_which_layers_torch_computes_wrong(jstc_command, monkeypatch):
    wrong = [{"layer": "a", "wrong": ["output"], "form": "float32"}]
    plain = {"image_size": 8, "dtype": "float32", "layers": 4}
    rows = [plain | {"model": "right_net", "wrong": []}, plain | {"model": "wrong_net", "wrong": wrong}]
    table = {"seconds": 1.5, "rows": rows}
    monkeypatch.setattr("jstc.runs.kernel_table.kernel_table", lambda: table)
    lines = jstc_command("doctor").out.splitlines()
    told = {line.split()[0]: line for line in lines if "_net" in line}
    assert told["right_net"].strip().endswith("right")
    assert "1 wrong (output): computed in float32" in told["wrong_net"]
    assert json.loads(jstc_command("doctor", "--json").out)["kernels"] == table


def test_models_and_datasets_are_listed(jstc_command):
    assert "resnet110" in jstc_command("models").out
    assert "imagefolder" in jstc_command("datasets").out


def test_inspect_names_groups_frozen_channels_and_the_smallest_budget(jstc_command):
    called = jstc_command("inspect", "resnet20")
    assert "layer1.0.conv1" in called.out
    assert "network input" in called.out
    assert re.search(r"smallest reachable --flops +0\.0\d\d\d +\d+ k\n", called.out)
    assert "40.9 M" in called.out


def test_inspect_takes_the_shape_from_a_dataset_or_from_flags(jstc_command):
    from_dataset = json.loads(jstc_command("inspect", "resnet20", "--dataset", "digits", "--json").out)
    assert (from_dataset["input"], from_dataset["num_classes"]) == ([3, 32, 32], 10)
    given = json.loads(
        jstc_command("inspect", "resnet20", "--num-classes", 7, "--image-size", 16, "--json").out
    )
    assert (given["input"], given["num_classes"]) == ([3, 16, 16], 7)
    assert given["flops"] < from_dataset["flops"]
