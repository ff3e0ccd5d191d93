"""The search over widths in the report: what was judged, what each part added, and runs without any of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.errors import RunDirectoryError
from jstc.report import page, plots
from jstc.report.collect import RunData, read_run
from jstc.report.plots.search import draw_candidates, draw_depths
from jstc.summary import to_document
from tests.helpers.sweep_run import BUDGETS
from tests.report.conftest import KEYS, PARTS, candidate_lines, write_candidates
from tests.report.test_plots import texts

Change = Callable[..., None]


@pytest.fixture
def searched(finished: Path) -> Path:
    """A finished run whose search judged 160 plans."""
    return write_candidates(finished)


def section(source: str) -> str:
    """The text of the section "The search"; empty where the page has none."""

    class Texts(HTMLParser):
        found = ""

        def handle_data(self, data: str) -> None:
            self.found += f" {data}"

    parser = Texts(convert_charrefs=True)
    match = re.search(r'<section id="search".*?</section>', source, re.DOTALL)
    parser.feed(match[0] if match else "")
    return " ".join(
        parser.found.replace(" : ", ": ")
        .replace("\N{NO-BREAK SPACE}", " ")
        .replace("\N{MINUS SIGN}", "-")
        .split()
    )


def page_of(run: Path) -> str:
    return section(page.html(report.read(run), []))


def change(run: Path, **values: Any) -> None:
    path = run / "search/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rewrite(run: Path, *lines: dict[str, Any]) -> RunData:
    """Give the run these candidates."""
    (run / "search/candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(run)


def parts(*found: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(KEYS, one, strict=False)) for one in found]


# --- in words and as a table ------------------------------------------------------------------------------

WORDS = (
    "160 plans were judged in 44 s, without any training: each was cut out of the given network and tried on "
    "the same 2,000 images of the search-validation split. 8 of them ended early: on the first images "
    "they were worse than most. The plan found has a loss of 2.152 (46.10 % right), the evenly narrow one, "
    "which keeps about the same share of every group, 2.520 (33.90 % right); lower is better."
)


def test_page_and_markdown_say_it_in_the_same_words(searched: Path) -> None:
    assert WORDS in page_of(searched)
    assert WORDS in report.markdown(report.read(searched)).splitlines()


def test_plans_are_said_to_be_mended_where_they_were(searched: Path) -> None:
    recipe = searched / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "search: {reconstruction_images: 512}\n")
    assert "given network, mended and tried on the same 2,000 images" in page_of(searched)


def test_what_each_part_added_is_a_table(searched: Path) -> None:
    lines = report.markdown(report.read(searched)).splitlines()
    at = lines.index("| plan with | loss | change | accuracy | params |")
    assert lines[at + 2 : at + 5] == [
        "| evenly narrow, by norms | 2.520 | - | 33.90 % | 136 k |",
        "| channel weights | 2.410 | -0.110 | 36.00 % | 136 k |",
        "| starting profile | 2.240 | -0.170 | 42.00 % | 91.0 k |",
    ]
    assert "best of the candidates 2.152 +0.002 46.10 % 71.9 k" in page_of(searched)


def test_a_part_that_did_harm_is_not_hidden(searched: Path) -> None:
    change(searched, contributions=parts(("evenly narrow", 2.0, 0.5), ("policy", 2.25, 0.4)))
    text = report.markdown(report.read(searched))
    assert "| policy | 2.250 | +0.250 | 40.00 % | - |" in text
    assert "lower is better. The search has found nothing better." in text
    assert "nothing better" not in WORDS


def test_a_loss_that_is_not_finite_is_a_dash(searched: Path) -> None:
    change(searched, contributions=parts(("evenly narrow", None, 0.1), ("policy", 2.25, 0.4)))
    text = report.markdown(report.read(searched))
    assert "| evenly narrow | - | - | 10.00 % | - |\n| policy | 2.250 | - | 40.00 % | - |" in text
    assert "None" not in page_of(searched) and "nan" not in page_of(searched)


def test_a_search_that_still_runs_tells_how_far_it_is(searched: Path) -> None:
    (searched / "search/result.json").unlink()
    told = page_of(searched)
    assert told.startswith("The search 160 plans were judged so far in 45 s, without any training")
    assert "The best one has a loss of 2.17" in told and "evenly narrow" not in told


def test_names_of_parts_are_text(searched: Path) -> None:
    change(searched, contributions=parts(("<b>|even", 2.5, 0.3), ("<script>", 2.2, 0.4)))
    source = page.html(report.read(searched), [])
    assert "<script" not in source and "&lt;b&gt;|even" in source
    text = report.markdown(report.read(searched))
    assert "| &lt;b>\\|even | 2.500 |" in text


def test_summary_json_has_the_figures(searched: Path) -> None:
    found = to_document(report.summarise(searched))["search"]
    assert found["candidates"] == {"judged": 160, "seconds": 44.2, "images": 308_000}
    assert found["contributions"] == parts(*PARTS)


def test_damaged_figures_are_told(searched: Path) -> None:
    change(searched, contributions=[{"part": "a\nb", "loss": 1.0}])
    with pytest.raises((RunDirectoryError, ValueError), match="contributions"):
        report.read(searched)


# --- runs without -----------------------------------------------------------------------------------------


def test_a_run_without_candidates_has_the_report_of_old(write_lines: Callable[..., Path]) -> None:
    run = write_lines()
    assert page_of(run) == ""
    text = report.markdown(report.read(run))
    assert "## The search" not in text
    assert not {"candidates", "contributions"} & set(to_document(report.summarise(run))["search"])
    assert [(one.file, one.heading, one.section) for one in plots.draw(read_run(run))] == [
        ("report/accuracy.svg", "Accuracy over the training", "training"),
        ("report/widths.svg", "What was cut where", ""),
        ("report/search.svg", "The search", "training"),
    ]


@pytest.mark.parametrize("broken", [b"", b"{", b"[]\n", b'{"loss": "x"}\n', b"\xff\xfe\n"])
def test_a_log_that_says_nothing_is_no_picture(searched: Path, broken: bytes) -> None:
    (searched / "search/candidates.jsonl").write_bytes(broken)
    data = read_run(searched)
    assert draw_candidates(data) is None and draw_depths(data) is None
    assert "160 plans were judged in 44 s" in page_of(searched)


# --- pictures ---------------------------------------------------------------------------------------------


def test_every_picture_of_the_search_is_in_its_section(rich: Path) -> None:
    found = [(one.file, one.section) for one in plots.draw(read_run(rich))]
    searching = [file for file, where in found if where == "search"]
    assert searching == ["report/candidates.svg", "report/depths.svg", "report/search.svg"]
    assert [file for file, where in found if where == "training"] == ["report/accuracy.svg"]
    text = report.markdown(report.read(rich))
    assert text.count("## The search\n") == 1


def test_rewards_are_drawn_with_the_best_and_the_even_plan(searched: Path) -> None:
    found = draw_candidates(read_run(searched))
    assert found is not None
    assert found.alt.endswith("the best 2.170, the evenly narrow one 2.520")
    (searched / "picture.svg").write_text(found.svg)
    told = texts(searched / "picture.svg")
    assert {"the best so far, at last 2.170", "the evenly narrow plan: 2.520"} <= {*told}
    assert {"80 coarse", "80 fine"} <= {*told}
    assert {"a plan that ended early, or lies above", "mean of a generation's best quarter"} <= {*told}
    assert draw_candidates(read_run(searched)) == found


def test_one_hopeless_plan_does_not_press_the_others_into_a_line(searched: Path) -> None:
    lines = candidate_lines([16, 16, 32])
    lines[3] |= {"loss": 1e4}
    found = draw_candidates(rewrite(searched, *lines))
    assert found is not None
    (searched / "picture.svg").write_text(found.svg)
    marks = [float(text) for text in texts(searched / "picture.svg") if re.fullmatch(r"\d+\.\d", text)]
    assert marks and max(marks) < 4


@pytest.mark.parametrize("losses", [[2.0, 2.0, 2.0], [None, 2.0, 2.1], [3.0, None, 0.0]])
def test_few_and_equal_losses_are_drawn(searched: Path, losses: list[float | None]) -> None:
    lines = [line | {"loss": loss} for line, loss in zip(candidate_lines([16, 16, 32]), losses, strict=False)]
    change(searched, contributions=[])
    found = draw_candidates(rewrite(searched, *lines))
    assert found is not None and "nan" not in found.svg and "evenly" not in found.alt


def test_widths_are_drawn_along_the_network(searched: Path) -> None:
    found = draw_depths(read_run(searched))
    assert found is not None
    assert re.match(r"Kept shares of 3 groups over 10 generations: from [\d.]+ % to [\d.]+ % in", found.alt)
    assert found.alt.endswith("; 18.8 % to 100.0 % in the plan chosen")
    (searched / "search/plan.json").unlink()
    (searched / "slim/plan.json").unlink()
    unfinished = draw_depths(read_run(searched))
    assert unfinished is not None and "lowest loss so far" in unfinished.caption


def test_counts_of_another_network_are_not_drawn(searched: Path) -> None:
    lines = [line | {"counts": [1, 2]} for line in candidate_lines([16, 16, 32])]
    data = rewrite(searched, *lines)
    assert draw_depths(data) is None and draw_candidates(data) is not None


# --- several budgets --------------------------------------------------------------------------------------


@pytest.fixture
def swept(make_sweep: Callable[[Path], Path], tmp_path: Path) -> Path:
    run = make_sweep(tmp_path / "s")
    labels = [budget["label"] for budget in BUDGETS]
    for label, shift in zip(labels, (0.0, 0.5), strict=True):
        moved = [(part, loss + shift, *rest) for part, loss, *rest in PARTS]
        write_candidates(run / label, budgets=labels, parts=moved)
    return run


def test_each_budget_has_its_words_and_its_column(swept: Path) -> None:
    text, told = report.markdown(report.read(swept)), page_of(swept)
    assert f"**flops0.7**: {WORDS}" in text and f"flops0.7: {WORDS}" in told
    short = "160 plans were judged in 44 s. The plan found has a loss of 2.652 (46.10 % right)"
    assert f"**flops0.5**: {short}" in text and f"flops0.5: {short}" in told
    assert "| plan with | flops0.7: loss (accuracy) | flops0.5: loss (accuracy) |" in text
    assert "| policy, fine | 2.150 (46.10 %) | 2.650 (46.10 %) |" in text
    assert "report of each budget" in told
    assert "\n\n\n" not in text


def test_a_budget_is_drawn_with_its_own_candidates(swept: Path) -> None:
    assert len(read_run(swept / "flops0.5").candidates) == 160
    every = (swept / "flops0.5/search/candidates.jsonl").read_text().splitlines()
    assert len(every) == 320
