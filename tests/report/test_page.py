"""The HTML report as text: whole, harmless, the same every time, and complete."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.core import numbers
from jstc.report import plots
from jstc.summary import Summary, to_document

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
SECTIONS = ["notes", "result", "cut", "files", "speed", "time", "search", "training", "stayed", "machine"]
SECTIONS += ["reproduce"]
ODD = "a<b>\"c\" | 'd' & {{ e }}</script><script>alert(1)</script>"


class Page(HTMLParser):
    """What is in a page: elements in order, text, and whether every element that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice: {tag} {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> where {self.open[-3:]} are open"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def source(rich: Path) -> str:
    return report.html(report.read(rich))


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def plainly(text: str) -> str:
    """Typography undone."""
    return (
        text.replace("\N{MINUS SIGN}", "-")
        .replace("\N{NO-BREAK SPACE}", " ")
        .replace("\N{MULTIPLICATION SIGN}", "x")
    )


# --- the document -----------------------------------------------------------------------------------------


def test_every_section_is_there_in_order_and_in_the_list(page: Page) -> None:
    assert [one["id"] for one in page.all("section")] == SECTIONS
    links = [one["href"] for one in page.all("a")]
    assert links[: len(SECTIONS)] == [f"#{name}" for name in SECTIONS]


def test_headings_go_down_one_by_one(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_ids_are_unique_and_references_find_theirs(page: Page, source: str) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {name for _, a in page.elements for name in (a.get("aria-labelledby") or "").split()}
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', source))
    assert named | {one or other for one, other in used} <= set(ids)


def test_table_headers_have_a_scope_and_pictures_have_words(page: Page) -> None:
    assert page.all("table") and all(one.get("scope") in ("col", "row") for one in page.all("th"))
    for one in page.all("svg"):
        told = {"aria-hidden", "aria-label", "aria-labelledby"} & set(one)
        assert told or one.get("viewBox") == "0 0 16 16" or "viewbox" in one or not one, one


def test_nothing_is_fetched_and_nothing_runs(page: Page, source: str) -> None:
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        for name in ("href", "src", "xlink:href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:,", "data:image/svg+xml;base64,")), (tag, value[:80])
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(http" not in source and "@import" not in source and "http://" not in source


def test_pictures_are_those_of_the_run_drawn_once(rich: Path, page: Page) -> None:
    shown = [base64.b64decode((one["src"] or "").partition(",")[2]).decode() for one in page.all("img")]
    drawn = [one for one in plots.draw(report.read(rich)) if one.section]
    assert len(shown) == 6 and sorted(shown) == sorted(one.svg for one in drawn)
    assert {one["alt"] for one in page.all("img")} == {one.alt for one in drawn}


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _themes(source: str) -> Iterator[dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", source, re.DOTALL)[:2]
    yield dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    yield dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))


def test_text_has_the_contrast_of_aa_in_both_themes(source: str) -> None:
    for theme in _themes(source):
        texts = ("ink", "soft", "link", "good", "warn", "bad", "neutral", "orange", "blue")
        pairs = [(text, back) for text in texts for back in ("page", "card")]
        pairs += [(name, f"{name}-back") for name in ("good", "warn", "bad", "neutral")]
        for text, back in pairs:
            low, high = sorted((_luminance(theme[text]), _luminance(theme[back])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, back)


def test_the_same_run_gives_the_same_bytes_in_every_process(rich: Path, source: str) -> None:
    code = "import sys; from pathlib import Path; from jstc import report;"
    code += f"sys.stdout.write(report.html(report.read(Path({str(rich)!r}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == source


# --- the figures ------------------------------------------------------------------------------------------


def test_every_figure_of_the_summary_is_on_the_page(rich: Path, page: Page) -> None:
    summary, text = to_document(report.summarise(rich)), plainly(page.text)
    told = [numbers.count(summary[name][key]) for name in ("target", "slim") for key in ("flops", "params")]
    told += [numbers.percent(summary[name]["accuracy"]) for name in ("target", "slim")]
    for file in summary["onnx"]:
        told += [file["file"], numbers.percent(file["accuracy"]), numbers.bytesize(file["bytes"])]
        told += [numbers.percent(file["top1_agreement"])]
    for row in summary["bench"]:
        told += [numbers.milliseconds(row["median_ms"]), numbers.milliseconds(row["p95_ms"])]
        told += [numbers.ratio(row["speedup_vs_target"])] if row["verdict"] != "target" else []
    told += [f"{group['kept']} of {group['width']}" for group in summary["groups"]]
    told += [item["layer"] for item in summary["frozen"]] + summary["notes"][:1]
    told += [summary["plan_hash"], summary["command"], *summary["versions"].values()]
    told += [numbers.duration(value) for value in summary["seconds"].values() if value is not None]
    assert [one for one in told if plainly(one) not in text] == []


def test_the_recipe_is_there_in_full(rich: Path, page: Page) -> None:
    assert (rich / "recipe.yaml").read_text() in "".join(page.texts)


@pytest.mark.parametrize(
    "told",
    [
        "Budget met 99.8 % of 20.5 M FLOPs is used.",
        "Accuracy 99.33 % Top-1 on the test split, -0.07 points against the 99.40 % of the target network",
        "Parity same Logits of the fp32 file are within 4.2 x 10⁻⁶ of torch's (1.0 x 10⁻⁴ allowed).",
        "fp32 file 99.33 % export/model.onnx scores 99.33 %, 0.00 points from torch.",
        "int8 file 98.69 % export/model.int8.onnx scores 98.69 %, -0.64 points from torch.",
        "The limit of files: 0.5 points below torch at most (export.max_accuracy_drop).",
        "Speed, fp32 1.32x to 1.93x Faster in 5 of 6: ",
        "Speed, fp16 0.83x to 2.51x Faster in 4 of 6: ",
    ],
)
def test_the_findings(page: Page, told: str) -> None:
    assert told in plainly(page.text)


def test_a_loss_beyond_the_gate_is_bad(source: str) -> None:
    assert re.findall(r'<h3>int8 file</h3><p class="figure (\w+)">', source) == ["bad"]


def test_the_share_of_the_ideal_and_the_memory_are_in_the_table(page: Page) -> None:
    assert "export/model.onnx cuda 32 " in page.text
    assert "86.5 % gain 420" in plainly(page.text)
    assert "41.0 MB" in page.text


def test_the_time_goes_to_operators(page: Page) -> None:
    assert "bench/target.onnx, cpu, batch 1 1.20 ms in all Conv 21 0.840 ms 70.0 %" in plainly(page.text)


# --- what is not there ------------------------------------------------------------------------------------


def test_a_run_that_has_only_begun_reads_well(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: resnet20\ndataset: digits\nseed: 0\n")
    page = Page(report.html(report.read(tmp_path)))
    assert [one["id"] for one in page.all("section")] == ["notes", "result", "reproduce"]
    assert "There is no slim network yet." in page.text
    assert "None" not in page.text


FILES = ["bench/bench.json", "bench/environment.json", "export/result.json", "slim/plan.json"]
FILES += ["slim/result.json", "target.json", "manifest.json"]


@pytest.mark.parametrize("gone", FILES)
def test_a_run_without_one_of_its_files_is_a_page_too(finished: Path, gone: str) -> None:
    (finished / gone).unlink()
    assert "None" not in Page(report.html(report.read(finished))).text


def test_an_old_run_has_fewer_keys(finished: Path, contents: dict[str, Any]) -> None:
    keys = ("file", "provider", "batch", "median_ms", "p95_ms", "speedup_vs_target")
    old = [{key: row[key] for key in keys} for row in contents["bench/bench.json"]["rows"]]
    (finished / "bench/bench.json").write_text(json.dumps({"rows": old}))
    text = Page(report.html(report.read(finished))).text
    assert "None" not in text and "1.46x" in text


def test_odd_names_are_text(finished: Path, contents: dict[str, Any]) -> None:
    target = contents["target.json"]
    target["groups"][2]["name"] = target["frozen"][0]["layer"] = target["frozen"][0]["reason"] = ODD
    (finished / "target.json").write_text(json.dumps(target))
    export = contents["export/result.json"]
    export["files"][0] |= {"file": ODD, "precision": ODD}
    (finished / "export/result.json").write_text(json.dumps(export))
    bench = contents["bench/bench.json"]
    for row in bench["rows"]:
        row.update(provider=ODD, file=row["file"].replace("model.onnx", ODD))
    (finished / "bench/bench.json").write_text(json.dumps(bench))
    manifest = contents["manifest.json"] | {"command": ODD, "versions": {ODD: ODD}}
    (finished / "manifest.json").write_text(json.dumps(manifest))
    (finished / "recipe.yaml").write_text(json.dumps({"model": ODD, "dataset": ODD, "seed": 0}))
    page = Page(report.html(report.read(finished)))
    assert not page.all("script") and not page.all("b")
    assert page.text.count(ODD) > 10


# --- a budget of latency ----------------------------------------------------------------------------------


@pytest.fixture
def timed(finished: Path, contents: dict[str, Any]) -> Path:
    budget = {"metric": "latency", "limit": 2.0, "share": 0.5}
    (finished / "target.json").write_text(json.dumps(contents["target.json"] | {"budget": budget}))
    return finished


@pytest.mark.parametrize(
    ("measured", "word", "over"), [(1.98, "met", False), (2.05, "met", False), (2.2, "exceeded", True)]
)
def test_a_budget_of_latency_is_met_within_the_noise(
    timed: Path, contents: dict[str, Any], measured: float, word: str, over: bool
) -> None:
    latency = {
        "predicted_ms": 1.95,
        "measured_ms": measured,
        "target_ms": 4.0,
        "provider": "cpu",
        "batch": 1,
        "threads": 0,
    }
    (timed / "search/result.json").write_text(
        json.dumps(contents["search/result.json"] | {"latency": latency})
    )
    summary = report.summarise(timed)
    assert isinstance(summary, Summary) and summary.latency is not None
    assert summary.latency.model_dump() == latency
    assert ("it takes" in " ".join(summary.notes)) is over
    text = plainly(Page(report.html(report.read(timed))).text)
    assert f"Latency budget {word}" in text
    assert ("over its budget: it takes 2.20 ms, where 2.00 ms are allowed" in text) is over
    assert (f"1.95 ms predicted, {measured:.2f} ms measured; 2.00 ms allowed" in text) is not over
    assert "predicted by the search 1.95 ms" in text


def test_a_budget_of_latency_that_is_not_known_yet(timed: Path) -> None:
    assert "Latency budget not known 2.00 ms allowed" in plainly(Page(report.html(report.read(timed))).text)


# --- the head ---------------------------------------------------------------------------------------------


def test_the_head_has_the_file_how_to_use_it_and_the_time(finished: Path, contents: dict[str, Any]) -> None:
    files = {"export/model.onnx": "0" * 64, "export/run.py": "1" * 64}
    manifest = contents["manifest.json"]
    manifest["stages"]["export"] = {"state": "done", "artifacts": files}
    (finished / "manifest.json").write_text(json.dumps(manifest))
    head = plainly(Page(report.html(report.read(finished))).text.partition("Findings")[0])
    assert "Use it now: model.onnx ; python export/run.py IMAGE names the class of an image." in head
    assert "Paths are from the folder of this page. The run took 5 min 35 s in all. " in head
    assert "The target network is the original" in head


def test_each_budget_has_its_own_in_the_head(two_budgets: Path) -> None:
    head = plainly(Page(report.html(report.read(two_budgets))).text.partition("Findings")[0])
    assert "Use it now, flops0.7: flops0.7/model.onnx . Use it now, flops0.5: flops0.5/model.onnx ." in head
    assert "run.py" not in head  # which these exports do not have


def test_a_run_that_has_only_begun_has_nothing_to_use(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: resnet20\ndataset: digits\nseed: 0\n")
    text = Page(report.html(report.read(tmp_path))).text
    assert "Use it now" not in text and "The run took" not in text


def test_a_layer_of_several_groups_is_explained(finished: Path, contents: dict[str, Any]) -> None:
    told = "A name with #2 is that of a second group of channels that the same layer makes."
    assert told not in Page(report.html(report.read(finished))).text
    target = contents["target.json"]
    target["groups"][1]["name"] = "stem#2"
    for name in ("search/plan.json", "slim/plan.json"):
        document = json.loads(json.dumps(contents[name]).replace("layer1.0.conv1", "stem#2"))
        (finished / name).write_text(json.dumps(document))
    (finished / "target.json").write_text(json.dumps(target))
    assert told in Page(report.html(report.read(finished))).text


def test_an_interval_without_end_leaves_the_bars_visible(finished: Path, contents: dict[str, Any]) -> None:
    document = contents["bench/bench.json"]
    document["rows"][1]["ratio_high"] = 99.3
    (finished / "bench/bench.json").write_text(json.dumps(document))
    source = report.html(report.read(finished))
    lengths = re.findall(r'<rect class="(?:gain|weak)" width="([\d.]+)%" y="15%"', source)
    assert min(map(float, lengths)) > 20
    assert 'x2="100.00%" y1="50%"' in source
