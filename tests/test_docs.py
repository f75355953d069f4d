"""The Python examples of the README and the docs run, and print what the page shows after them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_NEEDS_MORE = re.compile(r'"(?:path/to/|runs/mlp-)')  # a model or a study that only the reader has
_SEPARATOR = "-- end of example --"


def examples(page: Path) -> list[tuple[str, str | None]]:
    """Return the Python examples of a page, each with the output that the page shows."""
    found = [(match[1], match[2]) for match in _EXAMPLE.finditer(page.read_text(encoding="utf-8"))]
    return [(code, output) for code, output in found if not _NEEDS_MORE.search(code)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_python_examples_run_and_print_what_the_page_shows(page: Path, minilm: Path, tmp_path: Path) -> None:
    """The examples of a page run in order, in one process."""
    (tmp_path / "minilm").symlink_to(minilm, target_is_directory=True)
    script = "".join(f"{code}\nprint({_SEPARATOR!r})\n" for code, _ in examples(page))
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    printed = ran.stdout.split(f"{_SEPARATOR}\n")
    for (code, shown), output in zip(examples(page), printed, strict=False):
        assert shown is None or output == shown, f"the page shows another output for:\n{code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_point_to_files_that_exist(page: Path) -> None:
    """mkdocs checks only the site's own pages; the README and links to data files are checked here."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


@pytest.mark.parametrize(
    "page", [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "how-it-works.md"], ids=lambda page: page.name
)
def test_source_files_that_the_docs_name_exist(page: Path) -> None:
    names = re.findall(r"`([a-z_/]+/(?:\w+\.py)?)`", page.read_text(encoding="utf-8"))
    assert names
    for name in names:
        assert any((root / name).exists() for root in (ROOT, ROOT / "src" / "actratio")), f"{name} does not exist"
