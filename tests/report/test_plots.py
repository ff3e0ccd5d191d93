"""The pictures of a run: what they say, what they do without, and that they are the same every time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.plan import Plan
from jstc.report import plots
from jstc.report.collect import read_run
from jstc.report.plots import canvas
from jstc.report.plots import search as search_plots
from jstc.report.plots.canvas import Drawing
from jstc.report.plots.history import draw_training
from jstc.report.plots.networks import draw_widths
from jstc.report.plots.search import draw_search

ALL = ["report/accuracy.svg", "report/widths.svg", "report/search.svg"]
Write = Callable[..., Path]


def drawn(run: Path) -> list[str]:
    """The files of all pictures, which are written."""
    found = plots.draw(read_run(run))
    (run / "report").mkdir(exist_ok=True)
    for one in found:
        (run / one.file).write_text(one.svg)
    listed = {"pictures": [one.picture.model_dump() for one in found]}
    (run / "report/pictures.json").write_text(json.dumps(listed))
    return [one.file for one in found]


def draw_one(run: Path, draw: Callable[[Any], Drawing | None]) -> Drawing | None:
    """One picture alone, which takes a third of the time."""
    data = read_run(run)
    found = draw(data.summary if draw is draw_widths else data)
    if found is not None:
        (run / "report").mkdir(exist_ok=True)
        (run / found.file).write_text(found.svg)
    return found


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def groups(run: Path, kept: dict[str, tuple[int, int]], **more: Any) -> None:
    """Give the run other groups: name -> (kept, width)."""
    entries = [{"name": name, "width": width, "flops_share": 0.1} for name, (_, width) in kept.items()]
    change(run / "target.json", groups=entries)
    plan = Plan(
        {name: tuple(range(stay)) for name, (stay, _) in kept.items()},
        {name: width for name, (_, width) in kept.items()},
    )
    (run / "slim" / "plan.json").write_text(json.dumps(plan.to_dict()))
    if more:
        change(run / "slim" / "result.json", **more)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[[Path], Path]) -> Path:
    """A finished run with its pictures, to look at."""
    run = make_run(tmp_path_factory.mktemp("runs") / "r")
    change(run / "finetune/result.json", images_seen=20 * 1400)
    change(run / "search/result.json", images_seen=12 * 700, round_of_plan=10)
    assert drawn(run) == ALL
    return run


# --- the files --------------------------------------------------------------------------------------------


def test_a_finished_run_has_them_all(shown: Path) -> None:
    for name in ALL:
        root = ElementTree.parse(shown / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.findtext("{http://www.w3.org/2000/svg}title")


def test_the_same_run_gives_the_same_bytes(shown: Path) -> None:
    first = {name: (shown / name).read_bytes() for name in ALL}
    code = f"from pathlib import Path; from jstc import report; report.write(Path({str(shown)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert first == {name: (shown / name).read_bytes() for name in ALL}
    assert not [name for name, data in first.items() if re.search(rb"20\d\d-\d\d-\d\d", data)]


def test_settings_of_the_user_change_nothing_and_stay(shown: Path) -> None:
    import matplotlib

    before = (shown / "report/widths.svg").read_bytes()
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red", "svg.fonttype": "path"}):
        draw_one(shown, draw_widths)
        assert matplotlib.rcParams["font.size"] == 31
    assert (shown / "report/widths.svg").read_bytes() == before


def test_letters_are_large_enough_on_a_phone(shown: Path) -> None:
    for name in ALL:
        text = (shown / name).read_text()
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", text)]
        match = re.search(r'viewBox="0 0 ([\d.]+)', text)
        assert match and sizes
        assert 358 / float(match[1]) * min(sizes) > 7, name  # 390 pixels, less the margins of a page


def test_no_picture_needs_anything_from_elsewhere(shown: Path) -> None:
    for name in ALL:
        text = (shown / name).read_text()
        assert set(re.findall(r'href="([^"]{0,2})', text)) <= {"#m", "#p", "#C"}
        assert "<script" not in text and "<image" not in text


# --- the report -------------------------------------------------------------------------------------------


def test_the_report_shows_them(shown: Path) -> None:
    text = report.markdown(report.read(shown))
    links = re.findall(r"^!\[([^\]\n]+)\]\(([^)]+)\)$", text, re.MULTILINE)
    assert [link for _, link in links] == ["report/accuracy.svg", "report/search.svg", "report/widths.svg"]
    assert all((shown / link).is_file() for _, link in links)
    alts = [alt for alt, _ in links]
    assert "ends at 99.33 % on the test split, the target network trained alone at 99.40 %" in alts[0]
    assert "accuracy from 30.00 % to 90.00 %" in alts[1]
    assert "43 of 64 channels stay (67.2 %) in 3 groups: least in layer1.0.conv1 (3 of 16)" in alts[2]
    assert "## How the training went\n\n<details><summary>Pictures</summary>\n\n![" in text
    assert "\n\n\n" not in text


def test_a_report_without_pictures_says_nothing_about_them(finished: Path) -> None:
    text = report.markdown(report.read(finished))
    assert "![" not in text
    assert "How the training went" not in text


def test_names_cannot_break_the_link(finished: Path) -> None:
    groups(finished, {"a[0]](x) |": (1, 2), "b<i>": (2, 2)})
    assert drawn(finished) == ["report/widths.svg"]
    line = next(line for line in report.markdown(report.read(finished)).splitlines() if line[:2] == "![")
    assert re.fullmatch(r"!\[[^\[\]]+\]\(report/widths\.svg\)", line)
    assert "<i>" not in line


# --- the training -----------------------------------------------------------------------------------------


def test_the_training_has_its_phases_and_results(shown: Path) -> None:
    found = texts(shown / "report/accuracy.svg")
    for text in (
        "search: 12 rounds", "finetune: 20 epochs", "learning rate", "training images seen",
        "test, slim network: 99.33 %", "test, target network trained alone: 99.40 %",
    ):  # fmt: skip
        assert text in found


def test_without_a_baseline_there_is_no_line_for_it(write_lines: Write) -> None:
    run = write_lines()
    (run / "baseline/result.json").unlink()
    drawn(run)
    assert "alone" not in " ".join(texts(run / "report/accuracy.svg"))
    assert "alone" not in report.markdown(report.read(run)).split("How the training went")[1]


@pytest.mark.parametrize(
    ("rounds", "epochs", "expected"),
    [
        (None, None, ["report/widths.svg"]),
        (0, 0, ["report/widths.svg"]),
        (1, None, ["report/widths.svg"]),
        (1, 1, ["report/accuracy.svg", "report/widths.svg"]),
        (None, 3, ["report/accuracy.svg", "report/widths.svg"]),
        (2, None, ALL),
        (2, 1, ALL),
        (200, 120, ALL),
    ],
)
def test_of_a_short_or_long_run_there_is_what_makes_sense(
    write_lines: Write, rounds: int | None, epochs: int | None, expected: list[str]
) -> None:
    assert drawn(write_lines(rounds, epochs)) == expected


@pytest.mark.parametrize("text", ["", "{", "[1]\n", '{"accuracy": "high", "train_accuracy": NaN}\n' * 3])
def test_a_damaged_history_is_no_picture_and_no_error(write_lines: Write, text: str) -> None:
    run = write_lines()
    (run / "search/history.jsonl").write_text(text)
    (run / "finetune/history.jsonl").write_text(text)
    assert drawn(run) == ["report/widths.svg"]


def test_a_history_that_was_cut_off_counts_as_far_as_it_goes(write_lines: Write) -> None:
    run = write_lines()
    path = run / "search/history.jsonl"
    path.write_text(path.read_text()[:-20])
    draw_one(run, draw_training)
    assert "search: 11 rounds" in texts(run / "report/accuracy.svg")


def test_a_run_that_has_only_begun_has_none(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: resnet20\ndataset: digits\nseed: 0\n")
    assert drawn(tmp_path) == []
    assert "![" not in report.markdown(report.read(tmp_path))


# --- the search -------------------------------------------------------------------------------------------


def test_the_search_shows_its_phases_and_the_chosen_round(shown: Path) -> None:
    found = texts(shown / "report/search.svg")
    for text in ("2 coarse rounds", "10 fine", "round 11: the plan chosen", "overlap of successive plans"):
        assert text in found


@pytest.mark.parametrize(("coarse", "absent"), [(0, "coarse"), (12, "fine")])
def test_a_search_of_one_phase_has_no_name_for_the_other(
    write_lines: Write, coarse: int, absent: str
) -> None:
    run = write_lines(coarse=coarse)
    draw_one(run, draw_search)
    assert not [text for text in texts(run / "report/search.svg") if absent in text]


def test_of_several_budgets_a_run_shows_its_own(write_lines: Write) -> None:
    run = write_lines()
    path = run / "search/history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    own = [{**line, "budget": "r" if line["round"] % 2 else "other"} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in own))
    picture = draw_one(run, draw_search)
    assert picture is not None
    assert picture.alt.startswith(
        "The search in 6 rounds: search-validation accuracy from 35.45 % to 90.00 %"
    )


def test_the_line_is_dotted_through_rounds_that_were_not_judged(write_lines: Write) -> None:
    run = write_lines()
    path = run / "search/history.jsonl"
    everywhere = draw_one(run, draw_search)
    assert everywhere is not None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line | ({"accuracy": None} if line["round"] in (3, 4, 5) else {}) for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    picture = draw_one(run, draw_search)
    assert picture is not None
    assert ("dotted" in picture.caption, "dotted" in everywhere.caption) == (True, False)
    assert ("stroke-dasharray" in picture.svg, "stroke-dasharray" in everywhere.svg) == (True, False)


def test_gates_are_shown_where_they_were_learned(write_lines: Write) -> None:
    run = write_lines()
    path = run / "search/history.jsonl"
    learned = draw_one(run, draw_search)
    assert learned is not None and "gates" in learned.alt and "Gates" in learned.caption
    lines = [json.loads(line) | {"alpha_spread": 0.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    picture = draw_one(run, draw_search)
    assert picture is not None and "gates" not in picture.alt and "Gates" not in picture.caption
    assert "overlap of successive plans" in texts(run / "report/search.svg")


def test_a_dip_is_told_to_those_who_do_not_see_it(write_lines: Write) -> None:
    run = write_lines()
    path = run / "search/history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({**line, "overlap": 0.77 if n == 5 else 1}) + "\n" for n, line in enumerate(lines))
    )
    picture = draw_one(run, draw_search)
    assert picture is not None
    assert "overlap of successive plans from 1.00 to 1.00, at least 0.77" in picture.alt


def test_the_moving_mean() -> None:
    assert search_plots.moving_mean([1, 2, 6, 4], 3) == [1.5, 3, 4, 5]
    assert search_plots.moving_mean([1, float("nan"), 3], 3) == [1, 2, 3]
    assert search_plots.moving_mean([1, 5], 1) == [1, 5]


# --- the widths -------------------------------------------------------------------------------------------


def test_widths_before_and_after_with_their_flops(finished: Path) -> None:
    change(finished / "slim/result.json", flops_share={"stem": 0.4, "layer1.0.conv1": 0.1, "head": 0.2})
    draw_one(finished, draw_widths)
    found = texts(finished / "report/widths.svg")
    assert {"stem", "8 of 16", "3 of 16", "32 of 32"} <= set(found)
    assert "31.0 → 20.0 %" in found  # 0.4 of 20.45 M, where the whole was 41 M


def test_without_shares_afterwards_those_before_are_shown(finished: Path) -> None:
    picture = draw_one(finished, draw_widths)
    assert picture is not None
    assert "31.0 %" in texts(finished / "report/widths.svg")
    assert "before the cut" in picture.caption and "after (dark)" not in picture.caption


def test_no_plan_no_widths(finished: Path) -> None:
    for stage in ("search", "slim"):
        (finished / stage / "plan.json").unlink()
    assert drawn(finished) == []


def test_a_single_group(finished: Path) -> None:
    groups(finished, {"conv1": (10, 16)})
    assert [one.alt for one in plots.draw(read_run(finished))] == [
        "10 of 16 channels stay (62.5 %) in 1 group"
    ]


def test_blocks_alike_share_a_row(finished: Path) -> None:
    names = [f"layer{stage}.{block}.conv{part}" for stage in (1, 2) for block in range(8) for part in (1, 2)]
    groups(finished, {name: (8 + 8 * (i % 4), 64) for i, name in enumerate(names)})
    draw_one(finished, draw_widths)
    found = texts(finished / "report/widths.svg")
    assert "layer1.*.conv1 (8)" in found
    assert "8\N{EN DASH}24 of 64" in found
    assert len([text for text in found if " of 64" in text]) == 4


def test_long_names_keep_their_end(finished: Path) -> None:
    groups(finished, {"encoder.layers.encoder_layer_11.mlp.inner.0": (2, 4), "b": (1, 4)})
    draw_one(finished, draw_widths)
    name = next(text for text in texts(finished / "report/widths.svg") if text.endswith("mlp.inner.0"))
    assert name.startswith("…") and len(name) <= 30


# --- the canvas -------------------------------------------------------------------------------------------


def test_marks_of_an_axis_are_short() -> None:
    assert [canvas.short_count(value) for value in (0, 500, 2e6, 2.5e9)] == ["0", "500", "2 M", "2.5 G"]


def test_help_and_summary_need_no_drawing_library() -> None:
    code = (
        "import sys, jstc.report, jstc.report.plots, jstc.report.plots.networks, jstc.runs.stages;"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
