"""What our code never does: unpickle, evaluate text, start a shell, or put text into a page without escaping it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted((ROOT / "src" / "actratio").rglob("*.py"))
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "tarfile"}
"""Modules that run what they read, or unpack under the names in an archive."""
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save", "np.load", "numpy.load",
    "np.save", "numpy.save", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "pd.read_pickle", "pandas.read_pickle",
    "shutil.unpack_archive", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "runpy.run_path", "markupsafe.Markup",
}  # fmt: skip
METHODS = {"to_pickle", "read_pickle", "extractall", "from_string"}
ARGUMENTS = {"allow_pickle": (True,), "weights_only": (False,), "shell": (True,), "trust_remote_code": (True,)}


def offences(tree: ast.AST) -> Iterator[str]:
    """Yield what a module does that ours must not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"imports {node.module}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            empty = [ast.unparse(argument) for argument in node.args] == ["''"]
            if (name in CALLS and not empty) or name.rpartition(".")[2] in METHODS:
                yield f"calls {name}"
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and keyword.value.value in ARGUMENTS.get(
                    keyword.arg or "", ()
                ):
                    yield f"passes {keyword.arg}={keyword.value.value} to {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_module_runs_what_it_reads(path: Path) -> None:
    assert list(offences(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "import dill.source", "eval(x)", "exec('x')", "torch.load(f)", "np.load(f)",
        "f(allow_pickle=True)", "from_pretrained(n, trust_remote_code=True)", "f(weights_only=False)", "yaml.load(f)", "df.to_pickle(p)",
        "subprocess.run(c, shell=True)", "archive.extractall(p)",
    ],
)  # fmt: skip
def test_offences_are_found(code: str) -> None:
    assert list(offences(ast.parse(code)))


def test_yaml_is_read_with_the_safe_loader_only() -> None:
    for path in SOURCES:
        assert set(re.findall(r"yaml\.(\w*load\w*)", path.read_text(encoding="utf-8"))) <= {"safe_load"}


def test_only_our_own_scripts_and_escaped_json_are_put_into_the_page_as_they_are() -> None:
    for path in (ROOT / "src" / "actratio" / "report" / "templates").glob("*.html"):
        safe = re.findall(r"\{\{ (\w+) \| safe \}\}", path.read_text(encoding="utf-8"))
        assert set(safe) == {"style", "script", "plotly", "figures", "table"}
        assert path.read_text(encoding="utf-8").count("safe }}") == len(safe)
    page = (ROOT / "src" / "actratio" / "report" / "page.py").read_text(encoding="utf-8")
    assert "autoescape=True" in page


def test_the_page_script_writes_no_markup() -> None:
    script = (ROOT / "src" / "actratio" / "report" / "templates" / "page.js").read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setTimeout\(['\"]", script
    )
