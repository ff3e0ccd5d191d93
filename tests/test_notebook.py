"""The notebook of the documents runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

import html
import re
import sys

import pytest

from tests.helpers.children import ROOT, environment

nbformat = pytest.importorskip("nbformat", reason="the extra `test` brings what executes notebooks")
nbclient = pytest.importorskip("nbclient", reason="the extra `test` brings what executes notebooks")
pytest.importorskip("ipykernel", reason="the extra `test` brings what executes notebooks")

NOTEBOOK = ROOT / "docs" / "notebooks" / "smaller-network.ipynb"


class Outputs:
    """What the code cells of a notebook have shown, by a line of their source."""

    def __init__(self, notebook):
        self.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def of(self, source, kind):
        [cell] = [cell for cell in self.cells if re.search(source, cell.source, re.MULTILINE)]
        data = [output.get("data", {"text/plain": output.get("text", "")}) for output in cell.outputs]
        return "\n".join(each.get(kind, "") for each in data)

    def require_sense(self):
        assert not [o for cell in self.cells for o in cell.outputs if o.output_type == "error"]
        shown = self.of(r"^result = jstc\.search", "text/html")
        assert "the network is trained already" in shown and '<progress value="10" max="10">' in shown
        assert "given network: 9" in shown and "finetune epoch 10/10" in shown
        table = self.of(r"^result$", "text/html")
        cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", table)]
        assert cells[:2] == ["FLOPs", "512 k"] and 40 < float(cells[3].split()[0]) <= 50
        assert "<script" not in table
        found = re.findall(r"(\S+) (\d+\.\d+) % right", self.of("^import onnxruntime", "text/plain"))
        assert [name for name, _ in found] == ["model.onnx", "model.int8.onnx"]
        assert cells[-2].startswith(f"{found[0][1]} %")  # the same answers in onnxruntime


def test_the_stored_notebook_shows_what_it_says():
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    Outputs(notebook).require_sense()
    assert "/home/" not in text and "/tmp/" not in text


@pytest.mark.filterwarnings("default")  # of what executes notebooks
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        cell.pop("outputs", None) if cell.cell_type != "code" else cell.outputs.clear()
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable  # whatever kernel is called python3 here
    client.execute()
    Outputs(notebook).require_sense()
    assert (tmp_path / "deploy" / "MODEL_CARD.md").is_file()
