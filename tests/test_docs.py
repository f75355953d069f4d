"""The Python examples of the README and the docs run, and print what the page shows after them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT
from .scripts import printed_by

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_NEEDS_MORE = re.compile(r'"runs/mlp-|"runs/sparse-|import (?:onnx|llama_cpp)|"smollm2"|^# torchrun ')
"""Marks of examples that need what only the reader has: finished commands, another program, a large model, or torchrun."""
_SEPARATOR = "-- end of example --"


def examples(page: Path) -> list[tuple[str, str | None]]:
    """Return the Python examples of a page, each with the output that the page shows."""
    found = [(match[1], match[2]) for match in _EXAMPLE.finditer(page.read_text(encoding="utf-8"))]
    return [(code, output) for code, output in found if not _NEEDS_MORE.search(code)]


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory: pytest.TempPathFactory, minilm: Path, tiny_gpt2: Callable[..., Any]) -> Path:
    """Make a folder with the models and the text that the examples name."""
    import transformers

    folder = tmp_path_factory.mktemp("reader")
    (folder / "minilm").symlink_to(minilm, target_is_directory=True)
    for name, activation in (("model", "gelu_new"), ("relu-model", "relu")):
        tiny_gpt2(activation).save_pretrained(folder / "path" / "to" / name)
        transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder / "path" / "to" / name)
    (folder / "corpus.txt").write_text("Once upon a time in a faraway land, there was a king who had a fox. " * 60)
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_python_examples_run_and_print_what_the_page_shows(page: Path, readers_folder: Path, tmp_path: Path) -> None:
    """The examples of a page run in order, in one process, which has imported PyTorch and transformers already."""
    script = "".join(f"{code}\nprint({_SEPARATOR!r})\n" for code, _ in examples(page))
    printed = printed_by(script, folder=readers_folder, place=tmp_path).split(f"{_SEPARATOR}\n")
    for (code, shown), output in zip(examples(page), printed, strict=False):
        assert shown is None or output == shown, f"the page shows another output for:\n{code}"


@pytest.mark.usefixtures("blank_figures")
def test_commands_of_the_guide_from_a_model_to_a_decision_run(
    readers_folder: Path, run_command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They run as written, one after the other, but for the installation. Then the model that they wrote generates."""
    page = (ROOT / "docs" / "how-to" / "decide.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in re.findall(r"^\$ (.*)$", page, re.MULTILINE)]
    assert [command[0] for command in commands] == ["pip", "actratio", "actratio", "actratio"]
    (tmp_path / "path").symlink_to(readers_folder / "path")
    (tmp_path / "corpus.txt").write_text((readers_folder / "corpus.txt").read_text() * 5)
    monkeypatch.chdir(tmp_path)
    for name, *arguments in commands:
        if name == "actratio":
            force = ["--force"] if "--fail-if" in arguments else []  # the page's folder is there since the first audit
            assert run_command(*arguments, *force) in ((0, 1) if force else (0,))
    (generate,) = [code for code, _ in _EXAMPLE.findall(page) if "runs/sparse-model" in code]
    assert "once upon a time" in printed_by(generate, folder=tmp_path, place=tmp_path)


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_short(page: Path) -> None:
    rows = 0
    for line in page.read_text(encoding="utf-8").splitlines():
        rows = rows + 1 if line.startswith("|") else 0
        assert rows <= 22, f"{page.name} has a table of more than 20 rows; write it as a data file and link it"


def write_results(docs: Path, place: Path, *arguments: object) -> None:
    """Run the script that writes the pages of the benchmarks, with its figures."""
    script = docs / "results_benchmarks.py"
    code = script.read_text(encoding="utf-8")
    printed_by(code, *arguments, folder=docs, place=place, file=str(script), draws=True)


def test_results_pages_follow_from_their_data(tmp_path: Path) -> None:
    """Writing the pages and figures of the benchmarks again from the data files changes nothing."""
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    write_results(docs, tmp_path)
    for path in sorted((ROOT / "docs" / "results").rglob("*.*")):
        assert (docs / path.relative_to(ROOT / "docs")).read_bytes() == path.read_bytes(), f"{path.name} changed"


def test_benchmark_output_becomes_data_file_table_and_figure(tmp_path: Path) -> None:
    docs, printed = tmp_path / "docs", tmp_path / "trainer.json"
    shutil.copytree(ROOT / "docs", docs)
    row = {
        "article_s": 2.0,
        "one_seed_s": 0.5,
        "five_seeds_s": 1.0,
        "speedup_one_seed": 4.0,
        "speedup_five_seeds": 10.0,
    }
    row |= {"five_over_one": 2.0, "share_of_limit": 0.5, "counting_cost": 0.0123456}
    row |= {"hand_written_s": 0.8, "separate_s": 1.5, "over_hand_written": 1.25, "speedup_separate": 1.5}
    goals = [
        {"goal": "at least 4 times as fast", "measured": 4.0, "met": True},
        {"goal": "under 2 GB", "measured": 3, "met": False},
    ]
    rows = [{"architecture": "784-64-10", **row}, {"architecture": "784-128-10", **row}]
    printed.write_text(json.dumps({"machine": {"processor": "a test"}, "rows": rows, "goals": goals}))
    write_results(docs, tmp_path, "--trainer", printed)
    page = (docs / "results" / "speed.md").read_text(encoding="utf-8")
    assert "| 784-64-10 | 2.00 | 0.500 | 1.000 | 4.0× | 10.0× | 2.00 | 1.25 | 1.5× | 50% | +1.2% |" in page
    assert '"1 of 2 goals met"' in page
    assert "processor a test" in page
    header, *lines = (docs / "results" / "data" / "trainer.csv").read_text().splitlines()
    assert header.startswith("architecture,article_s")
    assert lines[0] == "784-64-10,2.0,0.5,1.0,0.8,1.5,4.0,10.0,2.0,1.25,1.5,0.5,0.0123"
    assert (docs / "results" / "figures" / "trainer-speed.svg").read_bytes() != (
        ROOT / "docs/results/figures/trainer-speed.svg"
    ).read_bytes()


def test_tracker_benchmark_becomes_a_page(tmp_path: Path) -> None:
    docs, printed = tmp_path / "docs", tmp_path / "tracker.json"
    shutil.copytree(ROOT / "docs", docs)
    about = {
        "model": "MLP",
        "mode": "compiled",
        "alone_seconds": 0.01,
        "reading_seconds": 0.011,
        "between_seconds": 0.01,
    }
    about |= {"low": -0.01, "high": 0.01, "graph_breaks": 0, "recompilations": 0}
    rows = [
        {**about, "contestant": "ours", "every": every, "overhead": overhead}
        for every, overhead in (("1", 0.02345), ("10", 0.01), ("50", 0.004), ("log", 0.001))
    ]
    rows.append({**about, "contestant": "hook", "every": "any", "overhead": 0.1, "between_seconds": None})
    memory = [
        {"contestant": "ours", "steps": 10_000, "gpt2_peak_mb": 2000.4, "mlp_early_mb": 400.0, "mlp_late_mb": 401.0}
    ]
    goals = [{"goal": "MLP, compiled: no graph breaks", "measured": 0, "met": True}]
    printed.write_text(json.dumps({"machine": {"processor": "a test"}, "rows": rows, "memory": memory, "goals": goals}))
    write_results(docs, tmp_path, "--tracker", printed)
    page = (docs / "results" / "tracker.md").read_text(encoding="utf-8")
    assert "| MLP | compiled | ours | +2.3% | +1.0% | +0.4% | +0.1% | 0 |" in page
    assert "| MLP | compiled | hook | +10.0% | +10.0% | +10.0% | +10.0% | 0 |" in page
    assert "| ours | 2,000 | 400 | 401 |" in page
    assert "MLP after 1,000 steps, MB | MLP after 10,000 steps, MB" in page
    assert "A reading at every 50th step costs at most 0.4% of the training" in page


@pytest.mark.usefixtures("blank_figures")
def test_the_options_file_of_the_install_page_works(
    readers_folder: Path,
    run_command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"^```yaml\n(.*?)^```\n", page, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^\$ actratio (.* --config .*)$", page, re.MULTILINE)
    for name in ("minilm", "corpus.txt"):
        (tmp_path / name).symlink_to(readers_folder / name)
    (tmp_path / "options.yaml").write_text(written, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_command(*shlex.split(command), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    settings = {name: printed["settings"][name] for name in ("text", "packed", "length", "limit_tokens")}
    assert settings == {"text": ["corpus.txt"], "packed": True, "length": 64, "limit_tokens": 1000}
    assert {row["criterion"] for row in printed["rows"]} == {"positive", "above(0.1)"}
    # The mistake that the page shows gives the error that it shows.
    (tmp_path / "options.yaml").write_text(written.replace("limit-tokens", "limit_tokens"), encoding="utf-8")
    (shown,) = re.findall(r"^  `(options\.yaml: .*)`\.$", page, re.MULTILINE)
    assert run_command(*shlex.split(command), "--json") == 2
    assert capsys.readouterr().err == f"error: {shown}\n"


def commands(page: Path) -> list[list[str]]:
    """Return the words of each ``actratio`` command that a page shows in a console or in a table."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    shown = re.findall(r"^\$ actratio (.*)$", text, re.MULTILINE) + re.findall(r"`actratio ([^`]*)`", text)
    return [shlex.split(line, comments=True) for line in shown]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_and_options_exist(page: Path) -> None:
    from typer import Context
    from typer.main import get_command

    from actratio.cli import app

    for words in commands(page):
        command: Any = get_command(app)
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{page.name} shows a command {words[0]!r} that does not exist"
            _, command, words = command.resolve_command(Context(command), words)
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word for word in words if word.startswith("--")} - options
        assert not unknown, f"{page.name} shows the option {unknown} of {command.name}, which does not exist"
