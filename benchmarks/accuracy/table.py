"""Results of accuracy experiments as Markdown: facts from the result files, nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.accuracy.settings import CASES, METHODS, Settings

__all__ = ["catalogue", "document", "margins", "verdict"]

Result = Mapping[str, Any]
Results = Sequence[Result]

_REFERENCE = "jst"
_GIVEN_REFERENCE = "cut-jst"
_GIVEN_NOTE = """\
{about}. All methods begin at the same trained weights. Accuracy in percent on the test split after so many
epochs of finetune, each length a training of its own: mean +- standard deviation over the seeds. Margins are
paired by seed: mean +- standard error."""
_HEAD = (
    "method", "what", "accuracy, %", "{reference} - method, points", "MFLOPs", "of target", "k params",
    "epochs' worth", "judging, epochs' worth", "seconds, wall", "of it search", "seconds, processor",
)  # fmt: skip
_NOTE = """\
Accuracy on the test split, read once per job: mean +- standard deviation over the seeds (n). The margin is
paired: the mean +- standard deviation of the differences between runs of the same seed, in percentage points
(n pairs). One multiply-add is one FLOP. One epoch's worth is an epoch of the target network over the training
images used; a method may spend at most {epochs:g}. Judging is what forward passes of candidates cost beside
that, on search-validation images and to estimate batch-norm statistics, in the same unit, a forward pass
taken as a third of a training step. Seconds are those of a job without its evaluation on the test split, but
for `jst`, whose finetune ends with it; `search` holds what is spent on finding the plan: search, candidates,
pruning, but not pretraining."""


def verdict(result: Result) -> str:
    """A result in one line."""
    spent, seconds = result["spent"]["epochs"], result["seconds"]["wall"]["all"]
    return (
        f"{100 * result['accuracy']:.2f} %, {result['flops_share']:.4f} of the FLOPs, "
        f"{spent['spent']:.2f} of {spent['allowed']:g} epochs' worth, {seconds:.0f} s"
    )


def catalogue() -> str:
    """Cases, methods and defaults."""
    cases = [f"  {n:20} {c.model} at {c.flops:.0%} of its FLOPs, {c.data}" for n, c in CASES.items()]
    methods = [f"  {n:20} {m.text}" for n, m in METHODS.items()]
    defaults = [f"  {n:20} {v}" for n, v in vars(Settings()).items()]
    return "\n".join(["cases", *cases, "methods", *methods, "defaults", *defaults])


def document(results: Results) -> str:
    """A section per case: the rivals, then the ablations."""
    parts = ["# Accuracy at equal total training\n\nWritten by `benchmarks/accuracy`.\n"]
    if not results:
        parts.append("No results yet.\n")
    for case in dict.fromkeys(r["case"] for r in results):
        parts.append(_section(case, [r for r in results if r["case"] == case]))
    return "\n".join(parts)


def _section(case: str, results: Results) -> str:
    """The methods under the equal-training rule, their ablations, and those that begin at given weights."""
    given = [r for r in results if METHODS[r["method"]].kind == "cut"]
    others = [r for r in results if r not in given]
    return "\n".join([*([_equal(case, others)] if others else []), *([_given(case, given)] if given else [])])


def _given(case: str, results: Results) -> str:
    """Accuracy after each length of finetune, and paired margins with their standard errors."""
    lengths = list(results[0]["extra"]["after"])
    names = [name for name in METHODS if any(r["method"] == name for r in results)]
    shown = [f"{length} epochs" for length in lengths]
    head = ["method", "what", *shown, "MFLOPs", "k params", "seconds of the search"]
    lines = [_line(head), _line(["---"] * len(head))]
    for name in names:
        mine = [r for r in results if r["method"] == name]
        after = [_spread([100 * r["extra"]["after"][length] for r in mine]) for length in lengths]
        means = [statistics.fmean(_costs(r)[i] for r in mine) for i in range(3)]
        lines.append(_line([name, METHODS[name].text, *after, *(f"{mean:.1f}" for mean in means)]))
    reference = _GIVEN_REFERENCE if _GIVEN_REFERENCE in names else names[0]
    lines += ["", _line([f"{reference} - method, points", *shown]), _line(["---"] * (1 + len(shown)))]
    for name in names:
        if name != reference:
            pairs = [_paired(name, results, reference, length) for length in lengths]
            lines.append(_line([f"{name} ({len(pairs[0])} pairs)", *map(_with_error, pairs)]))
    text = _GIVEN_NOTE.format(about=_about(results))
    return "\n".join([f"## {case}, given weights\n", text, "", *lines, "", *_provenance(results)]) + "\n"


def _costs(result: Result) -> tuple[float, float, float]:
    return result["flops"] / 1e6, result["params"] / 1e3, result["seconds"]["wall"]["search"]


def _paired(name: str, results: Results, reference: str, length: str) -> list[float]:
    at = [{**r, "accuracy": r["extra"]["after"][length]} for r in results]
    return margins(name, at, reference)


def _with_error(values: Sequence[float]) -> str:
    mean = format(statistics.fmean(values), "+.2f")
    return mean if len(values) < 2 else f"{mean} +- {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def _equal(case: str, results: Results) -> str:
    first = results[0]
    settings = first["settings"]["settings"]
    about = f"{_about(results)}; {settings['epochs']:g} epochs' worth of training."
    names = [name for name in METHODS if any(r["method"] == name for r in results)]
    main = [name for name in names if not METHODS[name].ablation and METHODS[name].kind != "cut"]
    ablations = [name for name in names if METHODS[name].ablation]
    parts = [f"## {case}\n", about, "", _NOTE.format(epochs=settings["epochs"]), "", _table(main, results)]
    if ablations:
        parts += ["\n### Ablations\n", _table([_REFERENCE, *ablations], results)]
    return "\n".join([*parts, "", *_provenance(results)]) + "\n"


def _about(results: Results) -> str:
    first = results[0]
    data = first["data"]
    return (
        f"{first['settings']['recipe']['model']} ({first['target_flops'] / 1e6:.2f} MFLOPs, "
        f"{first['target_params'] / 1e3:.1f} k parameters) on {data['name']}, "
        f"{data['train_full']} training images ({data['search_val']} of them for search-validation), "
        f"{data['test']} test images; budget {first['budget'] / 1e6:.2f} MFLOPs"
    )


def _table(names: Iterable[str], results: Results) -> str:
    head = [text.format(reference=_REFERENCE) for text in _HEAD]
    lines = [_line(head), _line(["---"] * len(head))]
    found = {name: [r for r in results if r["method"] == name] for name in names}
    lines += [_line(_row(name, mine, results)) for name, mine in found.items() if mine]
    return "\n".join(lines)


def _row(name: str, mine: Results, results: Results) -> list[str]:
    def mean(pick: Callable[[Result], float], form: str) -> str:
        return format(statistics.fmean(map(pick, mine)), form)

    return [
        name,
        METHODS[name].text,
        f"{_spread([100 * r['accuracy'] for r in mine])} ({len(mine)})",
        _margin(name, results),
        mean(lambda r: r["flops"] / 1e6, ".3f"),
        mean(lambda r: r["flops_share"], ".4f"),
        mean(lambda r: r["params"] / 1e3, ".1f"),
        mean(lambda r: r["spent"]["epochs"]["spent"], ".2f"),
        mean(lambda r: r["spent"]["judging"]["epochs"], ".2f"),
        mean(lambda r: _seconds(r, "wall"), ".0f"),
        mean(lambda r: r["seconds"]["wall"].get("search", 0.0), ".0f"),
        mean(lambda r: _seconds(r, "cpu"), ".0f"),
    ]


def _seconds(result: Result, kind: str) -> float:
    return float(result["seconds"][kind]["all"] - result["seconds"][kind].get("evaluation", 0.0))


def margins(name: str, results: Results, reference: str = _REFERENCE) -> list[float]:
    """Reference minus method in percentage points, one for each seed that both have."""
    by_seed = {r["seed"]: r["accuracy"] for r in results if r["method"] == reference}
    mine = [r for r in results if r["method"] == name and r["seed"] in by_seed]
    return [100 * (by_seed[r["seed"]] - r["accuracy"]) for r in mine]


def _margin(name: str, results: Results) -> str:
    found = [] if name == _REFERENCE else margins(name, results)
    return f"{_spread(found, '+.2f')} ({len(found)})" if found else "-"


def _spread(values: Sequence[float], form: str = ".2f") -> str:
    mean = format(statistics.fmean(values), form)
    return f"{mean} +- {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _provenance(results: Results) -> list[str]:
    """Machine, versions and commits behind a section: each different one is named."""

    def named(texts: Iterable[str]) -> str:
        return "; ".join(sorted(set(texts)))

    def machine(m: Mapping[str, Any]) -> str:
        return f"{m['gpu'] or m['cpu']}, {m['cores']} cores, {m['threads']} thread(s) a job"

    def versions(m: Mapping[str, Any]) -> str:
        wanted = ("torch", "torch-pruning", "nvidia-modelopt")
        return ", ".join(f"{n} {m['packages'][n]}" for n in wanted if n in m["packages"])

    machines = [r["machine"] for r in results]
    overrides = named(" ".join(r["settings"]["overrides"]) or "none" for r in results)
    return [
        f"Measured on {named(map(machine, machines))}; {named(map(versions, machines))}; "
        f"commit {named(str(m['commit']) for m in machines)}. Recipe keys set: {overrides}.",
    ]
