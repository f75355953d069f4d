"""Environments that hold the wheel, what it requires, and nothing else: not the repository, and no other package.

The packages are links to those of the environment that runs the tests, so nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SITE = Path(sysconfig.get_paths()["purelib"])


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel."""

    folder: Path

    def python(self, *arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run(self.folder / "bin" / "python", *arguments, cwd=cwd, **variables)

    def actratio(
        self, *arguments: object, cwd: Path, check: int = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        done = self._run(self.folder / "bin" / "actratio", *arguments, cwd=cwd, **variables)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == check, done.stdout + done.stderr
        return done

    @staticmethod
    def _run(program: Path, *arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
        return subprocess.run(
            [program, *map(str, arguments)],
            cwd=cwd,
            env={**inherited, "HF_HUB_OFFLINE": "1", **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )


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
