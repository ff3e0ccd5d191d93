"""How measurements look on a terminal of a hundred columns."""

from __future__ import annotations

import pytest

from jstc.cli import bench_view

BASE = {"bytes": 9, "provider": "cpu", "batch": 1, "p95_ms": 1234.5, "images_per_second": 12345.6,
        "speedup_vs_target": 1.0, "ratio_low": 1.0, "ratio_high": 1.0, "runs": 9}  # fmt: skip


def row(file: str, verdict: str = "gain", **figures: object) -> dict:
    return BASE | {"file": file, "verdict": verdict, "median_ms": 1002.5, "peak_memory_mb": 1234.0} | figures


TARGET = row("bench/target.onnx", "target")
SLIM = row(
    "export/model.fp16.onnx", precision="fp16", median_ms=1002.5 / 12.345, flops_ratio=12.1,
    speedup_vs_target=12.345, ratio_low=11.5, ratio_high=13.5, ideal_share=1.02,
)  # fmt: skip


def said(rows: list[dict], capsys: pytest.CaptureFixture[str]) -> list[str]:
    bench_view.rows(rows)
    return capsys.readouterr().err.splitlines()


def test_the_table_fits_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    bench_view.rows([TARGET, SLIM], title="flops0.5")
    header, *lines = capsys.readouterr().out.splitlines()
    assert max(map(len, [header, *lines])) <= 100
    assert header.split() == [
        "flops0.5", "on", "cpu", "batch", "ms", "p95", "images/s", "MB", "speed-up", "(95", "%)", "ideal",
    ]  # fmt: skip
    assert lines[-1].split() == [
        "model.fp16.onnx", "1", "81.21", "1234.5", "12,346", "1234", "12.35x", "(11.50-13.50)", "102%",
        "gain",
    ]  # fmt: skip


def test_a_table_for_each_provider(capsys: pytest.CaptureFixture[str]) -> None:
    bench_view.rows([TARGET, SLIM, TARGET | {"provider": "cuda"}, SLIM | {"provider": "cuda"}])
    written = capsys.readouterr()
    assert [line.split()[1] for line in written.out.splitlines() if line.lstrip().startswith("on ")] == [
        "cpu", "cuda",
    ]  # fmt: skip
    assert len(written.err.splitlines()) == 2


def test_a_sentence_puts_the_gain_beside_the_flops(capsys: pytest.CaptureFixture[str]) -> None:
    more = SLIM | {
        "batch": 8,
        "speedup_vs_target": 9.0,
        "ratio_low": 8.9,
        "ratio_high": 9.1,
        "ideal_share": 0.74,
    }
    assert said([TARGET, SLIM, more], capsys) == [
        "model.fp16.onnx on cpu: a gain: 12.35x, 9.00x (batch 1, 8), 102%, 74% of the 12.10x its FLOPs allow."
    ]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [(["gain"], ": a gain: "), (["no gain", "no gain"], ": no gain: "), (["unclear"], ": within the noise: "),
     (["gain", "no gain"], ": a gain at some batch sizes only: ")],
)  # fmt: skip
def test_no_gain_is_called_so(verdicts: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("model.onnx", verdict, batch=batch) for batch, verdict in enumerate(verdicts, start=1)]
    [line] = said(rows, capsys)
    assert expected in line


def test_a_gain_that_is_too_small_says_where_gains_begin(capsys: pytest.CaptureFixture[str]) -> None:
    small = {"speedup_vs_target": 1.047, "ratio_low": 1.03, "ratio_high": 1.06, "median_ms": 1002.5 / 1.047}
    [line] = said([row("model.onnx", "no gain", **small)], capsys)
    assert "no gain: 1.05x (batch 1); up to 1.05x counts as none" in line


def test_files_of_one_name_keep_their_folders(capsys: pytest.CaptureFixture[str]) -> None:
    bench_view.rows([row("a/model.onnx", "target"), row("b/model.onnx")])
    written = capsys.readouterr().out
    assert "a/model.onnx" in written
    assert "b/model.onnx" in written


def test_what_was_not_measured_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = [
        {"file": None, "provider": "cuda", "batch": None, "reason": "no driver"},
        {"file": "b.onnx", "provider": "cpu", "batch": 8, "reason": "fixed"},
    ]
    bench_view.show({"rows": [TARGET], "skipped": skipped}, as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        "not measured: cuda: no driver", "not measured: b.onnx on cpu at batch 8: fixed",
    ]  # fmt: skip


def test_operators_of_all_files_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    def profile(file: str, **times: float) -> dict:
        nodes = [
            {
                "node": f"{name}_{'x' * 80}",
                "operator": name,
                "ms": ms,
                "share": 0.5,
                "outputs": [[1, 64, 7, 7]],
            }
            for name, ms in times.items()
        ]
        operators = [{"operator": name, "nodes": 1, "ms": ms, "share": 0.5} for name, ms in times.items()]
        return {"file": file, "provider": "cpu", "batch": 1, "nodes": nodes, "operators": operators,
                "nodes_ms": sum(times.values()), "run_ms": 9.0, "remark": "for a reason"}  # fmt: skip

    bench_view.profiles([profile("target.onnx", Add=1.0, Conv=20.0), profile("model.onnx", Conv=5.0)])
    written = capsys.readouterr()
    lines = [line.split() for line in written.out.splitlines()]
    assert lines[2:5] == [
        ["Conv", "20.00", "50%", "5.000", "50%"], ["Add", "1.000", "50%", "-"],
        ["all", "nodes", "21.00", "5.000"],
    ]  # fmt: skip
    assert max(map(len, written.out.splitlines())) <= 100
    assert "1x64x7x7" in written.out
    assert written.err == "note: for a reason\n"


def test_a_figure_in_doubt_is_told_with_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    """Half the FLOPs and 5.38 times the speed, on a machine that had other work."""
    busy = {"others": 0.61, "waited": 0.3, "stolen": 0.0}
    doubtful = row(
        "export/model.onnx", median_ms=1002.5 / 5.38, flops_ratio=2.0, ideal_share=2.69, disturbance=busy,
        speedup_vs_target=5.38, ratio_low=1.31, ratio_high=7.27,
    )  # fmt: skip
    bench_view.rows([TARGET, doubtful])
    written = capsys.readouterr()
    assert written.out.splitlines()[-1].split()[-1] == "uncertain"
    assert written.err.splitlines() == [
        "model.onnx on cpu: uncertain: about 5x (batch 1), 269% of the 2.00x its FLOPs allow.",
        "  batch 1: 5.38x (1.31 to 7.27): its interval is wide, the machine was busy, it is more than the "
        "2.00x that the FLOPs explain",
    ]


def test_plain_files_have_a_reference_and_no_target(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a.onnx", "target"), row("b.onnx", median_ms=501.25, speedup_vs_target=2.0)]
    loose = row("b.onnx", "no target", batch=3)
    bench_view.rows([*rows, loose], plain_files=True)
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()[-2:]) for line in lines[2:3]] == ["1234 reference"]
    assert lines[-1].endswith("no reference")
