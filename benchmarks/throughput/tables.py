"""The tables of the throughput benchmark, and the figures in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.throughput.clock import JUDGING, STEPS
from benchmarks.throughput.training import Round
from jstc.ort.statistics import Ratio, paired_ratio

__all__ = ["loader_table", "memory_table", "scaling_table", "search_table", "shares"]

Table = list[str]


def search_table(
    rounds: Sequence[Round], *, target_flops: int, steps: int, usual_steps: int
) -> tuple[Table, dict[str, Any]]:
    """Coarse rounds and fine ones beside plain training, and where the rest of a round goes.

    `usual_steps` is the length of a round of the recipe as it would be run.
    """
    lines = [f"{'search':24}{'FLOPs':>7}{'images/s':>10}  {'over plain training':>22}"]
    found: dict[str, Any] = {}
    plain = np.array([each.plain_seconds for each in rounds])
    lines.append(f"{'target, plain training':24}{1:7.2f}{rounds[0].images / np.median(plain):10.1f}")
    for name, coarse in (("coarse", True), ("fine", False)):
        own = [each for each in rounds if each.coarse == coarse]
        found[name] = phase = _phase(own, target_flops)
        for what in ("training steps", "whole rounds", "without judging"):
            ratio, rate = phase[what]["over_plain"], phase[what]["images_per_second"]
            share = f"{phase['flops']:7.2f}" if what == "training steps" else " " * 7
            lines.append(f"{name + ', ' + what:24}{share}{rate:10.1f}  {_interval(ratio):>22}")
    found["shares"] = shares(rounds, steps=steps, usual_steps=usual_steps)
    return lines + _shares_table(found["shares"], rounds, steps, usual_steps), found


def _phase(rounds: Sequence[Round], target_flops: int) -> dict[str, Any]:
    plain, images = np.array([each.plain_seconds for each in rounds]), rounds[0].images
    seconds = {
        "training steps": np.array([each.steps for each in rounds]),
        "whole rounds": np.array([each.total for each in rounds]),
        "without judging": np.array([each.total - each.judging for each in rounds]),
    }
    found: dict[str, Any] = {"flops": float(np.mean([each.flops for each in rounds])) / target_flops}
    for name, times in seconds.items():
        rate = images / float(np.median(times))
        found[name] = {"images_per_second": rate, "over_plain": asdict(paired_ratio(plain, times))}
    return found


def shares(rounds: Sequence[Round], *, steps: int, usual_steps: int) -> dict[str, Any]:
    """What a round spends outside of training steps and judging: seconds by part, and shares of a round.

    Of a round without its judging, which is the stricter measure: as measured, and where a round has as many
    steps as it would have. `steps_for_3_percent`: from that length on the share is below 3 %.
    """
    names = sorted({name for each in rounds for name in each.seconds} - {STEPS, JUDGING})
    parts = {name: float(np.median([each.seconds.get(name, 0.0) for each in rounds])) for name in names}
    outside = float(np.median([each.outside for each in rounds]))
    step = float(np.median([each.steps for each in rounds])) / steps
    return {
        "seconds": parts,
        "outside": outside,
        "measured": float(np.median([each.outside / (each.outside + each.steps) for each in rounds])),
        "usual": outside / (outside + usual_steps * step),
        "steps_for_3_percent": int(np.ceil(outside / step * 0.97 / 0.03)),
        "judging_of_whole": float(np.median([each.judging / each.total for each in rounds])),
    }


def _shares_table(found: dict[str, Any], rounds: Sequence[Round], steps: int, usual_steps: int) -> Table:
    parts = sorted(found["seconds"].items(), key=lambda item: -item[1])
    lines = [
        "",
        f"outside of training steps and judging, {len(rounds)} rounds: {1e3 * found['outside']:.1f} ms",
    ]
    lines += [f"  {name:22}{1e3 * seconds:9.1f} ms" for name, seconds in parts]
    lines += [f"  {100 * found['measured']:.2f} % of a round of {steps} steps",
              f"  {100 * found['usual']:.2f} % of one of {usual_steps} steps, the recipe's own length",
              f"  below 3 % from {found['steps_for_3_percent']} steps on",
              f"judging: {100 * found['judging_of_whole']:.1f} % of the rounds as measured"]  # fmt: skip
    return lines


def _interval(ratio: dict[str, float]) -> str:
    return "{median:.2f}x ({low:.2f}-{high:.2f})".format(**ratio)


def loader_table(found: dict[str, Any], *, workers: int) -> Table:
    """Images a second, and milliseconds of an image by part."""
    lines = [f"{f'loader, {workers} workers':24}{'training':>10}{'evaluation':>12}  images/s"]
    for name, each in found.items():
        parts = ", ".join(f"{part} {ms:.3f}" for part, ms in each["ms_per_image"].items())
        lines.append(f"{name:24}{each['training']:10.1f}{each['evaluation']:12.1f}")
        lines.append(f"  ms an image in one process: {parts}")
    return lines


def memory_table(found: dict[str, dict[str, float | None]]) -> Table:
    """Megabytes."""
    lines = [f"{'peak memory, MB':24}{'process':>10}{'a worker':>10}{'GPU':>10}"]
    for name, each in found.items():
        cells = "".join(f"{'-' if value is None else f'{value:.0f}':>10}" for value in each.values())
        lines.append(f"{name:24}{cells}")
    return lines


def scaling_table(found: dict[str, Any]) -> Table:
    """Images a second of several processes over those of one."""
    world, steps, turns = found["world"], found["steps"], found["turns"]
    alone = np.array([turn["alone"] for turn in turns])
    lines = [f"{f'scaling, {world} processes':24}{'images/s':>10}  {'over one process':>22}{'ideal':>7}"]
    for name in turns[0]:
        seconds = np.array([turn[name] for turn in turns])
        batch = found["batches"].get(name, found["batches"]["alone"])
        more = batch / found["batches"]["alone"]
        ratio = _scaled(paired_ratio(alone, seconds), more)
        ideal = 1 if name == "alone" else world
        rate = steps * batch / float(np.median(seconds))
        lines.append(f"{name:24}{rate:10.1f}  {_interval(asdict(ratio)):>22}{ideal:7}")
    return lines + _together(found)


def _together(found: dict[str, Any]) -> Table:
    rounds = [Round(**each) for each in found["rounds"]]
    if not rounds:
        return []
    share = shares(rounds, steps=found["steps"], usual_steps=found["steps"])
    return [f"rounds of a search by all: {1e3 * share['outside']:.1f} ms outside of training steps and "
            f"judging, below 3 % from {share['steps_for_3_percent']} steps on"]  # fmt: skip


def _scaled(ratio: Ratio, factor: float) -> Ratio:
    return Ratio(ratio.median * factor, ratio.low * factor, ratio.high * factor)
