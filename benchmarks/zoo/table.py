"""Results of the zoo as a Markdown document: facts from the results file, nothing else."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.zoo import names as zoo_names

__all__ = ["document", "verdict"]

Found = Mapping[str, Any]
Networks = Mapping[str, Found]

_LONGEST = 60
_HEAD = """\
# The zoo: networks of torchvision and timm

Written by `benchmarks/zoo`. Each network is built with random weights and 1000 classes, in a process of
its own, and then

- **analysed**: groups of channels, the share of the FLOPs that they can lower (coverage), the smallest share
  of the FLOPs that can be reached, and what stays whole (frozen) beside the network's own input and output,
  with the most frequent reason;
- **cut** to a random plan at half the FLOPs, or, where that is out of reach, at the smallest share and a
  hundredth;
- **run** at batch sizes 1 and 3 in float32 and float64: the output has the target network's shape and is
  finite;
- **counted** by fvcore: FLOPs and parameters equal those of the cost model exactly;
- **compared** with the masked target network in float64 (groups that some norm goes over are left whole,
  because removing is not masking there): largest difference relative to the largest output, below 1e-9;
- **exported** to ONNX, and onnxruntime compared with torch in float32: largest difference relative to the
  largest logit (or to 1 where that is larger), at most 1e-3.

One multiply-add is one FLOP. torch runs with one thread.
"""

_PEER_HEAD = """\
From a network to one at the same share of its FLOPs: jstc analyses, draws a random plan and slices;
Torch-Pruning builds its graph and prunes once with random importance, at a pruning ratio found beforehand.
Same process, same network, taking turns, one thread, medians. `benchmarks/zoo/peer.py` says what was done for
Torch-Pruning. Where a run takes more than 10 s, it is the only one.
"""


def verdict(part: str, found: Found) -> str:
    """One line about what was just found."""
    if part == "peer":
        return f"compared: {_outcome(found['peer'])}"
    failures = found["failures"]
    return (
        "; ".join(f"{k}: {v}" for k, v in failures.items()) if failures else f"passed in {found['seconds']} s"
    )


def document(environments: Iterable[Found], networks: Networks) -> str:
    """The whole Markdown document."""
    parts = [_HEAD, *_environments(environments)]
    titles = {"torchvision": "torchvision", "timm": "timm", "other": "Other networks"}
    sorted_out = _by_set(networks)
    for name, members in sorted_out.items():
        parts += [f"## {titles[name]}\n", _summary(members), _checks(members)]
    compared = {s: {n: f for n, f in m.items() if "peer" in f} for s, m in sorted_out.items()}
    if any(compared.values()):
        parts += ["## Beside Torch-Pruning\n", _PEER_HEAD]
    for name, members in compared.items():
        if members:
            parts += [f"### {titles[name]}\n", _peer_summary(members), _peers(members)]
    return "\n".join(parts)


def _by_set(networks: Networks) -> dict[str, dict[str, Found]]:
    found: dict[str, dict[str, Found]] = {}
    listed = set(zoo_names.names_of("torchvision"))
    for name in sorted(networks):
        kind = "timm" if name.startswith("timm:") else "torchvision" if name in listed else "other"
        found.setdefault(kind, {})[name] = networks[name]
    return {kind: found[kind] for kind in ("torchvision", "timm", "other") if kind in found}


def _environments(environments: Iterable[Found]) -> list[str]:
    """Where it was measured, each machine and set of versions once, with the commands."""
    machines: dict[str, list[str]] = {}
    for found in environments:
        here = found["environment"]
        versions = ", ".join(f"{k} {v}" for k, v in here["packages"].items())
        text = f"{here['cpu']}, {here['cores']} cores, {here['memory_gb']} GB, {here['os']}; "
        commands = machines.setdefault(f"{text}Python {here['python']}, {versions}.", [])
        if found["command"] not in commands:
            commands.append(found["command"])
    parts = []
    for machine, commands in machines.items():
        parts += [f"Measured on {machine}\n", "```", *commands, "```\n"]
    return parts


def _table(columns: Mapping[str, Callable[[str, Found], str]], networks: Networks) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for name, found in networks.items():
        cells = (_cell(cell, name, found).replace("|", "/") for cell in columns.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(cell: Callable[[str, Found], str], name: str, found: Found) -> str:
    try:
        return cell(name, found)
    except (KeyError, IndexError, TypeError):  # not measured, because something before it failed
        return "-"


def _plain(name: str) -> str:
    return name.removeprefix("timm:")


# -- checks ----------------------------------------------------------------------------------------------


def _checks(networks: Networks) -> str:
    columns: dict[str, Callable[[str, Found], str]] = {
        "network": lambda n, _: _plain(n),
        "image": lambda _, f: str(f["input"][1]),
        "GFLOPs": lambda _, f: f"{f['flops'] / 1e9:.3g}",
        "M params": lambda _, f: f"{f['params'] / 1e6:.3g}",
        "groups": lambda _, f: str(f["groups"]),
        "coverage": lambda _, f: f"{f['coverage']:.1%}",
        "smallest": lambda _, f: f"{f['smallest']:.2%}",
        "frozen": _frozen,
        "unknown": lambda _, f: ", ".join(f"{k} {v}" for k, v in f["unknown"].items()) or "0",
        "analyse, s": lambda _, f: f"{f['analyse_seconds']:.2f}",
        "cut to": lambda _, f: f"{f['slice']['flops_share']:.1%}",
        "slice, s": lambda _, f: f"{f['slice']['seconds']:.3f}",
        "runs": lambda _, f: _passed(f, "forward"),
        "fvcore": lambda _, f: _passed(f, "counts"),
        "sliced - masked": _masked,
        "ONNX - torch": _onnx,
    }
    return _table(columns, networks)


def _frozen(_: str, found: Found) -> str:
    if not found["frozen_inside"]:
        return "0"
    reason = str(found["reasons"][0][0])
    short = reason if len(reason) <= _LONGEST else reason[: _LONGEST - 3] + "..."
    return f"{found['frozen_inside']} ({short})"


def _passed(found: Found, stage: str) -> str:
    if stage in found["failures"]:
        return "**no**"
    details = found[stage]
    return "as the target" if stage == "forward" and details else "yes"


def _masked(_: str, found: Found) -> str:
    details = found["masked"]
    text = f"{details['max_rel_diff']:.0e}" if "max_rel_diff" in details else f"({details['note']})"
    return f"**{text}**" if "masked" in found["failures"] else text


def _onnx(_: str, found: Found) -> str:
    if "onnx" in found["failures"]:
        return f"**{found['onnx']['relative']:.0e}**" if "onnx" in found else "**no**"
    return f"{found['onnx']['relative']:.0e}"


def _summary(networks: Networks) -> str:
    failed = {n: f["failures"] for n, f in networks.items() if f.get("failures")}
    lines = [f"{len(networks) - len(failed)} of {len(networks)} networks pass every check."]
    covered = [f["coverage"] for f in networks.values() if "coverage" in f]
    seconds = [f["analyse_seconds"] for f in networks.values() if "analyse_seconds" in f]
    if covered:
        lines.append(f"Coverage: median {statistics.median(covered):.1%}, least {min(covered):.1%}.")
        lines.append(f"Analysis: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s.")
    above = [_plain(n) for n, f in networks.items() if f.get("smallest", 0.0) > 0.5]
    if above:
        lines.append(f"Half the FLOPs is out of reach for {len(above)}: {', '.join(above)}.")
    unknown: Counter[str] = Counter()
    for found in networks.values():
        unknown.update(found.get("unknown", {}))
    named = ", ".join(f"{k} ({v})" for k, v in unknown.most_common()) or "none"
    lines.append(f"Operations without a rule: {named}.")
    exported = [f for f in networks.values() if "onnx" in f and "onnx" not in f["failures"]]
    lines.append(f"Exported to ONNX with parity: {len(exported)}.")
    problems = [f"{_plain(n)}, {s}: {text}" for n, f in failed.items() for s, text in f.items()]
    notes = [
        f"{_plain(n)}, {stage}, {key}: {text}"
        for n, f in networks.items()
        for stage in ("forward", "masked", "onnx")
        for key, text in f.get(stage, {}).items()
        if isinstance(text, str)
    ]
    return _list(lines) + _titled("Failures", problems) + _titled("Notes", notes)


def _list(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _titled(title: str, lines: list[str]) -> str:
    return f"\n{title}:\n\n{_list(lines)}" if lines else ""


# -- beside Torch-Pruning ----------------------------------------------------------------------------------


def _ratio(found: Found) -> float | None:
    """How many times longer Torch-Pruning takes."""
    peer = found["peer"]
    ours, theirs = peer.get("ours_median"), peer.get("theirs_median")
    return theirs / ours if ours and theirs else None


def _outcome(peer: Found) -> str:
    failures = peer.get("failures", {})
    if "share" not in peer:
        return f"not compared: {'; '.join(failures.values())}"
    if "torch-pruning" in failures:
        return f"fails: {failures['torch-pruning']}"
    return f"pruned, but does not run: {peer['problem']}" if peer["problem"] else "runs"


def _peers(networks: Networks) -> str:
    columns: dict[str, Callable[[str, Found], str]] = {
        "network": lambda n, _: _plain(n),
        "jstc, s": lambda _, f: f"{f['peer'].get('ours_median', f['peer'].get('warm_up_seconds')):.2f}",
        "Torch-Pruning, s": lambda _, f: f"{f['peer']['theirs_median']:.2f}",
        "times": lambda _, f: f"{_ratio(f):.2f}",
        "runs": lambda _, f: str(len(f["peer"]["ours"])),
        "share asked": lambda _, f: f"{f['peer']['share']:.1%}",
        "Torch-Pruning's share": lambda _, f: f"{f['peer']['their_share']:.1%}",
        "Torch-Pruning's network": lambda _, f: _outcome(f["peer"]),
    }
    return _table(columns, networks)


def _peer_summary(networks: Networks) -> str:
    compared = {n: f for n, f in networks.items() if "share" in f["peer"]}
    runs = {n: f for n, f in compared.items() if _outcome(f["peer"]) == "runs"}
    near = [n for n, f in runs.items() if f["peer"]["their_share"] <= f["peer"]["share"] + 0.02]
    lines = [
        f"Torch-Pruning's network runs for {len(runs)} of {len(compared)}; "
        f"for {len(near)} of them at the share asked for (at most 0.02 above it)."
    ]
    both = {n: r for n, f in runs.items() if (r := _ratio(f)) is not None}
    if both:
        worst = min(both, key=lambda n: both[n])
        lines.append(
            "Time of Torch-Pruning over time of jstc, where its network runs: median "
            f"{statistics.median(both.values()):.2f}, least {both[worst]:.2f} ({_plain(worst)}); "
            f"jstc is the slower for {sum(r < 1 for r in both.values())} of {len(both)}."
        )
    lost = [_plain(n) for n in compared if n not in runs]
    if lost:
        lines.append(f"Without a running network from Torch-Pruning: {', '.join(lost)}.")
    missing = [_plain(n) for n in networks if n not in compared]
    if missing:
        lines.append(f"Not compared, because jstc failed or ran out of time: {', '.join(missing)}.")
    return _list(lines)
