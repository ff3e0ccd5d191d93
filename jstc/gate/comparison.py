"""Two runs in, every gate and one verdict out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jstc.errors import InputError
from jstc.gate.gates import DEFAULTS, Gate, Kind, Limit, Part, Place, Side, file_gates, gone, network_gates
from jstc.gate.latency_gates import Measuring, machine_differs, measured_gates, recorded_gates
from jstc.summary import OnnxFile

__all__ = ["GateReport", "Settings", "compare", "timed_pairs"]


@dataclass(frozen=True)
class Settings:
    """Demands on the new run.

    `allow_missing`: what only the base has is shown, and no failure. `allow_different`: other models, data
    sets and target networks are compared all the same. `fail_unclear`: nor may a slowdown be possible, or
    a drop beyond its limit be within the noise. `places`: where files are timed; empty: where the runs were.
    `threads`: with how many; None: likewise.
    """

    limits: Mapping[Kind, Limit] = field(default_factory=lambda: dict(DEFAULTS))
    allow_missing: bool = False
    allow_different: bool = False
    fail_unclear: bool = False
    places: tuple[Place, ...] = ()
    threads: int | None = None

    def placed(self, place: Place) -> Place:
        """The place, with as many threads as were asked for."""
        return place if self.threads is None else replace(place, threads=self.threads)


@dataclass(frozen=True)
class GateReport:
    """Every gate on one run against another, in the order in which they are shown."""

    base: str
    new: str
    gates: tuple[Gate, ...]
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Gate, ...]:
        """The gates that say no."""
        return tuple(gate for gate in self.gates if gate.verdict == "fails")

    @property
    def verdict(self) -> Literal["ok", "fails"]:
        """Whether any gate says no."""
        return "fails" if self.failures else "ok"

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        counts = {name: sum(gate.verdict == name for gate in self.gates) for name in _ORDER}
        return {
            "schema": 1,
            "verdict": self.verdict,
            "base": self.base,
            "new": self.new,
            "counts": {name: count for name, count in counts.items() if count},
            "gates": [gate.to_dict() for gate in self.gates],
            "notes": list(self.notes),
        }


_ORDER = ("ok", "fails", "unclear", "not comparable", "new", "off")


def compare(base: Side, new: Side, *, settings: Settings, measuring: Measuring | None = None) -> GateReport:
    """Every gate on `new`. With `measuring`, files are timed; otherwise recorded speed-ups are compared.

    Raises `InputError` when the two have nothing in common that could be compared.
    """
    if not settings.allow_different:
        _require_same(base, new)
    gates: list[Gate] = []
    for label in base.parts:
        if label in new.parts:
            found = _gates(base, new, label, settings, measuring)
            gates += [replace(gate, budget=label) for gate in found]
        else:
            gates.append(gone("budget", label or "the only one", f"the base has {label or 'one budget'}"))
    gates += [Gate("budget", label, "new") for label in new.parts if label not in base.parts]
    if all(gate.verdict in ("not comparable", "new") for gate in gates):
        raise InputError(f"{base.name} and {new.name} have no figure in common: nothing was compared")
    return GateReport(base.name, new.name, tuple(_settled(gates, settings)), tuple(_notes(base, new, gates)))


def _gates(
    base: Side, new: Side, label: str, settings: Settings, measuring: Measuring | None
) -> Iterator[Gate]:
    before, after, limits = base.parts[label], new.parts[label], settings.limits
    yield from network_gates(before, after, limits)
    yield from file_gates(before, after, limits)
    if measuring is None:
        yield from recorded_gates(before, after, limits["latency"], differs=_not_paired(base, new))
    else:
        pairs = timed_pairs(base, new, label, settings)
        yield from measured_gates(pairs, limits["latency"], measuring)
        yield from _unpaired(before, after)


def timed_pairs(
    base: Side, new: Side, label: str, settings: Settings
) -> dict[tuple[str, Place], tuple[Path, Path]]:
    """Files that both have, and where to time them: as the settings say, where either run was, or at batch 1.

    A file for one batch size is timed at that; files for two different ones are left out.
    """
    before, after = base.parts[label], new.parts[label]
    assert base.root is not None
    assert new.root is not None
    recorded = list(before.timings) + [key for key in after.timings if key not in before.timings]
    fallback = () if recorded else (Place("cpu", 1),)
    found = {}
    for of, entry in before.files.items():
        if of not in after.files:
            continue
        timed = [place for name, place in recorded if name == of]
        if entry.preprocess and not timed:
            continue  # it takes other inputs, and can be timed only where a run has done so
        sizes = _fixed(entry, after.files[of])
        for place in (settings.places or timed or fallback) if len(sizes) < 2 else ():
            at = replace(settings.placed(place), batch=next(iter(sizes), place.batch))
            found[of, at] = (base.root / entry.file, new.root / after.files[of].file)
    return found


def _fixed(*entries: OnnxFile) -> set[int]:
    """The batch sizes that files insist on."""
    return {entry.batch for entry in entries if entry.batch is not None}


def _unpaired(before: Part, after: Part) -> Iterator[Gate]:
    """Files that take no batch size in common."""
    for of, entry in before.files.items():
        sizes = _fixed(entry, after.files[of]) if of in after.files else set()
        if len(sizes) > 1:
            reason = f"not measured: the base's file is for batch {entry.batch}, the new one for batch "
            yield Gate("latency", of, "not comparable", reason=f"{reason}{after.files[of].batch}")


def _require_same(base: Side, new: Side) -> None:
    unless = "; --allow-different compares them all the same"
    for what in ("model", "dataset"):
        before, after = getattr(base.summary, what), getattr(new.summary, what)
        if before != after:
            told = f"{before} in {base.name}, {after} in {new.name}"
            raise InputError(f"the runs have different {what}s: {told}{unless}")
    for what in ("flops", "params"):
        before, after = getattr(base.summary.target, what), getattr(new.summary.target, what)
        if before is not None and after is not None and before != after:
            told = f"{before:,.0f} {what} in {base.name}, {after:,.0f} in {new.name}"
            raise InputError(f"the runs cut different target networks: {told} (another input size?){unless}")
    if set(base.parts).isdisjoint(new.parts):
        ours, theirs = (", ".join(filter(None, run.parts)) or "one budget" for run in (base, new))
        raise InputError(
            f"the runs have no budget in common: {ours} in {base.name}, {theirs} in {new.name}; "
            "a budget of several can be named by its directory, such as RUN/flops0.5"
        )


def _not_paired(base: Side, new: Side) -> str:
    ours, theirs = base.summary, new.summary
    if (ours.model, ours.target.flops) != (theirs.model, theirs.target.flops):
        return "speed-ups against different target networks"
    return machine_differs(base, new)


def _settled(gates: list[Gate], settings: Settings) -> Iterator[Gate]:
    for gate in gates:
        if gate.verdict == "unclear" and settings.fail_unclear:
            yield replace(gate, verdict="fails", reason=f"unclear: {gate.reason}")
        elif gate.verdict == "fails" and settings.allow_missing and gate.missing:
            yield replace(gate, verdict="not comparable")
        else:
            yield gate


def _notes(base: Side, new: Side, gates: list[Gate]) -> Iterator[str]:
    before = [side.summary.references.get("given network") for side in (base, new)]
    ours, theirs = (None if one is None else one.value for one in before)
    if ours != theirs:
        told = ["no given weights" if one is None else f"a given network of {one.text}" for one in before]
        yield f"the runs began differently: {base.name} with {told[0]}, {new.name} with {told[1]}"
    # What was not there to be compared is said, too.
    kinds = {gate.kind for gate in gates}
    if "latency" not in kinds:
        yield "no gate on latency: no file was timed in both runs"
    if not kinds & {"bytes", "file"}:
        yield "no gates on files: neither run has exported any"
    if "accuracy" not in kinds:
        yield "no gate on accuracy: neither run has measured any"
    yield from _too_few_images(gates)


_COUNTED: Mapping[str, tuple[str, str]] = {
    "accuracy": ("accuracy", "the test split"),
    "top1_agreement": ("top-1 agreement", "export.parity_images"),
}


def _too_few_images(gates: list[Gate]) -> Iterator[str]:
    """What gates on counted shares cannot see: for each kind, of the one that sees least."""
    for kind, (name, whence) in _COUNTED.items():
        own = [gate for gate in gates if gate.kind == kind]
        if any(gate.verdict == "fails" and not gate.missing and gate.counted is None for gate in own):
            yield f"{name}: on how many images is not recorded, so that chance is not allowed for"
        blind = [found for gate in own if (found := _blind(gate))]
        if blind:
            least, images, limit, enough = max(blind)
            yield (
                f"{name}: on {images:,} images ({whence}) a drop of less than {100 * least:.2g} points is "
                f"not told from chance; to tell one of {100 * limit:g}, about {_rounded(enough):,} would be "
                "enough"
            )


def _blind(gate: Gate) -> tuple[float, int, float, int] | None:
    """The least drop that shows, images, the limit, and how many images would show that; None if it does."""
    if gate.counted is None or gate.limit is None:
        return None
    enough = gate.counted.enough(gate.limit)
    if enough is None or enough <= gate.counted.images:
        return None
    return gate.counted.detectable, gate.counted.images, gate.limit, enough


def _rounded(images: int) -> int:
    """Two digits, upwards."""
    size: int = 10 ** max(len(str(images)) - 2, 0)
    return -(-images // size) * size
