"""``examples/article.ipynb`` runs, prints what it shows, and agrees with ``actratio``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import ROOT
from .scripts import printed_by

NOTEBOOK = ROOT / "examples" / "article.ipynb"
_CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def printed(published: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the notebook's code prints, run in order in a new process."""
    if not (published.parent / "gpt.csv").is_file():
        pytest.skip(f"the article's published measurements of transformers are not in {published.parent}")
    code = "\n".join("".join(cell["source"]) for cell in _CELLS)
    environment = f"import os\nos.environ['ACTRATIO_REFERENCE'] = {str(published.parent)!r}\n"
    return printed_by(environment + code, folder=NOTEBOOK.parent, place=tmp_path_factory.mktemp("notebook"), draws=True)


def test_the_notebook_prints_what_it_shows(printed: str) -> None:
    outputs = [output for cell in _CELLS for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream"}
    assert printed == "".join("".join(output["text"]) for output in outputs)


def test_plain_pandas_and_actratio_agree(printed: str) -> None:
    """The columns of ``actratio`` repeat those before them."""
    compared = 0
    for line in printed.splitlines():
        words = line.split()
        if line.lstrip().startswith(("FashionMNIST ", "MNIST ")) and len(words) >= 7:
            assert words[2] == words[3]
            assert words[5] == words[6]
            compared += 1
        elif words and words[-1] in ("yes", "no") and words[0].startswith("gpt"):
            assert words[1] == words[2]
            assert words[3] == words[4]
            assert words[5] == words[6]
            compared += 1
    assert compared == 10 + 7
    assert "holds for 1 of 7 models" in printed
    assert "118 of 137 late layers" in printed
    assert "F lies in 3.188 … 3.203 at epochs [11]" in printed


def test_the_notebook_is_a_page_long() -> None:
    assert sum(len("".join(cell["source"]).splitlines()) for cell in _CELLS) < 120
