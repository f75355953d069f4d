"""The rules of the house: types, style, public names, light imports, documentation that builds and runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import actratio

from .conftest import ROOT


def tool(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", "src", "tests", "benchmarks", "docs")
    tool("ruff", "format", "--check", "src", "tests", "benchmarks", "docs")


def test_mypy_strict_finds_nothing() -> None:
    tool("mypy")


def test_docs_build_strictly(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "index.html").is_file()


def test_api_reference_documents_every_public_name() -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")}
    entries = re.findall(r"^::: actratio\.(\w+)$", "\n".join(pages.values()), re.MULTILINE)
    missing = sorted(set(actratio.__all__) - set(entries))
    assert not missing, f"add '::: actratio.{missing[0]}' to a page in docs/reference"
    assert len(entries) == len(set(entries))
    overview = {name for name in actratio.__all__ if f"[actratio.{name}]" in pages["index.md"]}
    assert overview == set(actratio.__all__) - {"__version__"}


@pytest.mark.parametrize("name", [name for name in actratio.__all__ if name != "__version__"])
def test_api_reference_shows_docstring_examples_as_code(name: str) -> None:
    """mkdocstrings draws a ``>>>`` as code only under ``Examples:``."""
    public = getattr(actratio, name)
    members = vars(public).values() if isinstance(public, type) else ()
    for documented in (public, *members):
        docstring = inspect.getdoc(documented) or ""
        lines = [line for line in docstring.split("Examples:")[0].splitlines() if line.lstrip().startswith(">>>")]
        assert not lines, f"{name}: put {lines[0]!r} under a line 'Examples:' and indent it"


def test_public_names_are_complete_and_sorted() -> None:
    assert actratio.__all__ == sorted(actratio.__all__)
    shown = {
        name
        for name in dir(actratio)
        if not name.startswith("_") and not isinstance(getattr(actratio, name), ModuleType)
    } - {"Any", "TYPE_CHECKING", "import_module"}
    assert shown == {name for name in actratio.__all__ if not name.startswith("_")}
    with pytest.raises(AttributeError, match="no attribute 'measures'"):
        _ = actratio.measures  # type: ignore[attr-defined]


def test_type_checkers_and_python_import_a_name_from_the_same_place() -> None:
    source = (ROOT / "src" / "actratio" / "__init__.py").read_text(encoding="utf-8")
    imports = re.findall(r"^    from ([\w.]+) import (.+)$", source, re.MULTILINE)
    assert {name: module for module, names in imports for name in names.split(", ")} == actratio._MODULES


def test_no_module_shares_a_name_with_a_function() -> None:
    """``import actratio.x`` and ``actratio.x`` must not mean two things, in whatever order modules are imported."""
    paths = list((ROOT / "src").rglob("*.py"))
    modules = {path.parent.name if path.stem == "__init__" else path.stem for path in paths}
    functions = {
        name for path in paths for name in re.findall(r"^def (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert modules & functions == set()


def test_importing_is_light() -> None:
    heavy = (
        "scipy",
        "pandas",
        "sklearn",
        "matplotlib",
        "plotly",
        "pyarrow",
        "datasets",
        "transformers",
        "typer",
        "rich",
        "jinja2",
    )
    code = f"import sys; from actratio import *; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("start", ["import actratio", "main(['--version'])", "main(['--help'])", "main([])"])
def test_version_and_help_do_not_wait_for_torch(start: str) -> None:
    """So the command answers in a tenth of a second."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print([name for name in ('torch', 'numpy', 'pandas', 'rich') if name in sys.modules]))\n"
        "def main(arguments):\n"
        "    from actratio import cli\n"
        "    sys.argv = ['actratio', *arguments]\n"
        "    cli.main()\n"
        f"{start}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", [module.name for module in pkgutil.walk_packages(actratio.__path__, "actratio.")])
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    outcome = doctest.testmod(
        module, optionflags=doctest.ELLIPSIS, extraglobs={"torch": importlib.import_module("torch")}
    )
    assert outcome.failed == 0


def test_every_package_is_pinned() -> None:
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = re.findall(r'^\s*"([A-Za-z0-9_-]+)[>=\[;]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    missing = {name.lower().replace("_", "-") for name in wanted} - pins
    assert not missing


def test_the_two_commands_of_the_readme_exist() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
