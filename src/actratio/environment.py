"""Describe where actratio runs: packages, what is missing, devices, and the kernels that they use."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement

from actratio.errors import ActratioError, pip_install
from actratio.fast import broken_packages

_NOT_FOR_USERS = ("all", "dev")  # extras that bring nothing of their own


@dataclass(frozen=True)
class Package:
    """A package that actratio needs, or that an extra brings.

    Attributes:
        name: as on the package index.
        version: the installed version, or ``None``.
        needed: the versions that work, such as ``>=2.6``.
        extra: the extra that brings it, or ``None`` if actratio always needs it.
        fits: whether the installed version is one of those that work.
    """

    name: str
    version: str | None
    needed: str
    extra: str | None
    fits: bool

    @property
    def problem_sentence(self) -> str | None:
        """What is wrong and what to do, or ``None``. An extra that isn't installed is no problem."""
        if self.fits or (self.version is None and self.extra is not None):
            return None
        found = "is not installed" if self.version is None else f"has version {self.version}"
        return f'{self.name} {found}, and actratio needs {self.needed}; run pip install "{self.name}{self.needed}"'


@dataclass(frozen=True)
class Kernel:
    """Which code does a part of the work on a device.

    Attributes:
        work: ``counting`` or ``sparse products``.
        device: ``cpu`` or ``cuda``.
        compiled: the dtypes with a compiled kernel; plain PyTorch serves the others.
        threads: threads of the kernel on a CPU; 0 on a GPU, or without a kernel.
    """

    work: str
    device: str
    compiled: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class Environment:
    """What ``inspect_environment`` found.

    Attributes:
        packages: required ones first.
        kernels: for each kind of work and each device.
        devices: names of the processors, by the name that ``--device`` takes.
        broken: kernels whose package is installed but can't be imported, in words.
    """

    packages: list[Package]
    kernels: list[Kernel]
    devices: dict[str, str]
    broken: list[str]

    @property
    def missing_extras(self) -> dict[str, list[str]]:
        """The packages that are missing, by extra."""
        missing: dict[str, list[str]] = {}
        for package in self.packages:
            if package.extra is not None and package.version is None:
                missing.setdefault(package.extra, []).append(package.name)
        return missing

    @property
    def problems(self) -> list[str]:
        """What has to be mended, one sentence each."""
        return [
            *(package.problem_sentence for package in self.packages if package.problem_sentence is not None),
            *self.broken,
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "missing_extras": self.missing_extras, "problems": self.problems}


def inspect_environment() -> Environment:
    """Return what is installed, what is missing, and which kernels this machine uses.

    Raises:
        ActratioError: actratio itself isn't installed, so what it needs is not known.
    """
    devices = _devices()
    broken: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what is broken is listed
        kernels = [kernel for device in ("cpu", "cuda") if device in devices for kernel in _kernels(device, broken)]
    return Environment(_packages(), kernels, devices, [*broken, *broken_packages()])


def _packages() -> list[Package]:
    try:
        needed = [Requirement(line) for line in requires("actratio") or ()]
    except PackageNotFoundError:
        raise ActratioError(
            "actratio is not installed, only its source is here; run pip install in its folder"
        ) from None
    packages = [_package(requirement, extra) for requirement, extra in _for_this_machine(needed)]
    return sorted(packages, key=lambda package: (package.extra is not None, package.extra or ""))


def _for_this_machine(needed: list[Requirement]) -> Iterator[tuple[Requirement, str | None]]:
    """Yield each requirement that applies here, with its extra."""
    for requirement in needed:
        extras = re.findall(r"extra\s*==\s*['\"]([\w-]+)['\"]", str(requirement.marker or ""))
        extra = extras[0] if extras else None
        if extra in _NOT_FOR_USERS or (requirement.marker and not requirement.marker.evaluate({"extra": extra or ""})):
            continue
        yield requirement, extra


def _package(requirement: Requirement, extra: str | None) -> Package:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        found = None
    fits = found is not None and requirement.specifier.contains(found, prereleases=True)
    return Package(requirement.name, found, str(requirement.specifier), extra, fits)


def _devices() -> dict[str, str]:
    import torch

    from actratio.provenance import processor

    devices = {"cpu": processor()}
    for number in range(torch.cuda.device_count()):
        gigabytes = torch.cuda.get_device_properties(number).total_memory / 1e9
        devices["cuda" if number == 0 else f"cuda:{number}"] = (
            f"{torch.cuda.get_device_name(number)}, {gigabytes:.3g} GB"
        )
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _kernels(device: str, broken: list[str]) -> list[Kernel]:
    """Return what counts and multiplies on a device; add what can't be imported to ``broken``."""
    import torch

    from actratio.counting import kernels
    from actratio.counting.criteria import Positive
    from actratio.sparse.kernels import dispatch, openmp

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    tensors = {name: torch.zeros(1, 2, dtype=dtype, device=device) for name, dtype in dtypes.items()}
    ask = {
        "counting": lambda tensor: kernels.has_kernel(tensor, Positive()),
        "sparse products": dispatch.has_kernel,
    }
    found = []
    for work, has_kernel in ask.items():
        try:
            compiled = tuple(name for name, tensor in tensors.items() if has_kernel(tensor))
        except ImportError as error:
            broken.append(f"the kernels for {work} cannot be imported ({error}); run {pip_install('fast')} again")
            compiled = ()
        threads = torch.get_num_threads() if compiled and device == "cpu" else 0
        if work == "sparse products" and openmp.parallel_address() == 0:
            threads = min(threads, 1)
        found.append(Kernel(work, device, compiled, threads))
    return found
