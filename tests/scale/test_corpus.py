"""A corpus measured in shards has the same counts whoever measures them, in any order, interrupted or not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

import actratio
from actratio.counting.measurement import Measurement
from actratio.errors import RunError
from actratio.scale import Corpus, LocalExecutor, Needs, Outcome, Task
from actratio.scale.executors import MakeWorker
from actratio.scale.manifest import later_files, make_manifest
from tests.faults.processes import Command, run_actratio
from tests.scale.shards import counts, options


def test_the_shards_together_are_the_corpus(expected: Any, measured: Path, model: Path) -> None:
    """Measured by hand: each shard by itself, and all of them merged."""
    from actratio.data.text import token_batches
    from actratio.models import load_model, load_tokenizer
    from actratio.scale.shard_reader import shard_texts

    loaded, tokenizer = load_model(str(model)), load_tokenizer(str(model))
    opened = Corpus.load(measured)
    assert len(opened.manifest.shards) == 10
    together: Measurement | None = None
    for shard in reversed(opened.manifest.shards):
        batches = token_batches(tokenizer, shard_texts(shard, "text"), length=16, batch_size=4, packed=False)
        counted = actratio.measure(loaded, batches)
        together = counted if together is None else together.merge(counted)
    assert together is not None
    by_hand = [{name: value.tolist() for name, value in row.counts.to_arrays().items()} for row in together]
    assert by_hand == expected


def test_parts_of_an_array_of_jobs(
    expected: Any, tmp_path: Path, model: Path, corpus: Path, run_command: Callable[..., int], capsys: Any
) -> None:
    out = tmp_path / "parts"
    for part in ("3/3", "1/3", "2/3", "1/3"):  # in any order, and again
        assert run_command(*options(model, corpus, out), "--shards", part) == 0
    assert f"measured part 1 of 3; when all are done, run: actratio merge {out}" in capsys.readouterr().err
    assert run_command("merge", out) == 0
    assert counts(out) == expected


def test_an_unfinished_corpus_tells_what_it_covers(
    expected: Any, tmp_path: Path, model: Path, corpus: Path, run_command: Callable[..., int], capsys: Any
) -> None:
    out = tmp_path / "parts"
    assert run_command(*options(model, corpus, out), "--shards", "1/2") == 0
    assert run_command("merge", out) == 1
    assert "Covered: 30 of 60 rows (50.0%)." in capsys.readouterr().err
    assert run_command(*options(model, corpus, out)) == 0
    assert counts(out) == expected


def test_damaged_results_are_measured_again(
    expected: Any, measured: Path, model: Path, corpus: Path, run_command: Callable[..., int]
) -> None:
    folder = measured / "shards"
    cut, flipped, other = sorted(folder.glob("*.safetensors"))[2:5]
    cut.write_bytes(cut.read_bytes()[:-8])
    with safe_open(flipped, "pt") as opened:
        metadata, arrays = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    arrays["0.active"][3] += 1  # a possible count, which only the checksum tells from the right one
    save_file(arrays, flipped, metadata)
    other.write_bytes(sorted(folder.glob("*.safetensors"))[0].read_bytes())
    assert run_command(*options(model, corpus, measured)) == 0
    assert counts(measured) == expected


def test_a_shard_that_cannot_be_read_is_left_out_until_it_can(
    expected: Any, tmp_path: Path, model: Path, corpus: Path, run_command: Callable[..., int], capsys: Any
) -> None:
    out, content = tmp_path / "out", (corpus / "b.jsonl").read_bytes()
    assert run_command(*options(model, corpus, out), "--shards", "1/10") == 0  # makes the manifest
    (corpus / "b.jsonl").write_bytes(content.replace(b'{"text"', b'{"test"', 1))
    assert run_command(*options(model, corpus, out)) == 1
    message = capsys.readouterr().err
    assert "Covered: 53 of 60 rows (88.3%)." in message
    assert "b.jsonl, rows 0 to 6, has changed since the manifest was made" in message
    assert actratio.load(out).settings["covered_rows"] == 53
    (corpus / "b.jsonl").write_bytes(content)
    assert run_command(*options(model, corpus, out)) == 0
    assert counts(out) == expected
    assert not list((out / "shards").glob("*.failed.json"))


def test_another_measurement_is_not_replaced(
    tmp_path: Path, model: Path, corpus: Path, text: Path, run_command: Callable[..., int], capsys: Any
) -> None:
    out = tmp_path / "out"
    assert run_command("measure", model, "--text", text, "--out", out) == 0
    before = counts(out)
    assert run_command(*options(model, corpus, out)) == 2
    assert "holds a measurement; choose another folder with --out" in capsys.readouterr().err
    assert counts(out) == before
    assert run_command(*options(model, corpus, out), "--force") == 0
    assert counts(out) != before


def test_merged_shards_replace_no_other_measurement(
    expected: Any, measured: Path, tmp_path: Path, model: Path, text: Path, run_command: Callable[..., int], capsys: Any
) -> None:
    other = tmp_path / "other"
    assert run_command("measure", model, "--text", text, "--out", other) == 0
    before = counts(other)
    assert run_command("merge", measured, "--out", other) == 2
    assert "other holds a measurement; choose another folder with --out" in capsys.readouterr().err
    assert counts(other) == before
    assert run_command("merge", measured, "--out", other, "--force") == 0
    assert counts(other) == expected


def test_files_that_came_later_are_named(
    expected: Any, measured: Path, model: Path, corpus: Path, run_command: Callable[..., int], capsys: Any
) -> None:
    (corpus / "empty.txt").touch()
    assert run_command(*options(model, corpus, measured)) == 0
    assert "came after" not in capsys.readouterr().err
    (corpus / "c.txt").write_text("king fox\n")
    assert run_command(*options(model, corpus, measured)) == 0
    message = " ".join(capsys.readouterr().err.split())
    assert "1 file has rows that came after the corpus was cut into shards, and will not be measured (" in message
    assert counts(measured) == expected


def test_files_with_later_rows(tmp_path: Path) -> None:
    grown, new = tmp_path / "a.txt", tmp_path / "b.txt"
    grown.write_text("one\ntwo\n")
    manifest = make_manifest([str(tmp_path)], rows=1)
    assert later_files([str(tmp_path)], manifest) == []
    grown.write_text("one\ntwo\nthree\n")
    new.write_text("four\n")
    assert later_files([str(tmp_path)], manifest) == [str(grown), str(new)]
    grown.unlink()
    assert later_files([str(grown)], manifest) == []  # its shards say so


def test_a_distributed_job_that_does_not_exist(
    tmp_path: Path, model: Path, corpus: Path, run_command: Callable[..., int], capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert run_command(*options(model, corpus, tmp_path / "out")) == 2
    assert "WORLD_SIZE and RANK are set, and their distributed job can't be joined" in capsys.readouterr().err


def test_other_settings_and_two_runs_at_once_are_refused(
    expected: Any, measured: Path, model: Path, corpus: Path, run_command: Callable[..., int], capsys: Any
) -> None:
    out = measured
    assert run_command(*options(model, corpus, out), "--length", 8) == 2
    assert "holds a measurement with other settings (length: 16 there, 8 here)" in capsys.readouterr().err
    with Corpus.load(out).working((0, 1)):
        assert run_command(*options(model, corpus, out)) == 2
    assert "is in use by another process" in capsys.readouterr().err
    assert run_command(*options(model, corpus, out), "--length", 8, "--force") == 0
    assert counts(out) != expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--text", "x.txt"], "--text and --data were given"),
        (["--shards", "0/3"], "--shards 0/3 is not a part; write I/N"),
        (["--shards", "4/3"], "--shards 4/3 is not a part"),
        (["--shards", "1/3", "--force"], "--force starts over, but this process measures only a part; remove"),
        (["--executor", "slurm"], "there is no executor 'slurm'; write local or ray"),
        (["--workers", "2"], "--workers 2 needs workers, and the local executor has none; add --executor ray"),
    ],
)
def test_bad_options(
    given: list[str],
    message: str,
    tmp_path: Path,
    model: Path,
    corpus: Path,
    run_command: Callable[..., int],
    capsys: Any,
) -> None:
    assert run_command(*options(model, corpus, tmp_path / "out"), *given) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def run_rank(arguments: list[object], rank: int, port: int) -> None:
    """Run ``actratio`` as a rank of two, with the variables that torchrun sets."""
    job = {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in job.items()})
    run_actratio(arguments)


def test_two_ranks(expected: Any, tmp_path: Path, model: Path, corpus: Path) -> None:
    """The slow test of the page's commands starts them with torchrun itself."""
    out = tmp_path / "ranks"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = options(model, corpus, out)
    ranks = [Command(partial(run_rank, arguments, rank, port), tmp_path / f"{rank}.log") for rank in (0, 1)]
    assert [rank.finish() for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    assert ["measurement  " in rank.output for rank in ranks] == [True, False]  # rank 0 alone writes
    assert counts(out) == expected


class NoisyExecutor(LocalExecutor):
    """An executor whose library prints to stdout, as Ray does when a worker is lost."""

    def run(self, make_worker: MakeWorker, tasks: Iterable[Task], needs: Needs) -> Iterator[Outcome]:
        for outcome in super().run(make_worker, tasks, needs):
            print("(raylet) A worker died")
            yield outcome


def test_what_libraries_print_stays_out_of_the_result(
    tmp_path: Path,
    model: Path,
    corpus: Path,
    run_command: Callable[..., int],
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actratio.scale.make_executor", lambda name, **options: NoisyExecutor())
    assert run_command(*options(model, corpus, tmp_path / "out"), "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["rows"]
    assert "(raylet) A worker died" in shown.err


def test_the_slurm_script_of_the_page(expected: Any, tmp_path: Path, model: Path, corpus: Path) -> None:
    """Bash runs the script with the variables that Slurm sets for an array of two; then both of its commands run at the same time."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "cluster.md"
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert "#SBATCH --array=1-16" in script
    job = tmp_path / "job.sh"
    job.write_text(script, encoding="utf-8")
    (tmp_path / "MODEL").symlink_to(model)
    actratio_here = tmp_path / "actratio"
    actratio_here.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    actratio_here.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_COUNT": "2"}
    jobs = []
    for number in (1, 2):
        array = {**environment, "SLURM_ARRAY_TASK_ID": str(number)}
        printed = subprocess.run(["bash", job], cwd=tmp_path, env=array, check=True, capture_output=True, text=True)
        arguments = [*printed.stdout.splitlines(), *options(model, corpus, tmp_path)[4:-2]]
        jobs.append(Command(partial(run_in, tmp_path, arguments), tmp_path / f"{number}.log"))
    assert [started.finish() for started in jobs] == [0, 0], jobs[0].output + jobs[1].output
    assert Command(["merge", tmp_path / "runs" / "corpus"], tmp_path / "merge.log").finish() == 0
    assert counts(tmp_path / "runs" / "corpus") == expected


def run_in(folder: Path, arguments: list[object]) -> None:
    """Run ``actratio`` in a folder."""
    os.chdir(folder)
    run_actratio(arguments)


@pytest.mark.slow
def test_the_commands_of_the_page_run_as_written(tmp_path: Path, model: Path, corpus: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
    commands = [
        line[2:] for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL) for line in block.splitlines()
    ]
    assert {command.split()[0] for command in commands} == {"actratio", "torchrun"}
    (tmp_path / "MODEL").symlink_to(model)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = []
    for command in commands:
        if "merge" not in command:
            shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, check=True, capture_output=True)
        found.append(counts(tmp_path / "runs" / "corpus"))
    assert len(found) == 5
    assert all(other == found[0] for other in found)


def test_sources_that_cannot_be_read_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for source in ("missing.txt", "empty.txt"):
        with pytest.raises(actratio.ActratioError):
            Corpus.open(tmp_path / "runs" / "out", [str(tmp_path / source)], 2, {})
        assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_changed_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    Corpus.open(tmp_path / "out", [str(tmp_path / "a.txt")], 2, {"length": 256})
    file = tmp_path / "out" / "shards" / "settings.json"
    file.write_text(file.read_text().replace("256", "255"))
    with pytest.raises(actratio.ActratioError, match=r"settings\.json can't be read \(its checksum does not match\)"):
        Corpus.load(tmp_path / "out")


def test_a_part_beside_the_whole_is_refused(measured: Path) -> None:
    corpus = Corpus.load(measured)
    with corpus.working((0, 1)), pytest.raises(RunError, match="is in use by another process"), corpus.working((0, 2)):
        pass
    refused = pytest.raises(RunError, match="is in use by another process")
    with corpus.working((0, 2)), corpus.working((1, 2)), refused, corpus.working((0, 1)):
        pass
    with corpus.working((0, 1)):
        pass
