"""What was found of networks beyond classifiers, as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["document", "verdict"]

Found = Mapping[str, Any]
_HEAD = """\
# Networks beyond classifiers

*Written by `benchmarks/beyond`. [Conclusions](index.md).*

Segmentation, detection, video, optical flow, texts, sounds, images made larger or made up. Each network has
random weights, and goes in a process of its own (8 GiB, a limit of time, one thread) through

- **analysed**: the whole network, with its own loss (`also=`) and, where the name says "predictions" or the
  package returns more than anybody needs, what a user picks of its results (`outputs=`); its seconds;
- **at most**: how much of its FLOPs and of its parameters can be cut at most, every group at one channel;
- **inexact**: how many of its groups jstc says not to be the same cut as masked (a norm goes over the
  channels, a factor hangs on their number), of how many;
- **sliced - masked**: the largest difference of any result between the network cut to a random plan of half
  the FLOPs (or, out of reach, the smallest share and a hundredth) and the one whose weights are zero there,
  relative to that result's largest value, in float64, below 1e-9; inexact groups stay whole for this, and
  detectors whose results are picked among equals are compared at their heads;
- **trains**: a step of training of the cut network, with its own loss and finite gradients;
- **fvcore**: FLOPs and parameters of the cut network as fvcore counts them are those of the cost model;
  detectors of two stages look at equally many boxes before and after the cut, but what Mask R-CNN and
  Keypoint R-CNN paste into the image grows with the sizes of boxes, which are others after it;
- **ONNX - torch**: `jstc.export_onnx` of the cut network, the number of results, and the largest difference
  relative to the result's largest value (or to 1 where that is larger), at most 1e-4; with any batch size, or
  with a fixed one where that is said;
- **search**: `jstc.JointSearch` of two rounds of one step each with the network's own loss: the share of the
  FLOPs of what it gives, which is never above the budget.

One multiply-add is one FLOP; a network is as large as its inputs here are, mostly 64 to 320 pixels.
"""


_TITLES = {
    "masked": "sliced equals masked", "train": "trains", "counts": "counts equal fvcore's",
    "onnx": "ONNX parity", "search": "search meets its budget",
}  # fmt: skip


def verdict(found: Found) -> str:
    """One line about what was just found."""
    if "skipped" in found:
        return str(found["skipped"])
    failures = found["failures"]
    if not failures:
        return f"passed in {found['seconds']} s"
    return "; ".join(f"{stage}: {problem}" for stage, problem in failures.items())


def document(here: Found, known: Mapping[str, Found], order: Mapping[str, Sequence[str]]) -> str:
    """The whole page; `order` has the families and their networks."""
    parts = [_HEAD, _summary(known, order), *_environment(here)]
    for family, names in order.items():
        members = {name: known[name] for name in names if name in known}
        if members:
            title = family[0].upper() + family[1:] if family == "of our own" else family
            parts += [f"## {title}\n", *_members(members)]
    return "\n".join(parts)


def _summary(known: Mapping[str, Found], order: Mapping[str, Sequence[str]]) -> str:
    found = [each for each in known.values() if "skipped" not in each]
    passed = [each for each in found if not each["failures"]]
    others = {
        "left out": len(known) - len(found),
        "not run yet": sum(name not in known for names in order.values() for name in names),
    }
    lines = [f"**{len(passed)} of {len(found)} networks pass every check that was made of them.**"]
    made = {
        "analysed": [each for each in found if "analyse_seconds" in each or "analyse" in each["failures"]]
    }
    made |= {title: [each for each in found if _was_made(each, stage)] for stage, title in _TITLES.items()}
    stages = {"analysed": "analyse", **{title: stage for stage, title in _TITLES.items()}}
    counts = [
        f"{title} {sum(stages[title] not in each['failures'] for each in those)} of {len(those)}"
        for title, those in made.items()
    ]
    lines.append(f"By check: {', '.join(counts)}.")
    lines += [f"Networks {what}: {number}." for what, number in others.items() if number]
    return "\n".join(lines) + "\n"


def _was_made(found: Found, stage: str) -> bool:
    """Whether a check said anything: where nothing could be compared, it did not."""
    shown = {"masked": "apart", "onnx": "relative"}.get(stage)
    if stage in found["failures"] or shown is None:
        return stage in found["checked"]
    return shown in found.get(stage, {})


def _environment(here: Found) -> list[str]:
    if not here:
        return []
    machine = here["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [
        f"Measured on {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; "
        f"Python {machine['python']}, {versions}.\n",
        "```",
        here["command"],
        "```\n",
    ]


def _members(members: Mapping[str, Found]) -> list[str]:
    checked = {name: found for name, found in members.items() if "skipped" not in found}
    left = [f"- {name}: {found['skipped']}" for name, found in members.items() if "skipped" in found]
    notes = [f"- {name}, {stage}: {text}" for name, found in checked.items() for stage, text in _notes(found)]
    parts = [_table(checked)] if checked else []
    if notes:
        parts += ["What fails, and what is to be known:\n", *notes, ""]
    return [*parts, *left, ""] if left else parts


def _notes(found: Found) -> list[tuple[str, str]]:
    notes = list(found["failures"].items())
    if found.get("part"):
        notes.append(("part", f"cut and counted is `{found['part']}` alone"))
    if found.get("with_loss") is False:
        notes.append(("loss", "analysed without it"))
    for stage in ("onnx", "masked"):
        note = found.get(stage, {}).get("note")
        if note and stage not in found["failures"]:
            notes.append((stage, note))
    if found.get("unknown"):
        notes.append(("operations without a rule", ", ".join(found["unknown"])))
    return [(stage, text.replace("|", "/").replace("\n", " ")) for stage, text in notes]


_COLUMNS: dict[str, Callable[[str, Found], str]] = {
    "network": lambda name, _: name,
    "MFLOPs": lambda _, f: f"{f['flops'] / 1e6:,.0f}",
    "M params": lambda _, f: f"{f['params'] / 1e6:.3g}",
    "analysed, s": lambda _, f: f"{f['analyse_seconds']:.1f}",
    "at most: FLOPs": lambda _, f: f"{f['most_flops']:.1%}",
    "params": lambda _, f: f"{f['most_params']:.1%}",
    "inexact": lambda _, f: f"{f['inexact']} of {f['groups']}",
    "sliced - masked": lambda _, f: _unless(f, "masked", lambda: f"{f['masked']['apart']:.0e}"),
    "trains": lambda _, f: _unless(f, "train", lambda: "yes" if f["train"] else "-"),
    "fvcore": lambda _, f: _unless(f, "counts", lambda: "equal" if f["counts"] else "-"),
    "ONNX - torch": lambda _, f: _unless(f, "onnx", lambda: _onnx(f["onnx"])),
    "search": lambda _, f: _unless(f, "search", lambda: f"{f['search']['shares'][-1]:.1%}"),
}


def _unless(found: Found, stage: str, text: Callable[[], str]) -> str:
    return "**fails**" if stage in found["failures"] else text()


def _onnx(found: Found) -> str:
    if "relative" not in found:
        return "the whole neither"
    fixed = ", fixed" if found["batch"] == "fixed" else ""
    return f"{found['relative']:.0e} of {found['outputs']}{fixed}"


def _table(networks: Mapping[str, Found]) -> str:
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for name, found in networks.items():
        cells = []
        for cell in _COLUMNS.values():
            try:
                cells.append(cell(name, found))
            except (KeyError, IndexError):  # not measured, because something before it failed
                cells.append("-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
