"""Two runs compared: their summaries and files found and checked, their files timed in turns. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from jstc import gate, report, summary
from jstc.core import files
from jstc.core.progress import Progress, Silent
from jstc.errors import InputError
from jstc.gate import Gate, GateReport, Measuring, Place, Settings, Side, Timed
from jstc.ort import bench, opened, sessions
from jstc.recipe.amounts import parse_batch_sizes
from jstc.recipe.schema import BenchSettings
from jstc.runs.manifest import Manifest, damage_as_input_error

__all__ = ["compare_runs", "measure", "places", "unusable"]


def compare_runs(
    base: Path,
    new: Path,
    *,
    settings: Settings,
    measured: bool | None = None,
    seconds: float = 0.25,
    progress: Progress | None = None,
) -> GateReport:
    """Every gate on `new`, a run directory or a summary.json, against `base`.

    Both may also be ONNX files of any networks, or folders of `Slim.save` with such files. `measured`:
    whether the ONNX files are timed here; None: where both sides hold them. `seconds`: how long one timing
    of two files takes. Raises `InputError`.
    """
    if (sessions.onnx_files(base) is None) != (sessions.onnx_files(new) is None):
        raise InputError("compare two runs, or two ONNX files, and not one of each")
    before = _intact(_side(base, needs_files=measured is True), lost_is_fault=True)
    after = _intact(_side(new, needs_files=measured is True), lost_is_fault=False)
    if measured is False or before.root is None or after.root is None:
        return gate.compare(before, after, settings=settings)
    progress = progress or Silent()
    labels = [label for label in before.parts if label in after.parts]
    pairs = [gate.timed_pairs(before, after, label, settings) for label in labels]
    progress.start("compare", sum(map(len, pairs)), "timing")
    how = Measuring(partial(measure, seconds=seconds), unusable, _counted(progress))
    result = gate.compare(before, after, settings=settings, measuring=how)
    progress.finish()
    return result


def places(provider: str | None, batches: Sequence[str] | None) -> tuple[Place, ...]:
    """Where to time, from what a user wrote (`cpu,cuda`; `1,8`, also one by one); nothing: nothing special.

    Raises `InputError` for what is no provider, or one that does not work here, and no batch size.
    """
    if provider is None and not batches:
        return ()
    try:
        names = BenchSettings.model_validate({"provider": provider or "cpu"}).providers
    except ValidationError:
        known = ", ".join(("auto", *sessions.PROVIDER_NAMES))
        raise InputError(f"--provider {provider}: expected one or more of {known}, with commas") from None
    sizes = parse_batch_sizes(batches or ("1",))
    return tuple(Place(sessions.resolve(name), size) for name in names for size in sizes)


def measure(first: Path, second: Path, place: Place, *, seconds: float, effort: int = 1) -> Timed:
    """Time two files in turns in sessions of their own. Raises `InputError` for one that cannot be run."""
    settings = BenchSettings(
        provider=place.provider,  # type: ignore[arg-type]  # `unusable` has checked it
        batch_sizes=(place.batch,),
        threads=place.threads,
        seconds=seconds * effort,
    )
    one, other = bench.time_all({"first": first, "second": second}, settings=settings)
    return Timed(one.median_ms, other.median_ms, 1 / other.speedup_vs_target)


def unusable(provider: str) -> str | None:
    """Why the provider cannot be used on this machine, or None."""
    for known in sessions.PROVIDER_NAMES:
        if known == provider:
            return sessions.problem(known)
    return f"this version of jstc knows no provider '{provider}'"


def _side(path: Path, *, needs_files: bool) -> Side:
    alone = sessions.onnx_files(path)
    if alone is not None:
        found = _of_files(path, alone)
    elif path.is_dir():
        with damage_as_input_error(path):
            found = _of_directory(path)
        found = _rooted(found, path)
    elif path.exists():
        found = gate.load_side(path)
        if needs_files:
            found = _rooted(found, path.parent)
    else:
        raise InputError(f"no run directory or summary.json at {path}")
    if needs_files and found.root is None:
        raise InputError(f"--measure needs ONNX files, and there are none with {path}")
    return found


def _of_directory(run: Path) -> Side:
    # From what the stages left, where they are: a summary.json may be older than a stage that ran again.
    if (run / "recipe.yaml").exists() and (run / "manifest.json").exists():
        return gate.side(report.summarise(run), name=str(run))
    if (run / "summary.json").exists():
        return gate.parse_side(summary.read(run / "summary.json"), name=str(run))
    raise InputError(f"{run} is not a run directory: it has neither a summary.json nor a recipe.yaml")


def _of_files(path: Path, found: Sequence[Path]) -> Side:
    """ONNX files without a run: of one `path` itself, or of the folder of a slim network of any kind."""
    known = [opened.open_file(str(each), each, provider="cpu", threads=1) for each in found]
    figures = {"flops": [each.facts.flops for each in known], "params": [each.facts.params for each in known]}
    costs = {name: next((value for value in values if value), None) for name, values in figures.items()}
    if path.is_dir():
        told = files.read_json(path / "model.json")
        cost = told.get("cost") if isinstance(told, dict) else None
        costs |= cost if isinstance(cost, dict) else {}
    document = {
        "schema": summary.SCHEMA,
        "model": "-",
        "dataset": "-",
        "target": {},
        "slim": {name: costs[name] for name in figures},
        "onnx": [
            # Two files that are given are to be compared, whatever they are called.
            {
                "file": each.path.name,
                "precision": "onnx" if len(known) == 1 else None,
                "bytes": each.path.stat().st_size,
                "batch": each.fixed_batch,
            }
            for each in known
        ],
    }
    root = path if path.is_dir() else path.parent
    return gate.parse_side(document, name=str(path), root=root if known else None)


def _rooted(found: Side, root: Path) -> Side:
    """Add the directory `root`, when it is one that files were exported to."""
    entries = [entry for part in found.parts.values() for entry in part.files.values()]
    held = any((root / entry.file).parent.is_dir() for entry in entries)
    return replace(found, root=root) if held else found


def _intact(side: Side, *, lost_is_fault: bool) -> Side:
    """Leave out the files that are no longer there. Raises `InputError` for one that was changed."""
    if side.root is None:
        return side
    hashes, parts = _hashes(side.root, side.parts), {}
    for label, part in side.parts.items():
        kept = {}
        for of, entry in part.files.items():
            path = files.inside(side.root, entry.file)
            if path.is_file():
                _require_unchanged(path, entry.bytes, hashes.get(path))
                kept[of] = entry
            elif lost_is_fault:
                raise InputError(f"{path} is gone, and is in the summary of {side.name}; export it again")
        parts[label] = replace(part, files=kept)
    return replace(side, parts=parts)


def _require_unchanged(path: Path, size: float | None, sha: str | None) -> None:
    found = path.stat().st_size
    if (size is not None and found != size) or (sha is not None and files.sha256(path) != sha):
        raise InputError(f"{path} is damaged: it is not the file that the run wrote; export it again")


def _hashes(root: Path, labels: Iterable[str]) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for folder in {root, *(root / label for label in labels)}:
        manifest = Manifest.load(folder)
        for record in manifest.stages.values() if manifest else ():
            found |= {folder / name: sha for name, sha in record.artifacts.items()}
    return found


def _counted(progress: Progress) -> Callable[[Gate], None]:
    seen: list[Gate] = []

    def done(found: Gate) -> None:
        seen.append(found)
        progress.update(len(seen))

    return done
