"""Environments that hold the wheel, what it requires, and nothing else: not the repository, and no other package.

The packages are links to those of the environment that runs the tests, so nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from functools import cached_property
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SITE = Path(sysconfig.get_paths()["purelib"])


SERVER = """
import importlib, importlib.util, json, os, sys
from actratio import cli
import torch

if importlib.util.find_spec("transformers"):
    importlib.import_module("transformers.models.gpt2.modeling_gpt2")
for line in sys.stdin:
    folder, arguments, variables, out, err = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.environ.update(variables)
        for number, path in enumerate((out, err), 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["actratio", *arguments]
        cli.main()
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A program that imports once what takes seconds, and runs each command as a copy of itself."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel."""

    folder: Path

    def python(self, *arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run(self.folder / "bin" / "python", *arguments, cwd=cwd, **variables)

    def script(self, *arguments: object, cwd: Path, check: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the script ``actratio``."""
        return _checked(self._run(self.folder / "bin" / "actratio", *arguments, cwd=cwd), check)

    def actratio(self, *arguments: object, cwd: Path, check: int = 0) -> subprocess.CompletedProcess[str]:
        """Do what the script ``actratio`` does, in a copy of a process that has imported PyTorch and transformers."""
        out, err = (self.folder / name for name in ("stdout", "stderr"))
        words = [str(argument) for argument in arguments]
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([str(cwd), words, _own_variables(), str(out), str(err)]) + "\n")
        stdin.flush()
        status = int(stdout.readline())
        return _checked(
            subprocess.CompletedProcess(words, status, out.read_text("utf-8"), err.read_text("utf-8")), check
        )

    def stop(self) -> None:
        """End the server, if it has started."""
        if "_server" in vars(self):
            self._server.communicate()

    @cached_property
    def _server(self) -> subprocess.Popen[str]:
        command = [self.folder / "bin" / "python", "-c", SERVER]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=self.folder, env=_own_variables())

    @staticmethod
    def _run(program: Path, *arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *map(str, arguments)],
            cwd=cwd,
            env={**_own_variables(), **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )


def _own_variables() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    return {**inherited, "HF_HUB_OFFLINE": "1"}


def _checked(done: subprocess.CompletedProcess[str], status: int) -> subprocess.CompletedProcess[str]:
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stdout + done.stderr
    return done


def metadata(wheel: Path) -> Message:
    """Return the metadata of a wheel; the payload is the long description."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def make_environment(folder: Path, wheel: Path, extras: Sequence[str]) -> Environment:
    """Make a virtual environment with the wheel and what it requires with these extras."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for distribution in _required(metadata(wheel).get_all("Requires-Dist", []), extras):
        # Files of a package may also lie outside, such as its scripts.
        for top in {Path(str(file)).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(SITE / top)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--no-cache-dir", wheel], check=True)
    return Environment(folder)


def _required(lines: Sequence[str], extras: Sequence[str]) -> Iterator[Distribution]:
    """Yield the installed packages that these requirements need, each once, and what they need in turn."""
    installed = {canonicalize_name(found.metadata["Name"]): found for found in distributions(path=[str(SITE)])}
    wanted, seen = [*_applicable(lines, extras)], set()
    while wanted:
        requirement = wanted.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        assert key[0] in installed, f"{requirement.name} is not installed; run make setup"
        distribution = installed[key[0]]
        assert requirement.specifier.contains(distribution.version, prereleases=True) or key[0] == "pandas"
        yield distribution
        wanted += _applicable(distribution.requires or (), requirement.extras)


def _applicable(lines: Sequence[str], extras: Sequence[str] | set[str]) -> Iterator[Requirement]:
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or ("",)):
            yield requirement
