"""The notebook's cells, run in order with the tests' tiny sizes in place of the quick ones."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from scripts import FLAGS, ROOT, Workshop

NOTEBOOK = ROOT / "examples" / "quick_run.ipynb"
ROUND = "--on-policy-episodes 1 --iterative-episodes 1 --score-tracks 1"
TIMEOUT = 600  # seconds for a cell


def shortened(source: str, folder: Path) -> str:
    """A cell on folders of its own, each script with tiny sizes, nothing installed."""
    for name in ("data/quick", "runs/quick"):
        source = source.replace(name, str(folder / name))
    source = re.sub(
        r"^!python (-m )?(\S+\.py|tools\.iterate)(.*)$",
        lambda match: f"!python {match[1] or ''}{match[2]} {match[3]} {' '.join(FLAGS[match[2]])}",
        source,
        flags=re.MULTILINE,
    )
    source = source.replace("--rounds 1", f"--rounds 1 {ROUND}")
    source = re.sub(r"--episodes \d+", "--episodes 2", source)
    return "pass" if "%pip" in source else source


def test_outputs_are_stripped() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] for cell in code)
    assert all(cell["execution_count"] is None for cell in code)


def test_every_cell_runs(workshop: Workshop, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install -r requirements/extras.txt")
    nbclient = pytest.importorskip("nbclient", reason="pip install -r requirements/extras.txt")
    pytest.importorskip("ipykernel", reason="pip install -r requirements/extras.txt")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = shortened(cell.source, tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    # nbclient starts the kernel with its own environment, to which this is added.
    client.execute(env={**workshop.environment, "PATH": path})
    run = tmp_path / "runs" / "quick"
    assert (run / "report.html").exists()
    assert len(json.loads((run / "evaluation.json").read_text())["scores"]) == 8
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds  # figures and the film
