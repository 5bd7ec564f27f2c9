"""The notebook of the documentation runs from top to bottom, with the results that its text describes."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.slow
def test_the_notebook_runs_and_its_results_are_as_its_text_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(DOCS)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    (errors,) = [text.split()[-2:] for text in texts if text.startswith("constraint error")]
    assert float(errors[1]) < 0.5 * float(errors[0])
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert 0 < float(cells[-1].outputs[0]["data"]["text/plain"]) < 0.005
