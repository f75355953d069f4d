"""The Python examples of the README and the docs run, and print what the page shows after them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_NEEDS_MORE = re.compile(r'"(?:path/to/|runs/mlp-)')  # a model or a study that only the reader has

EXAMPLES = [
    pytest.param(match[1], match[2], id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, match in enumerate(_EXAMPLE.finditer(page.read_text(encoding="utf-8")), start=1)
    if not _NEEDS_MORE.search(match[1])
]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_python_examples_run_as_shown(code: str, output: str | None, minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "minilm").symlink_to(minilm, target_is_directory=True)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    if output is not None:
        assert ran.stdout == output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_and_to_files_exist(page: Path) -> None:
    """mkdocs checks only the site's own pages; the README and links to data files are checked here."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
