"""The notebooks run, and what is committed of them reads well: all outputs, no error, no path of a machine."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
# What replaces the cell tagged `parameters`: the same trainings, shorter, and fewer questions.
SHORTER = {"from_thumbs_to_a_model": "steps = 6\nevery = 16"}
A_PATH = re.compile(r"/(home|Users|root|work|tmp|var|usr|opt|mnt|private)/|\b[A-Z]:\\|site-packages|\.venv")
LARGEST = 800_000  # bytes

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def texts_of(output):
    """Everything of an output that is text; pictures are base64, in which any letters may follow each other."""
    texts = [output.get("text", "")]
    texts += [value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return "".join("".join(text) for text in texts)


def test_committed_outputs_are_complete_and_clean(path):
    cells = cells_of(path, "code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run it once, top to bottom"
    for cell in cells:
        source = "".join(cell["source"])
        kinds = [kind for output in cell["outputs"] for kind in output.get("data", {})]
        if "plt.show()" in source or source.strip() == "plot(run)":
            assert "image/png" in kinds, source
        for output in cell["outputs"]:
            assert output["output_type"] != "error", source
            assert output.get("name") != "stderr", texts_of(output)
            assert not (found := A_PATH.search(texts_of(output))), (found, texts_of(output))
    assert path.stat().st_size < LARGEST


def test_links_lead_somewhere(path):
    for cell in cells_of(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)\)", "".join(cell["source"])):
            assert target.startswith("https://") or (path.parent / target).is_file(), target


@pytest.mark.skipif(
    importlib.util.find_spec("nbclient") is None and not os.environ.get("CI"),
    reason="nbclient is not installed (it is in the test extra)",
)
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, whatever the user has at home
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    if shorter := SHORTER.get(path.stem):
        (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        parameters.source = shorter
    here = f"import sys; assert sys.prefix == {sys.prefix!r}, sys.prefix"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(here))
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises CellExecutionError, with the traceback, at the first error
