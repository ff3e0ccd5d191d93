"""A run directory as the stages leave it."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jstc.plan import Plan
from tests.helpers.sweep_run import write_sweep

RECIPE = "model: resnet20\ndataset: digits\nseed: 3\nbaseline: true\nbench: {provider: auto}\n"

PLAN = Plan(
    {"stem": tuple(range(8)), "layer1.0.conv1": (0, 3, 5), "head": tuple(range(32))},
    {"stem": 16, "layer1.0.conv1": 16, "head": 32},
)


def bench_row(file: str, batch: int, **figures: Any) -> dict[str, Any]:
    row = {
        "file": file, "bytes": 1_090_000, "provider": "cpu", "batch": batch, "median_ms": 1.2412,
        "p95_ms": 1.9, "images_per_second": 805.7, "speedup_vs_target": 1.0, "ratio_low": 1.0,
        "ratio_high": 1.0, "runs": 420, "verdict": "target",
    }  # fmt: skip
    return row | figures


def documents() -> dict[str, Any]:
    """Every JSON file of a finished run."""
    slim = {"median_ms": 0.85, "speedup_vs_target": 1.464, "ratio_low": 1.41, "ratio_high": 1.52,
            "verdict": "gain", "bytes": 560_000}  # fmt: skip
    none = {"median_ms": 9.9, "speedup_vs_target": 1.02, "ratio_low": 0.97, "ratio_high": 1.06,
            "verdict": "no gain", "bytes": 560_000}  # fmt: skip
    return {
        "manifest.json": {
            "command": "jstc run recipes/digits.yaml --out runs/r",
            "versions": {"torch": "2.15.0", "jstc": "0.1.0"},
            "stages": {"search": {"state": "done"}, "bench": {"state": "done"}},
        },
        "target.json": {
            "flops": 41_000_000, "params": 272_474, "accuracy_before": None,
            "groups": [
                {"name": "stem", "width": 16, "flops_share": 0.31},
                {"name": "layer1.0.conv1", "width": 16, "flops_share": 0.123},
                {"name": "head", "width": 32, "flops_share": 0.2},
            ],
            "frozen": [
                {"layer": "fc|out", "channels": 10, "reason": "the network's outputs,\nas <lambda> | told"},
            ],
            "budget": {"metric": "flops", "limit": 20_500_000, "share": 0.5},
        },
        "baseline/result.json": {"accuracy": 0.994, "epochs": 32, "seconds": 130.2},
        "search/result.json": {
            "seconds": 61.4, "rounds": 12, "settled": True, "accuracy": 0.97,
            "flops": 20_450_000, "params": 130_000, "images_seen": 14_000,
        },
        "search/plan.json": PLAN.to_dict(),
        "finetune/result.json": {"accuracy": 0.9933, "seconds": 133.0, "epochs": 20},
        "slim/result.json": {
            "flops": 20_450_000, "params": 131_500, "accuracy": 0.9933,
            "max_abs_diff_fold": 3e-7, "seconds": 1.5, "fvcore": True,
        },
        "slim/plan.json": PLAN.to_dict(),
        "export/result.json": {
            "files": [{
                "file": "model.onnx", "precision": "fp32", "accuracy": 0.9933,
                "max_abs_diff": 4.2e-6, "top1_agreement": 1.0, "bytes": 560_000, "max_abs_diff_limit": 1e-4,
            }],
            "seconds": 4.2,
        },
        "bench/bench.json": {
            "rows": [
                bench_row("target", 1), bench_row("model.onnx", 1, **slim),
                bench_row("target", 8, median_ms=10.1), bench_row("model.onnx", 8, **none),
            ],
            "seconds": 4.4,
        },
        "bench/environment.json": {
            "cpu": "Example CPU 9000", "cores": 2, "memory_gb": 25.3, "os": "Linux-6", "python": "3.11.7",
            "packages": {"onnxruntime": "1.31.1"}, "gpus": [],
            "providers": {"cpu": "usable", "cuda": "no NVIDIA driver was found"},
        },
    }  # fmt: skip


def write_run(directory: Path, contents: dict[str, Any]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "recipe.yaml").write_text(RECIPE)
    for name, document in contents.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return directory


@pytest.fixture
def contents() -> dict[str, Any]:
    return documents()


@pytest.fixture
def finished(tmp_path: Path, contents: dict[str, Any]) -> Path:
    return write_run(tmp_path / "r", contents)


@pytest.fixture
def two_budgets(tmp_path: Path, contents: dict[str, Any]) -> Path:
    """A finished run of two budgets."""
    head, shares = "model: resnet20\ndataset: digits\nseed: 3\nbaseline: true\n", (0.7, 0.5)
    limits = [{"metric": "flops", "limit": 41_000_000 * share, "share": share} for share in shares]
    target = {key: value for key, value in contents["target.json"].items() if key != "budget"}
    labelled = [{"label": f"flops{limit['share']}"} | limit for limit in limits]
    whole = {name: contents[name] for name in ("manifest.json", "baseline/result.json", "search/result.json")}
    sweep = write_run(tmp_path / "sweep", whole | {"target.json": target | {"budgets": labelled}})
    (sweep / "recipe.yaml").write_text(f"{head}flops: [0.7, 0.5]\n")
    for limit in limits:
        own = contents | {"target.json": contents["target.json"] | {"budget": limit}}
        folder = write_run(sweep / f"flops{limit['share']}", own)
        (folder / "recipe.yaml").write_text(f"{head}flops: {limit['share']}\n")
    return sweep


def search_lines(rounds: int, *, coarse: int = 2) -> list[dict[str, Any]]:
    """What a search writes: accuracy rises from 30 % to 90 %."""
    step = 0.6 / max(1, rounds - 1)
    return [
        {
            "round": index, "phase": "coarse" if index < coarse else "fine", "lr": 0.1,
            "train_accuracy": 0.25 + step * index, "accuracy": 0.3 + step * index,
            "overlap": None if index == 0 else 0.5 + 0.4 * index / rounds, "alpha_spread": 0.01 * index,
        }
        for index in range(rounds)
    ]  # fmt: skip


def finetune_lines(epochs: int) -> list[dict[str, Any]]:
    """What finetune writes."""
    return [
        {"epoch": index, "lr": 0.1 / (index + 1), "loss": 0.4, "accuracy": 0.9 + 0.09 * index / epochs}
        for index in range(epochs)
    ]


def write_histories(run: Path, rounds: int | None = 12, epochs: int | None = 20, **settings: int) -> Path:
    """Give the run histories of so many rounds and epochs; None takes the file away."""
    for stage, count, lines in (
        ("search", rounds, search_lines(rounds or 0, **settings)),
        ("finetune", epochs, finetune_lines(epochs or 0)),
    ):
        path = run / stage / "history.jsonl"
        path.unlink(missing_ok=True)
        if count is not None:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def write_lines(finished: Path) -> Callable[..., Path]:
    """`write_histories` of the finished run."""
    return functools.partial(write_histories, finished)


@pytest.fixture(scope="session")
def make_sweep() -> Callable[[Path], Path]:
    """Write a finished run of two budgets into a directory."""
    return lambda directory: write_sweep(directory, documents())


@pytest.fixture(scope="session")
def make_run() -> Callable[[Path], Path]:
    """Write a finished run with histories into a directory."""
    return lambda directory: write_histories(write_run(directory, documents()))


def _timed(file: str, provider: str, batch: int, speedup: float, **more: Any) -> dict[str, Any]:
    base = {"cpu": 1.2, "cuda": 0.31}[provider] * batch**0.9
    verdict = "gain" if speedup > 1.05 else "no gain"
    figures = {
        "provider": provider, "median_ms": base / speedup, "p95_ms": 1.2 * base / speedup, "threads": 0,
        "images_per_second": 1000 * batch * speedup / base, "speedup_vs_target": speedup,
        "ratio_low": 0.95 * speedup, "ratio_high": 1.07 * speedup, "verdict": verdict,
        "ideal_share": speedup / 2.0, "peak_memory_mb": 40.0 + batch / speedup, "io": "host",
    }  # fmt: skip
    return bench_row(file, batch, **(figures | more))


def _profiled(file: str, scale: float) -> dict[str, Any]:
    operators = [
        {"operator": name, "nodes": nodes, "ms": scale * ms, "share": ms}
        for name, nodes, ms in (("Conv", 21, 0.7), ("Relu", 19, 0.2), ("Gemm", 1, 0.06), ("Add", 9, 0.04))
    ]
    found = {"file": file, "provider": "cpu", "batch": 1, "runs": 10, "run_ms": 1.1 * scale}
    return found | {"nodes_ms": scale, "remark": None, "operators": operators, "nodes": []}


def rich_documents() -> dict[str, Any]:
    """A finished run with every precision, two providers, a companion with preprocessing, and a profile."""
    found = documents()
    names = {"fp32": "export/model.onnx", "fp16": "export/model.fp16.onnx", "int8": "export/model.int8.onnx"}
    entry = found["export/result.json"]["files"][0]
    files = [
        entry | {"file": file, "precision": precision, "accuracy": accuracy, "max_abs_diff": difference,
                 "top1_agreement": agreement, "bytes": size}
        for (precision, file), accuracy, difference, agreement, size in zip(
            names.items(), (0.9933, 0.9931, 0.9869), (4.2e-6, 3.1e-3, 0.61), (1.0, 0.9997, 0.991),
            (560_000, 288_000, 171_000), strict=True,
        )
    ]  # fmt: skip
    companions = [
        file | {"file": file["file"].replace(".onnx", ".preprocess.onnx"), "preprocess": True}
        for file in files
    ]
    speeds = {"cpu": (1.46, 0.82, 2.31), "cuda": (1.31, 1.9, 1.02)}
    rows = []
    for provider, ratios in speeds.items():
        for batch in (1, 8, 32):
            target = {"verdict": "target", "ratio_low": 1.0, "ratio_high": 1.0, "ideal_share": None}
            rows.append(_timed("bench/target.onnx", provider, batch, 1.0, **target))
            for file, ratio in zip(names.values(), ratios, strict=True):
                rows.append(_timed(file, provider, batch, ratio * (1 + batch / 100)))
    rows[1] |= {"verdict": "unclear", "ratio_low": 0.97}
    skipped = [
        {"provider": "tensorrt", "reason": "the provider is not installed", "file": None, "batch": None}
    ]
    found["export/result.json"]["files"] = [*files, *companions]
    found["bench/bench.json"] = {"rows": rows, "skipped": skipped, "seconds": 40.0}
    profiles = [_profiled("bench/target.onnx", 1.2), _profiled("export/model.onnx", 0.82)]
    found["bench/profile.json"] = {"profiles": profiles}
    found["bench/environment.json"]["gpus"] = [{"name": "Example GPU 1", "driver": "600.1"}]
    found["bench/environment.json"]["providers"]["cuda"] = "usable"
    found["slim/result.json"]["flops_share"] = {"stem": 0.4, "layer1.0.conv1": 0.1, "head": 0.2}
    return found


RICH_RECIPE = (
    RECIPE + "export: {precisions: [fp32, fp16, int8], max_abs_diff: 1.0e-4, max_accuracy_drop: 0.5}\n"
)


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `rich_documents`, with histories and candidates; not to be changed."""
    run = write_histories(write_run(tmp_path_factory.mktemp("runs") / "rich", rich_documents()))
    (run / "recipe.yaml").write_text(RICH_RECIPE)
    for stage, figures in (("search", {"images_seen": 12 * 700, "round_of_plan": 10}),
                           ("finetune", {"images_seen": 20 * 1400})):  # fmt: skip
        path = run / stage / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | figures))
    return write_candidates(run)


# --- plans judged without training ------------------------------------------------------------------------

PARTS = (
    ("evenly narrow, by norms", 2.52, 0.339, 136_000),
    ("channel weights", 2.41, 0.36, 136_000),
    ("starting profile", 2.24, 0.42, 91_000),
    ("policy, coarse", 2.19, 0.441, 80_000),
    ("policy, fine", 2.15, 0.461, 73_000),
    ("best of the candidates", 2.152, 0.461, 71_900),
)
KEYS = ("part", "loss", "accuracy", "params")


def candidate_lines(widths: Sequence[int], *, budget: str = "flops0.5", generations: int = 10) -> list[Any]:
    """What a search over widths writes: losses fall from 2.6 to 2.15, every 20th plan is hopeless."""
    chance = random.Random(0)
    found = []
    for number in range(16 * generations):
        generation = number // 16
        part = generation / max(1, generations - 1)
        shift = chance.gauss(0, 0.12 - 0.08 * part)
        loss = 2.52 - 0.35 * part + abs(shift) * 2
        counts = [
            max(1, min(width, round(width * (0.5 + 0.3 * part * (0.5 - place / len(widths)) + shift / 2))))
            for place, width in enumerate(widths)
        ]
        early = number % 20 == 7
        found.append({
            "candidate": number, "generation": generation, "budget": budget,
            "phase": "coarse" if 2 * generation < generations else "fine", "sigma": 0.3 - 0.2 * part,
            "counts": counts, "flops": 20_000_000, "params": 130_000, "loss": None if early else loss,
            "accuracy": None if early else 0.8 - 0.2 * loss, "images": 500 if early else 2000,
            "seconds": 0.28,
        })  # fmt: skip
    return found


def write_candidates(run: Path, *, budgets: Sequence[str] = ("flops0.5",), parts: Any = PARTS) -> Path:
    """Give the run at `run`, whose own budget is the last, plans that were judged without training."""
    widths = [group["width"] for group in json.loads((run / "target.json").read_text())["groups"]]
    lines = [line for budget in budgets for line in candidate_lines(widths, budget=budget)]
    (run / "search/candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = run / "search/result.json"
    figures = {
        "candidates": {"judged": 160, "seconds": 44.2, "images": 308_000},
        "contributions": [dict(zip(KEYS, one, strict=True)) for one in parts],
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | figures))
    return run
