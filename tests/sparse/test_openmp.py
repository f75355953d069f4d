"""The sparse products use the OpenMP library that torch uses, or one thread."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from actratio.sparse.kernels import openmp
from actratio.sparse.kernels.cpu import CPUProduct
from actratio.sparse.kernels.product import Weights

FIND = """
import ctypes, sys
if sys.argv[1:]: other = ctypes.CDLL(sys.argv[1], int(sys.argv[2]))
import torch
from actratio.sparse.kernels import openmp

class Info(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("symbol", ctypes.c_char_p), ("start", ctypes.c_void_p)]

info = Info()
assert ctypes.CDLL(None).dladdr(ctypes.c_void_p(openmp.parallel_address()), ctypes.byref(info))
library = ctypes.CDLL(info.file.decode())
torch.set_num_threads(7)
print(info.file.decode(), library.omp_get_max_threads())
"""


@pytest.fixture
def other_libgomp(tmp_path: Path) -> Path:
    """A second copy of torch's OpenMP library, as other packages bring one."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    if not found:
        pytest.skip("this torch has no libgomp of its own")
    copy = tmp_path / "libgomp-other.so.1"
    # Without another SONAME, the dynamic linker would take the copy for torch's own.
    content = found[0].read_bytes()
    assert b"libgomp" in content
    copy.write_bytes(content.replace(b"libgomp.so.1\0", b"libgimp.so.1\0").replace(b"libgomp-", b"libgimp-"))
    return copy


def find(*arguments: object, **environment: str) -> tuple[str, int]:
    """Return the file of the library that was found, and the threads that it has after torch was told to use 7."""
    command = [sys.executable, "-c", FIND, *map(str, arguments)]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    path, threads = ran.stdout.split()
    return path, int(threads)


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GOMP_parallel on Linux only")
@pytest.mark.parametrize("mode", ["RTLD_LOCAL", "RTLD_GLOBAL", "LD_PRELOAD"])
def test_openmp_is_the_library_that_torch_calls_when_two_are_loaded(other_libgomp: Path, mode: str) -> None:
    if mode == "LD_PRELOAD":
        path, threads = find(LD_PRELOAD=str(other_libgomp))
    else:
        path, threads = find(other_libgomp, getattr(ctypes, mode))
    assert threads == 7  # torch.set_num_threads reached it
    # A library in the global scope comes first for torch, too.
    assert (path == str(other_libgomp)) == (mode != "RTLD_LOCAL")


@pytest.mark.skipif(sys.platform != "linux", reason="torch has GOMP_parallel on Linux only")
def test_openmp_is_torch_s_own_library() -> None:
    path, threads = find()
    assert threads == 7
    assert "omp" in Path(path).name


def test_an_unknown_openmp_symbol_has_no_address() -> None:
    assert openmp.symbol_address("actratio_no_such_symbol") == 0


def test_without_openmp_the_product_runs_in_one_thread(
    monkeypatch: pytest.MonkeyPatch, randn: Callable[..., Tensor], sparse_randn: Callable[..., Tensor]
) -> None:
    monkeypatch.setattr(openmp, "parallel_address", lambda: 0)
    before = torch.get_num_threads()
    rows, up = randn(200, 30), randn(200, 12, seed=2)
    hidden, x = sparse_randn(3, 200, ratio=0.2), randn(3, 12, seed=3)
    try:
        torch.set_num_threads(2)
        found = CPUProduct(Weights(rows, up=up))(hidden, hidden.numel(), x)
    finally:
        torch.set_num_threads(before)
    assert found is not None
    torch.testing.assert_close(found, (hidden * (x @ up.t())) @ rows, rtol=1e-4, atol=1e-4)
