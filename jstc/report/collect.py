"""A run directory, finished or not, as data: its summary, its findings, and what pictures are drawn from.

Nothing is computed again or invented: what a stage has not written is null or empty, and a finding says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from jstc.core import files
from jstc.errors import RecipeError
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.recipe.schema import Recipe
from jstc.report.findings import (
    BUDGETS,
    Finding,
    Wanted,
    common_notes,
    findings,
    images_finding,
    sweep_findings,
    told_of,
)
from jstc.report.search import Candidate, Round, read_candidates, read_rounds
from jstc.report.stage_files import (
    Json,
    known,
    number,
    pick,
    quotient,
    read_history,
    read_json,
    read_plain_recipe,
    read_plan,
    read_recipe,
    replaced_kernels,
    unreadable_images,
    unresolved,
)
from jstc.summary import SCHEMA, Summary, SweepSummary, to_document

__all__ = [
    "PARETO",
    "PICTURES",
    "Epoch",
    "OperatorTime",
    "Profile",
    "Round",
    "RunData",
    "SweepData",
    "is_sweep",
    "read_run",
    "read_sweep",
]

PICTURES = "report/pictures.json"
"""The list of the pictures of a run with one budget."""
PARETO = "report/pareto.svg"
"""The picture of a run with several."""

_STAGES = ("search", "finetune", "slim", "export", "bench")
_SHARED = ("given", "baseline", "search")
_OWN = ("finetune", "slim", "export", "bench")  # stages that every budget of several has for itself
_SLIM_KEYS = ("flops", "params", "accuracy", "max_abs_diff_fold")
_JUDGED_KEYS = ("max_abs_diff_fold_limit", "rounding", "unreached")  # that old results lack
_SCORED = ("test_images", "chance", "training_accuracy")
_ONNX_KEYS = ("file", "precision", "accuracy", "max_abs_diff", "top1_agreement", "bytes")
_BENCH_KEYS = ("file", "provider", "batch", "median_ms", "p95_ms", "speedup_vs_target")


@dataclass(frozen=True)
class Epoch:
    """An epoch of finetune."""

    accuracy: float
    lr: float


class OperatorTime(BaseModel):
    """Nodes of one kind: their time together, and its share of that of all nodes."""

    operator: str
    nodes: int
    ms: float
    share: float


class Profile(BaseModel):
    """Where the time of one file goes on one provider at one batch size, the longest first."""

    file: str
    provider: str
    batch: int
    nodes_ms: float | None = None
    remark: str | None = None
    operators: list[OperatorTime]


@dataclass(frozen=True)
class RunData:
    """A run with one budget. `rounds` and `candidates` are its own, numbered from 1 among all `num_rounds`.

    `mends`: whether what is cut from given weights is mended, as the recipe has it.
    `images_per_round` and `images_per_epoch` are None where they are not known; `checksums` are those of the
    files that leave the run.
    """

    summary: Summary
    findings: Sequence[Finding]
    rounds: Sequence[Round]
    num_rounds: int
    candidates: Sequence[Candidate]
    mends: bool
    epochs: Sequence[Epoch]
    chosen_round: int | None
    images_per_round: float | None
    images_per_epoch: float | None
    profiles: Sequence[Profile]
    checksums: Sequence[tuple[str, str]]
    recipe_text: str

    @property
    def searches_widths(self) -> bool:
        """Whether plans were judged without training."""
        return bool(self.candidates or self.summary.search.contributions)


@dataclass(frozen=True)
class SweepData:
    """A run with several budgets."""

    summary: SweepSummary
    findings: Sequence[Finding]
    recipe_text: str
    runs: Mapping[str, RunData]


# --- one budget -------------------------------------------------------------------------------------------


def read_run(run: Path) -> RunData:
    """The run at `run` with one budget, as far as its stages have come.

    Raises `RunDirectoryError` when it is no run directory, or one of its files is damaged.
    """
    recipe, manifest = read_plain_recipe(run), read_json(run, "manifest.json")
    results = {name: read_json(run, f"{name}/result.json") for name in ("given", "baseline", *_STAGES)}
    wanted = _wanted(recipe, manifest)
    summary = _checked(Summary, _document(run, recipe, manifest, results))
    found = findings(summary, wanted)
    history, epochs = (read_history(run / stage / "history.jsonl") for stage in ("search", "finetune"))
    judged = read_history(run / "search/candidates.jsonl")
    search, finetune = results["search"], results["finetune"]
    profiles = read_json(run, "bench/profile.json").get("profiles") or []
    chosen = search.get("round_of_plan")  # counted from 0
    return RunData(
        summary=summary.model_copy(update=told_of(found)),
        findings=found,
        rounds=read_rounds(history, run.name),
        num_rounds=len(history),
        candidates=read_candidates(judged, run.name, [group.width for group in summary.groups]),
        mends=bool((recipe.get("search") or {}).get("reconstruction_images")),
        epochs=[Epoch(number(line, "accuracy"), number(line, "lr")) for line in epochs],
        chosen_round=chosen + 1 if isinstance(chosen, int) else None,
        images_per_round=quotient(search.get("images_seen"), search.get("rounds")),
        images_per_epoch=quotient(finetune.get("images_seen"), finetune.get("epochs")),
        profiles=[_checked(Profile, entry) for entry in profiles],
        checksums=_checksums(manifest),
        recipe_text=files.read_text(run / "recipe.yaml", limit=loading.MAX_BYTES),
    )


def _document(run: Path, recipe: Json, manifest: Json, results: Mapping[str, Json]) -> Json:
    target, bench, plan = read_json(run, "target.json"), read_json(run, "bench/bench.json"), read_plan(run)
    latency = _latency(target, results["search"], results["slim"], bench)
    return {
        "schema": SCHEMA,
        "model": recipe.get("model"),
        "dataset": recipe.get("dataset"),
        "seed": recipe.get("seed"),
        "budget": _budget(target.get("budget") or {}, results["slim"], latency),
        "target": _target(target, results["given"], results["baseline"]),
        "slim": pick(results["slim"], *_SLIM_KEYS) | known(results["slim"], *_JUDGED_KEYS),
        "onnx": _rows(results["export"].get("files"), _ONNX_KEYS),
        "bench": _rows(bench.get("rows"), _BENCH_KEYS),
        "latency": latency,
        "skipped": bench.get("skipped") or [],
        "seconds": _seconds(results, bench),
        "search": pick(results["search"], "rounds", "settled", "accuracy", "images_seen")
        | {"shared_by": results["search"].get("shared_by") or []}
        | known(results["search"], "candidates", "contributions"),
        "finetune": pick(results["finetune"], "epochs", "accuracy", *_SCORED)
        | known(results["finetune"], "planned_epochs"),
        "baseline": pick(results["baseline"], "epochs", *_SCORED),
        "given": _given(results["given"]),
        "plan_hash": plan.hash if plan else None,
        "groups": _groups(target.get("groups") or [], plan, results["slim"].get("flops_share") or {}),
        "pictures": read_json(run, PICTURES).get("pictures") or [],
        "frozen": target.get("frozen") or [],
        "unknown_operations": target.get("unknown_operations") or {},
        "input": target.get("input") or {},
        "unreadable_images": unreadable_images(run),
        "kernels": replaced_kernels(results.values()),
        "environment": read_json(run, "bench/environment.json"),
        "versions": manifest.get("versions") or {},
        "command": manifest.get("command") or None,
        **told_of([]),
    }


def _budget(found: Json, slim: Json, latency: Json | None) -> Json:
    """The budget as it was given; of several bounds, each with what the slim network has of it."""
    timed = latency or {}
    reached = slim | {"latency": timed.get("measured_ms") or timed.get("predicted_ms")}
    bounds = [bound | {"reached": reached.get(bound["metric"])} for bound in found.get("bounds") or []]
    return pick(found, "metric", "limit", "share") | ({"bounds": bounds} if bounds else {})


def _target(target: Json, given: Json, baseline: Json) -> Json:
    found = pick(target, "flops", "params", "accuracy_before")
    if given:  # older versions have it with the target network
        found["accuracy_before"] = given.get("accuracy")
    return found | {"accuracy": baseline.get("accuracy")}


def _given(given: Json) -> Json | None:
    return pick(given, "loss", "test_images", "chance", "mismatch", "notes") if given else None


def _wanted(recipe: Json, manifest: Json) -> Wanted:
    export, provider = recipe.get("export") or {}, (recipe.get("bench") or {}).get("provider", "auto")
    stages = manifest.get("stages") or {}
    return Wanted(
        baseline=bool(recipe.get("baseline")),
        teacher=(recipe.get("finetune") or {}).get("teacher", "none") != "none",
        max_accuracy_drop=export.get("max_accuracy_drop"),
        automatic_provider="auto" in (provider if isinstance(provider, list) else [provider]),
        states={name: record.get("state", "pending") for name, record in stages.items()},
    )


def _rows(rows: Sequence[Json] | None, keys: Sequence[str]) -> list[Json]:
    # The promised keys first and always; whatever else the stage measured behind them.
    return [pick(row, *keys) | row for row in rows or []]


def _seconds(results: Mapping[str, Json], bench: Json) -> dict[str, float | None]:
    seconds = {name: results[name].get("seconds") for name in _STAGES}
    if seconds["bench"] is None:
        seconds["bench"] = bench.get("seconds")
    for name in ("given", "baseline"):
        if results[name]:
            seconds[name] = results[name].get("seconds")
    return seconds


def _latency(*parts: Json) -> Json | None:
    found = [part["latency"] for part in parts if isinstance(part.get("latency"), dict)]
    return {key: value for part in found for key, value in part.items()} or None


def _groups(groups: Sequence[Json], plan: Plan | None, slim: Mapping[str, float]) -> list[Json]:
    kept = plan.counts if plan else {}
    return [
        pick(group, "name", "width")
        | {"kept": kept.get(group["name"])}
        | pick(group, "flops_share")
        | {"flops_share_slim": slim.get(group["name"])}
        for group in groups
    ]


def _checksums(manifest: Json) -> list[tuple[str, str]]:
    stages = manifest.get("stages") or {}
    found = [(stages.get(name) or {}).get("artifacts") or {} for name in ("slim", "export")]
    return [(str(path), sha) for part in found for path, sha in part.items() if isinstance(sha, str)]


# --- several budgets --------------------------------------------------------------------------------------


def is_sweep(run: Path) -> bool:
    """Whether the run at `run` has several budgets, whatever version of jstc it is of."""
    try:
        recipe = loading.read_plain(run / "recipe.yaml")
    except RecipeError:
        return False  # what is wrong there is found by whoever reads more of it
    return any(isinstance(recipe.get(key), list) for key in BUDGETS)


def read_sweep(run: Path) -> SweepData:
    """The run at `run` with several budgets, as far as they have come; files are named from `run`.

    Raises `RunDirectoryError` when something in it is damaged.
    """
    recipe, target, manifest = (
        read_recipe(run),
        read_json(run, "target.json"),
        read_json(run, "manifest.json"),
    )
    shared = {name: read_json(run, f"{name}/result.json") for name in _SHARED}
    given, baseline, search = shared.values()
    budgets = target.get("budgets") or [unresolved(label, recipe) for label in recipe.labels]
    labels = [budget["label"] for budget in budgets]
    children = {label: read_run(run / label) for label in labels if (run / label / "recipe.yaml").is_file()}
    images = unreadable_images(run)
    documents = {label: to_document(child.summary) for label, child in children.items()}
    told = [*images_finding(images), *_notes(labels, children)]
    document = {
        "schema": SCHEMA,
        "model": recipe.model,
        "dataset": recipe.dataset,
        "seed": recipe.seed,
        "budgets": budgets,
        "target": _target(target, given, baseline),
        "sweep": [_row(budget, documents.get(budget["label"])) for budget in budgets],
        "seconds": _sweep_seconds(recipe, shared, labels, children),
        "search": pick(search, "rounds", "settled", "images_seen"),
        "baseline": pick(baseline, "epochs", *_SCORED),
        "given": _given(given),
        "frozen": target.get("frozen") or [],
        "unknown_operations": target.get("unknown_operations") or {},
        "environment": next((e for child in children.values() if (e := child.summary.environment)), {}),
        "versions": manifest.get("versions") or {},
        "command": manifest.get("command") or None,
        "picture": PARETO if (run / PARETO).is_file() else None,
        "unreadable_images": images,
        **told_of(told),
    }
    summary = _checked(SweepSummary, document)
    text = files.read_text(run / "recipe.yaml", limit=loading.MAX_BYTES)
    return SweepData(summary, [*sweep_findings(summary), *told], text, children)


def _row(budget: Json, child: Json | None) -> Json:
    label = budget["label"]
    figures = child or {"slim": pick({}, *_SLIM_KEYS)}
    row = {key: figures.get(key, []) for key in ("slim", "onnx", "bench")}
    row |= {key: figures.get(key, {}) for key in ("search", "finetune")}
    row |= {"plan_hash": figures.get("plan_hash"), "groups": figures.get("groups", [])}
    row |= {key: [one | {"file": f"{label}/{one['file']}"} for one in row[key]] for key in ("onnx", "bench")}
    latency = figures.get("latency")
    limits = _budget(budget, figures["slim"], latency)
    return {"label": label, "run": label, "budget": limits, **row, "latency": latency}


def _sweep_seconds(
    recipe: Recipe, shared: Mapping[str, Json], labels: Sequence[str], children: Mapping[str, RunData]
) -> dict[str, float | None]:
    """Seconds of the shared stages, and of all others of each budget together."""
    seconds: dict[str, float | None] = {"search": shared["search"].get("seconds")}
    if shared["given"]:
        seconds["given"] = shared["given"].get("seconds")
    if recipe.baseline:
        seconds["baseline"] = shared["baseline"].get("seconds")
    for label in labels:
        taken = children[label].summary.seconds if label in children else {}
        own = [found for name in _OWN if (found := taken.get(name)) is not None]
        seconds[label] = round(sum(own), 3) if own else None
    return seconds


def _notes(labels: Sequence[str], children: Mapping[str, RunData]) -> list[Finding]:
    waiting = ", ".join(label for label in labels if label not in children)
    if waiting:
        told = f"The search has not finished: there is no plan yet for {waiting}."
        return [Finding("Search", "warn", told, note=True)]
    rows = {label: child.summary.bench for label, child in children.items()}
    return common_notes({label: child.findings for label, child in children.items()}, rows)


def _checked(kind: type[Any], document: Json) -> Any:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        # A plain error: whoever asks for the run looks which of its files was changed.
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
