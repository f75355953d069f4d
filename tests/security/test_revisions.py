"""Models of the hub, read from its cache without network; pinned revisions, recorded with the commit that was loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actratio.counting.folder import load
from actratio.data import load_dataset
from actratio.data.text import read_texts
from actratio.errors import ModelError
from actratio.models import check_revision, find_source, revision_of
from actratio.studies.transformer.study import TransformerStudy
from tests.conftest import ROOT

OLD, NEW = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_causal_lm: Callable[[str], Any], minilm: Path) -> Path:
    """A cache of the hub with MiniLM and two commits of ``owner/tiny``: ``main`` is the new one, and ``v1`` the old one.

    No download is needed to fill it.
    """
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(
        models.WordLevel({"[UNK]": 0, **{letter: at + 1 for at, letter in enumerate("abcdefgh")}}, "[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    root = tmp_path_factory.mktemp("home") / "hub"
    repository = root / "models--owner--tiny"
    model = tiny_causal_lm("llama")
    for commit, scale in ((OLD, 1.0), (NEW, -1.0)):
        folder = repository / "snapshots" / commit
        with torch.no_grad():
            model.get_parameter("model.embed_tokens.weight").mul_(scale)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (repository / "refs").mkdir()
    for name, commit in (("main", NEW), ("v1", OLD)):
        (repository / "refs" / name).write_text(commit)
    pretrained = root / "models--owner--minilm"
    for name in ("snapshots", "refs"):
        (pretrained / name).mkdir(parents=True)
    (pretrained / "snapshots" / NEW).symlink_to(minilm)
    (pretrained / "refs" / "main").write_text(NEW)
    return root


_SERVER = """
import contextlib, io, json, os, sys, traceback
from actratio import cli
from actratio.report import static
from tests.blank import blank_figure

static.draw_chart = blank_figure
for line in sys.stdin:
    folder, arguments = json.loads(line)
    os.chdir(folder)
    sys.argv = ["actratio", *arguments]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code or 0
        except BaseException:
            traceback.print_exc()
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs commands: the hub's client reads where its cache is when it is imported."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "HF_HOME": str(cache.parent), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    environment.pop("HF_HUB_CACHE", None)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def run(server: subprocess.Popen[str], tmp_path: Path) -> Run:
    def actratio(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps([str(tmp_path), arguments]) + "\n")
        server.stdin.flush()
        ended, out, err = json.loads(server.stdout.readline())
        assert "Traceback" not in err
        assert ended == status, out + err
        return subprocess.CompletedProcess(arguments, ended, out, err)

    return actratio


def test_a_hub_id_is_read_from_the_cache_without_network(run: Run) -> None:
    done = run("measure", "owner/minilm", "--prompt", "A king.", "--out", "run", "--json")
    output = json.loads(done.stdout)
    assert output["settings"]["model"] == "owner/minilm"
    assert len(output["rows"]) == 6


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("v1", OLD)])
def test_measure_loads_and_records_the_revision(run: Run, tmp_path: Path, revision: str | None, commit: str) -> None:
    pinned = [] if revision is None else ["--revision", revision]
    run("measure", "owner/tiny", "--prompt", "abc", "--out", "run", *pinned)
    measured = load(tmp_path / "run")
    assert (measured.settings["revision"], measured.settings["commit"]) == (revision, commit)
    assert commit in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    other = ["--revision", OLD if commit == NEW else NEW]
    run("measure", "owner/tiny", "--prompt", "abc", "--out", "other", *other)
    assert load(tmp_path / "other").fingerprint != measured.fingerprint
    again = run("measure", "owner/tiny", "--prompt", "abc", "--out", "run", *other, status=2).stderr
    assert "other settings (revision:" in again


def test_commands_take_a_revision(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcdefgh" * 200)
    (tmp_path / "lines.txt").write_text("abc\ndef\n")
    common = ("owner/tiny", "--revision", "v1", "--json")
    trained = (*common, "--text", "text.txt", "--length", "16")
    for command in (("sites", *common), ("sparsify", *trained, "--target", "cett=0.2"), ("prune", *trained)):
        settings = json.loads(run(*command).stdout)["settings"]
        assert (settings["revision"], settings["commit"]) == ("v1", OLD), command
    run("measure", "owner/tiny", "--data", "lines.txt", "--revision", "v1", "--out", "corpus")
    corpus = load(tmp_path / "corpus").settings
    assert (corpus["revision"], corpus["commit"]) == ("v1", OLD)
    # The speed is that of the model that was measured, not of the newest.
    settings = json.loads(run("speed", "corpus", "--json").stdout)["settings"]
    assert settings["commit"] == OLD


@pytest.mark.parametrize(
    ("study", "options"),
    [
        ("transformer", ["--prompt", "abc"]),
        ("architectures", ["--texts", "text.txt"]),
        ("activation", ["--parts", "pretrained", "--text", "text.txt", "--documents", "8"]),
    ],
)
def test_studies_take_a_revision(run: Run, tmp_path: Path, study: str, options: list[str]) -> None:
    (tmp_path / "text.txt").write_text("abcdefgh" * 200)
    command = [
        "study",
        study,
        "--models",
        "owner/tiny",
        "--revision",
        "v1",
        "--quick",
        "--json",
        "--out",
        "out",
        *options,
    ]
    settings = json.loads(run(*command).stdout)["settings"]
    assert settings["revision"] == "v1"
    assert settings["fingerprints"] == {"owner/tiny": OLD[:16]}


def test_a_revision_that_is_not_there_is_named(run: Run) -> None:
    said = run("sites", "owner/tiny", "--revision", "v9", status=2).stderr
    assert "no model of this name with the revision v9 in the local cache" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("revision", ["../../etc", "a/../b", "", "-x", "/etc", "a\0b", "a b", "a?b#c"])
def test_a_revision_is_a_name(revision: str) -> None:
    with pytest.raises(ModelError, match="is not a revision; give a branch, a tag or a commit of owner/tiny"):
        find_source("owner/tiny", revision)


def test_what_is_on_this_machine_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a local path, which has no revisions; omit --revision"):
        find_source(str(tmp_path), "main")
    with pytest.raises(ModelError, match="is a local path"):
        check_revision([str(tmp_path)], "main")
    check_revision([str(tmp_path), "owner/tiny"], "main")
    assert revision_of(str(tmp_path), "main") is None
    assert revision_of("owner/tiny", "main") == "main"
    with pytest.raises(ModelError, match="is a local path"):
        TransformerStudy(models=(str(tmp_path),), revision="main")


@pytest.mark.parametrize(
    ("name", "revision"), [("owner/name", None), ("owner/name@v1", "v1"), ("o/n@refs/pr/1", "refs/pr/1")]
)
def test_data_sets_are_pinned_after_an_at(name: str, revision: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str | None]] = []

    def load_from_hub(identifier: str, revision: str | None = None, **options: Any) -> Any:
        asked.append((identifier, revision))
        rows = datasets.Dataset.from_dict({"text": ["a", "b"], "x": [0.0, 1.0], "label": [0, 1]})
        return (
            rows
            if options
            else datasets.DatasetDict({"train": rows.remove_columns("text"), "test": rows.remove_columns("text")})
        )

    monkeypatch.setattr(datasets, "load_dataset", load_from_hub)
    assert list(read_texts(name)) == ["a", "b"]
    assert load_dataset(name).name == name  # recorded with its revision
    assert asked == [(name.partition("@")[0], revision)] * 2
