"""What exported files tell of themselves, and what lies beside them: MODEL_CARD.md, labels.txt, run.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jstc._version import __version__
from jstc.core import files
from jstc.core.accuracy import Accuracy, doubts
from jstc.export import card
from jstc.export.card import CardFacts
from jstc.report.accuracies import warnings as given_warnings
from jstc.runs.manifest import Manifest
from jstc.runs.workspace import StageContext

__all__ = ["describe", "facts_of", "metadata_of", "scored_images"]

_METRICS = {"flops": "FLOPs", "params": "parameters"}


def metadata_of(context: StageContext) -> dict[str, Any]:
    """What the exported files tell about themselves; see `jstc.export.encode_metadata`."""
    result = files.read_json(context.path / "slim" / "result.json")
    info = context.workspace.info
    return {
        "labels": list(info.labels),
        **info.preprocessing.metadata(),
        "flops": result["flops"],
        "params": result["params"],
        "accuracy": result["accuracy"],
        "plan_hash": context.plan.hash,
        "model": context.recipe.model,
        "dataset": context.recipe.dataset,
        "jstc_version": __version__,
    }


def describe(
    context: StageContext, *, metadata: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> None:
    """Write MODEL_CARD.md, labels.txt and run.py into the folder of the stage.

    `metadata` is what every exported file carries, decoded; `entries` are those of the stage's result, the
    plain files first.
    """
    facts = facts_of(context, metadata, entries)
    files.write_text(context.folder / "labels.txt", card.labels_text(metadata["labels"]))
    files.write_text(context.folder / "run.py", card.run_script(facts))
    files.write_text(context.folder / "MODEL_CARD.md", card.model_card(facts))


def facts_of(
    context: StageContext, metadata: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> CardFacts:
    """What the model card tells of the run."""
    settings, target = context.recipe.export, _read(context.path / "target.json")
    manifest = Manifest.load(context.path)
    baseline = _read(context.path / "baseline" / "result.json") if context.recipe.baseline else {}
    given = _read(context.path / "given" / "result.json") if context.recipe.weights is not None else {}
    slim = Accuracy.of(_read(context.path / "finetune" / "result.json") | {"accuracy": metadata["accuracy"]})
    alone = Accuracy.of(baseline)
    return CardFacts(
        metadata=metadata,
        files=entries,
        images=scored_images(context.path, split=context.workspace.dataset.test.num_images),
        budget=_budget(target.get("budget", {})),
        target={
            "flops": target.get("flops"),
            "params": target.get("params"),
            "accuracy": baseline.get("accuracy"),
            "accuracy_before": given.get("accuracy", target.get("accuracy_before")),
        },
        batch=settings.batch,
        fp16=settings.fp16_io == "float16" and any(entry["precision"] == "fp16" for entry in entries),
        made=_made(context, metadata, manifest),
        command=manifest.command if manifest else "",
        licence=settings.license,
        warnings=[*doubts(slim, alone=alone, epochs=baseline.get("epochs")), *given_warnings(given)],
    )


def _budget(budget: Mapping[str, Any]) -> str:
    if not budget:
        return "unrecorded size"
    return ", and ".join(_bound(bound) for bound in budget.get("bounds") or [budget])


def _bound(bound: Mapping[str, Any]) -> str:
    metric = _METRICS.get(bound["metric"], str(bound["metric"]))
    text = f"{bound['limit']:,.10g} {metric}"
    share = bound.get("share")
    return text if share is None else f"{text}, {100 * share:.1f} % of the target network's"


def _made(context: StageContext, metadata: Mapping[str, Any], manifest: Manifest | None) -> list[str]:
    recipe = context.recipe
    lines = [f"jstc {metadata['jstc_version']}, seed {recipe.seed}, plan {metadata['plan_hash']}"]
    searched, tuned = (_read(context.path / stage / "result.json") for stage in ("search", "finetune"))
    if "rounds" in searched and "epochs" in tuned:
        lines.append(f"{searched['rounds']} rounds of search, then {tuned['epochs']} epochs of fine-tuning")
    mended = searched.get("reconstruction")
    if mended and "accuracy_as_fitted" not in mended:  # else it was worse, and left as it was cut
        lines.append(
            f"layers fitted to the given network on {mended['images']} training images, without training"
        )
    if manifest is not None:
        versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        lines += [f"run begun {manifest.created}", f"with {versions}"]
    return lines


def scored_images(path: Path, *, split: int) -> int:
    """Images that the accuracies of the run at `path` are over: of the split, those that could be read."""
    found = _read(path / "finetune" / "result.json").get("test_images")
    return found if isinstance(found, int) else split


def _read(path: Path) -> dict[str, Any]:
    return files.read_json(path) if path.exists() else {}
