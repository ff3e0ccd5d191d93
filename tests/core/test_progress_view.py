"""Progress: bounded plain lines, a live bar within 80 columns, silence."""

from __future__ import annotations

import errno
import io
import re
import sys

import pytest
from rich.console import Console

from jstc.core.numbers import about, figure
from jstc.core.progress import LEFT_IN_ALL, Silent
from jstc.core.progress_view import NotebookProgress, PlainLines, RichProgress, _bars, in_notebook, shown


def test_plain_lines_are_bounded_in_rate_and_end_with_the_last_step(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("jstc.core.progress_view.time.monotonic", lambda: now[0])
    lines = PlainLines(every=5.0)
    lines.start("search", 100, "round")
    for done in range(1, 101):
        now[0] += 0.5
        lines.update(done, accuracy=0.5, loss=1.25, flops=20.5e6)
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("search: round 1/100  acc 50.00 %  loss 1.25  FLOPs 20.5 M")
    assert err[-1].startswith("search: round 100/100")
    assert len(err) == 11
    assert "s left" in err[1]


def test_what_is_left_in_all_is_said_in_minutes_once_it_is_known(capsys):
    lines = PlainLines(every=0.0)
    lines.start("search", 4, "round")
    lines.update(0)
    lines.update(1, loss=1.5, **{LEFT_IN_ALL: 733.0})
    lines.update(2, **{LEFT_IN_ALL: 20.0})
    before, after, short = capsys.readouterr().err.splitlines()
    assert short.startswith("search: round 2/4")
    assert "in all" not in short
    assert before == "search: round 0/4"
    assert after.startswith("search: round 1/4  loss 1.5")
    assert after.endswith("  about 12 min left in all")
    assert "733" not in after


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(20, "less than a minute"), (61, "about 1 min"), (5400, "about 1 h 30 min"), (90_000, "about 25 h")],
)
def test_an_estimate_is_as_fine_as_it_deserves(seconds, text):
    assert about(seconds) == text


def test_a_bar_of_the_whole_command_fits_80_columns():
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with _bars(console) as bars:
        progress = RichProgress(bars)
        progress.start("finetune", 160, "epoch")
        progress.update(1, accuracy=0.99123, loss=0.01234, **{LEFT_IN_ALL: 5400.0})
        progress.finish()
        progress.start("slim", 2, "batch")
        progress.finish()
    text = stream.getvalue()
    assert "in all" in text
    *_, whole = (line for line in re.split(r"[\r\n]", text) if "in all" in line)
    assert re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", whole).rstrip().endswith("about 1 h 30 min left")
    assert "0/100 %" in text
    assert "…" not in text
    assert LEFT_IN_ALL not in text


def test_a_live_bar_fits_80_columns():
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with _bars(console) as bars:
        progress = RichProgress(bars)
        progress.start("finetune", 160, "epoch")
        progress.update(159, accuracy=0.99123, loss=0.01234, flops=2.05e9, lr=0.1)
        progress.message("a remark that stays")
        progress.finish()
    text = stream.getvalue()
    assert "a remark that stays" in text
    assert "acc 99.12 %" in text
    assert "159/160" in text
    assert "…" not in text


def test_bars_of_what_is_done_stand_among_the_messages_in_the_order_of_time():
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with _bars(console) as bars:
        progress = RichProgress(bars)
        for number, label in enumerate(("flops0.7", "flops0.5"), start=1):
            progress.message(f"{label} ({number} of 2):")
            for stage, total in (("finetune", 12), ("slim", 1)):
                progress.start(stage, total, "epoch")
                progress.update(total)
                progress.finish()
        assert bars.tasks == []
    screen = _screen(stream.getvalue())
    found = [line.split()[0] for line in screen if line.strip()]
    assert found == ["flops0.7", "finetune", "slim", "flops0.5", "finetune", "slim"]
    assert len({line.index("━") for line in screen if "━" in line}) == 1
    assert len({line.index("epoch") for line in screen if "epoch" in line}) == 1


def test_what_is_left_in_all_is_gone_when_the_command_is(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with shown(quiet=False, verbose=False) as progress:
        progress.start("search", 2, "round")
        progress.update(2, **{LEFT_IN_ALL: 30.0})
        progress.finish()
        assert "in all" in "".join(_screen(stream.getvalue()))
    assert [line.split()[0] for line in _screen(stream.getvalue()) if line.strip()] == ["search"]


def _screen(text):
    """The lines of a terminal that got the text: rich moves up one line, or clears one."""
    lines, at = [""], 0
    for piece in re.split(r"(\r|\n|\x1b\[\d*[A-Za-z]|\x1b\[\?\d+[hl])", text):
        if piece == "\n":
            at += 1
            lines += [""] * (at - len(lines) + 1)
        elif piece == "\x1b[1A":
            at -= 1
        elif piece == "\x1b[2K":
            lines[at] = ""
        elif not piece.startswith(("\x1b", "\r")):
            lines[at] += piece
    return lines


def test_quiet_is_silent_and_a_pipe_gets_plain_lines():
    with shown(quiet=True, verbose=False) as silent:
        assert isinstance(silent, Silent)
    with shown(quiet=False, verbose=False) as plain:
        assert isinstance(plain, PlainLines)


def test_a_terminal_gets_the_bar(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with shown(quiet=False, verbose=True) as bar:
        assert isinstance(bar, RichProgress)
        bar.start("search", 2, "round")
        bar.update(1, accuracy=0.5, plan_overlap=0.91)
        bar.finish()
    assert "plan_overlap 0.91" in stream.getvalue()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.91234, "91.23 %"), ("flops", 20.5e6, "20.5 M"), ("params", 999_999, "1.00 M"),
        ("params", 12, "12"), ("loss", 0.123456, "0.1235"), ("seconds", 3, "3.0 s"), ("epochs", 12, "12"),
        ("settled", False, "no"), ("accuracy", None, "-"), ("input", [3, 32, 32], "3, 32, 32"),
        ("flops_share", 0.116, "11.6 %"), ("chance", 0.1018, "10.18 %"),
    ],
)  # fmt: skip
def test_figures(name, value, text):
    assert figure(name, value) == text


class Closed(io.StringIO):
    """A terminal that has been closed."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_a_terminal_that_is_closed_stops_nothing(monkeypatch, terminal):
    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setenv("TERM", terminal)
    with shown(quiet=False, verbose=True) as progress:
        progress.start("search", 2, "round")
        progress.update(1, loss=0.5)
        progress.message("told to nobody")
        progress.finish()


def test_any_other_fault_of_the_stream_is_one(monkeypatch):
    stream = Closed()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(stream, "write", lambda text: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        PlainLines(every=0).message("a line")


class Display:
    """IPython's `display`, and what its handle was updated with."""

    def __init__(self):
        self.pages, self.texts = [], []

    def __call__(self, shown, *, display_id):
        assert display_id is True
        self.update(shown)
        return self

    def update(self, shown):
        self.pages.append(shown._repr_html_())
        self.texts.append(repr(shown))


def test_a_notebook_gets_one_output_that_ends_as_it_ended(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("jstc.core.progress_view.time.monotonic", lambda: now[0])
    display = Display()
    notebook = NotebookProgress(display)
    notebook.message("a <b>remark</b>\x1b[31m")
    notebook.start("search", 100, "round")
    for done in range(1, 101):
        now[0] += 0.05
        notebook.update(done, accuracy=0.5, flops=20.5e6)
    assert any("s left" in text for text in display.texts)
    notebook.finish()
    assert 15 < len(display.pages) < 30
    text = "a <b>remark</b>\x1b[31m\nsearch round 100/100  acc 50.00 %  FLOPs 20.5 M"
    assert display.texts[-1] == text
    assert '<progress value="100" max="100"></progress> search round 100/100' in display.pages[-1]
    assert "a &lt;b&gt;remark&lt;/b&gt;\\x1b[31m" in display.pages[-1] and "<script" not in display.pages[-1]


def test_a_kernel_of_a_notebook_is_known_by_its_shell(monkeypatch):
    class Shell:
        kernel = None

    class Module:
        @staticmethod
        def get_ipython():
            return Shell()

        display = Display()

    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", Module)
    monkeypatch.setitem(sys.modules, "IPython.display", Module)
    assert in_notebook()
    with shown(quiet=False, verbose=False) as progress:
        assert isinstance(progress, NotebookProgress)
        progress.message("hello")
    assert Module.display.texts == ["hello"]
