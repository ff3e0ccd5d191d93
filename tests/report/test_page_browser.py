"""The HTML report in a real browser, where there is one: nothing fails to load, nothing sticks out."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.report import plots
from jstc.summary import GroupWidth

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 120.0  # until the browser answers; machines that run tests are busy
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """A tab that is told what to do over a pipe; `events` are what it has said of itself."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.buffer = to, back, b""
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.session = None
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def read(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self.buffer:
            assert select.select([self.back], [], [], max(0.0, end - time.monotonic()))[0], "no answer"
            piece = os.read(self.back, 1 << 16)
            assert piece, "the browser has ended"
            self.buffer += piece
        message, _, self.buffer = self.buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, path: Path, *, width: int, scheme: str = "light", media: str = "screen") -> None:
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def evaluate(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        found = self.call("Page.printToPDF", preferCSSPageSize=False, paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A headless browser; a test that needs one is skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here (tried {', '.join(NAMES)})")
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    # The browser reads commands from descriptor 3 and answers on 4.
    shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["bash", "-c", shell, program, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        browser = Browser(ours_out, ours_in)
        yield browser
        browser.session = None
        browser.call("Browser.close")
        process.wait(timeout=SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours_out)
        os.close(ours_in)


# --- the pages --------------------------------------------------------------------------------------------

SECTIONS = ["notes", "result", "cut", "files", "speed", "time", "search", "training", "stayed", "machine"]
SECTIONS += ["reproduce"]
# Whatever ends to the right of the window, but for what scrolls inside its own frame.
STICKING_OUT = """
[...document.querySelectorAll("body *")]
  .filter(one => !one.closest(".scroll, pre, .unseen, svg.plot"))
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(one => one.tagName + "." + one.getAttribute("class"))
"""
# How much a picture is made smaller on the screen.
SCALES = "[...document.querySelectorAll('img.plot')].map(one => one.clientWidth / one.naturalWidth)"
BACK = "getComputedStyle(document.body).backgroundColor"
FAILURES = ("Network.loadingFailed", "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(rich: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    path.write_text(report.html(report.read(rich)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sweep(make_sweep: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_sweep(tmp_path_factory.mktemp("sweeps") / "s")
    path = run / "page.html"
    path.write_text(report.html(report.read(run)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_everything_is_shown_and_nothing_fails_to_load(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    shown = browser.evaluate(
        "[...document.querySelectorAll('section')].filter(one => one.offsetHeight > 40).map(one => one.id)"
    )
    assert shown == SECTIONS
    assert [event for event in browser.events if event.get("method") in FAILURES] == []
    requests = [e["params"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert {one["request"]["url"].partition(":")[0] for one in requests} <= {"file", "data"}
    assert len([one for one in requests if one["request"]["url"].startswith("file:")]) == 1


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out_to_the_side(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(STICKING_OUT) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_numbers_of_groups_taken_together_have_room(
    browser: Browser, rich: Path, tmp_path: Path, width: int
) -> None:
    data = report.read(rich)
    assert isinstance(data, report.RunData)
    groups = [
        GroupWidth(name=f"blocks.{i}.{part}", width=16 + 70 * i, kept=8 + 48 * i, flops_share=0.9)
        for i in range(9)
        for part in "abcd"
    ]
    path = tmp_path / "page.html"
    changed = data.summary.model_copy(update={"groups": groups})
    path.write_text(report.html(dataclasses.replace(data, summary=changed)), encoding="utf-8")
    browser.open(path, width=width)
    numbers = "[...document.querySelectorAll('.groups .row:not(.head) .number')]"
    assert "8\N{EN DASH}392 of 16\N{EN DASH}576" in browser.evaluate(f"{numbers}.map(one => one.textContent)")
    assert browser.evaluate(f"{numbers}.filter(one => one.scrollWidth > one.clientWidth + 1).length") == 0
    assert browser.evaluate(STICKING_OUT) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1160])
def test_nothing_of_several_budgets_sticks_out_either(browser: Browser, sweep: Path, width: int) -> None:
    browser.open(sweep, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(STICKING_OUT) == []
    too_long = (
        "[...document.querySelectorAll('.row > *')].filter(one => one.scrollWidth > one.clientWidth + 1)"
    )
    assert browser.evaluate(f"{too_long}.map(one => one.textContent)") == []


def test_letters_of_the_pictures_can_be_read_on_a_phone(browser: Browser, page: Path, rich: Path) -> None:
    browser.open(page, width=390)
    scales = browser.evaluate(SCALES)
    drawn = [one.svg for one in plots.draw(report.read(rich)) if one.section]
    assert len(scales) == len(drawn) == 6
    sizes = [
        float(size) for svg in drawn for size in re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", svg)
    ]
    # Letters are in points of the picture, of which a pixel is 3/4.
    assert min(scales) * min(sizes) * 4 / 3 > 9


def test_two_pictures_stand_side_by_side_on_a_wide_screen(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    tops = "[...document.querySelectorAll('#search figure')].map(one => one.getBoundingClientRect().top)"
    assert len(set(browser.evaluate(tops)[:2])) == 1


def test_light_dark_and_paper(browser: Browser, page: Path) -> None:
    found = []
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        browser.open(page, width=800, scheme=scheme, media=media)
        found.append(browser.evaluate(BACK))
    light, dark, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in found)
    assert light > 700 and dark < 100 and paper == 3 * 255


def test_on_paper_what_is_folded_is_open(browser: Browser, page: Path) -> None:
    tall = "document.querySelector('#reproduce details').offsetHeight"
    browser.open(page, width=800)
    folded = browser.evaluate(tall)
    browser.open(page, width=800, media="print")
    assert browser.evaluate(tall) > folded  # although the line to click on is gone
    assert browser.evaluate("document.querySelector('nav').offsetHeight") == 0
