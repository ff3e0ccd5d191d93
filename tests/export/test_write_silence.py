"""What libraries say in the block is kept; what is said after it is heard."""

from __future__ import annotations

import logging
import warnings

import pytest

from jstc.export.write import silence


def test_what_is_said_is_kept_and_errors_come_through(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), silence() as said:
        print("noise")
        raise KeyError
    assert said.getvalue() == "noise\n"
    print("heard")
    assert capsys.readouterr().out == "heard\n"


def test_warnings_and_logs_are_silent_inside_only(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handlers = logging.getLogger().handlers[:]
    with silence():
        warnings.warn("noise", UserWarning, stacklevel=1)
        logging.warning("noise")
        logging.getLogger("onnxscript").critical("noise")
    assert logging.getLogger().handlers == handlers
    logging.getLogger("mine").error("heard")
    assert [record.message for record in caplog.records] == ["heard"]
    assert capsys.readouterr() == ("", "")
