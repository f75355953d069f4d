"""Weights whose rows are contiguous, in large pages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from actratio.sparse import densify, layers
from actratio.sparse.converted import Converted
from actratio.sparse.layers import in_large_pages, move_to_large_pages
from tests.sparse.models import Gated, Plain, X, dense_model, sparse_model
from tests.sparse.test_experts import experts_of, mixtral, sparse

PAGE = 1 << 21
FULL = (2096, 2000)  # fills all but 2 KB of its large pages in int8, and little more in other types
UNUSED = (1100, 1000)  # in float32, it would leave 1.8 of 6 MB unused


@pytest.fixture
def small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put small weights in large pages too."""
    monkeypatch.setattr(layers, "_fills_large_pages", lambda rows: rows.dtype in layers._DTYPES)


def begins_at_page(*weights: Tensor) -> bool:
    return all(weight.data_ptr() % PAGE == 0 for weight in weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_large_weights_begin_at_a_large_page(dtype: torch.dtype, is_transposed: bool) -> None:
    rows = torch.randint(-9, 9, FULL).to(dtype)
    rows = rows.t() if is_transposed else rows
    found = in_large_pages(rows)
    assert torch.equal(found, rows)
    assert found.is_contiguous()
    assert begins_at_page(found)
    assert found.untyped_storage().nbytes() == found.nbytes  # all that is saved
    assert in_large_pages(found) is found


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no large pages")
def test_large_pages_are_asked_for_memory_that_nobody_has_used() -> None:
    """``malloc`` may return memory that is in small pages already, because it was used before."""
    size = 3 * PAGE - 100
    found = layers._in_new_pages(size)
    start, end, said = memory_at(found.data_ptr() + size - 1)
    assert "hg" in said["VmFlags:"]
    assert int(said["Rss:"][0]) <= 4  # KB: nothing but the page whose address was read
    assert start <= found.data_ptr()
    assert found.data_ptr() + 3 * PAGE <= end  # the last page can be a large one, too


def memory_at(address: int) -> tuple[int, int, dict[str, list[str]]]:
    """Return the first address of the memory that an address belongs to, the one after its last, and what Linux says of it."""
    start = end = 0
    said: dict[str, list[str]] = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if name.endswith(":"):
            if start <= address < end:
                said[name] = rest
        elif said:
            break
        else:
            start, end = (int(number, 16) for number in name.split("-"))
    return start, end, said


def test_too_little_memory_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.mmap, "mmap", Mock(side_effect=OSError(12, "Cannot allocate memory")))
    with pytest.raises(MemoryError, match=r"cannot allocate 16,768,000 bytes for a weight"):
        in_large_pages(torch.ones(FULL))


def test_a_system_without_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.mmap, "MADV_HUGEPAGE", 999)  # madvise refuses it
    assert begins_at_page(in_large_pages(torch.ones(FULL)))
    monkeypatch.setattr(layers, "_HAS_LARGE_PAGES", False)
    rows = torch.ones(FULL)
    assert in_large_pages(rows) is rows


@pytest.mark.parametrize(
    "rows", [torch.ones(40, 30), torch.ones(UNUSED), torch.ones(FULL, dtype=torch.float16), torch.ones(FULL).to("meta")]
)
def test_other_weights_are_only_made_contiguous(rows: Tensor) -> None:
    assert in_large_pages(rows) is rows
    assert in_large_pages(rows.t()).is_contiguous()


def test_parameters_keep_their_numbers_layers_and_gradients() -> None:
    weight, layer = nn.Parameter(torch.rand(FULL)), nn.Linear(2000, 2096)
    before, layer.weight = weight.detach().clone(), weight
    move_to_large_pages(weight)
    assert begins_at_page(weight)
    assert torch.equal(weight, before)
    assert layer.weight is weight
    layer(torch.ones(1, 2000)).sum().backward()
    assert weight.grad is not None


def test_memory_that_others_use_is_left_alone() -> None:
    shared = nn.Parameter(torch.rand(FULL).share_memory_())
    view = nn.Parameter(torch.rand(2, *FULL)[1])
    plain = torch.rand(FULL)  # not a parameter
    transposed = nn.Parameter(torch.rand(FULL).t())
    for weight in (shared, view, plain, transposed):
        address = weight.data_ptr()
        move_to_large_pages(weight)
        assert weight.data_ptr() == address


@pytest.mark.usefixtures("small_weights")
@torch.no_grad()
def test_parameters_that_share_memory_go_on_sharing_it() -> None:
    model = dense_model(Gated)
    for block in model.blocks:  # type: ignore[union-attr]
        block.up.weight = nn.Parameter(block.gate.weight.detach())
    expected = model(X)
    sparse_model(model, dense=True)
    torch.testing.assert_close(model(X), expected, rtol=1e-5, atol=1e-5)
    for block in model.blocks:  # type: ignore[union-attr]
        assert isinstance(block, Converted)
        assert isinstance(block.gate, Converted)
        assert block.up.weight.data_ptr() == block.gate.weight.data_ptr()


@pytest.mark.usefixtures("small_weights")
@torch.no_grad()
def test_both_projections_of_a_gated_mlp_are_in_large_pages() -> None:
    model = sparse_model(dense_model(Gated))
    block: Any = model.get_submodule("blocks.0")
    addresses = block.up.weight.data_ptr(), block.down.weight.data_ptr()
    assert begins_at_page(block.up.weight, block.down.weight)
    for other in (model, copy.deepcopy(model), copy.deepcopy(model).double().float()):
        torch.testing.assert_close(other(X), dense_model(Gated)(X), rtol=1e-5, atol=1e-5)
    assert addresses == (block.up.weight.data_ptr(), block.down.weight.data_ptr())
    torch.testing.assert_close(densify(model)(X), dense_model(Gated)(X), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_weights_do_not_move_in_a_forward_pass() -> None:
    """Another thread may be reading them."""
    model = sparse_model(dense_model(Gated), dense=True)
    before = [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_fills_large_pages", lambda rows: True)
        model(X)
    assert [parameter.data_ptr() for parameter in model.parameters()] == before


@pytest.mark.usefixtures("small_weights")
@torch.no_grad()
def test_experts_are_in_large_pages() -> None:
    model = sparse(mixtral())
    experts = experts_of(model)
    assert begins_at_page(experts.gate_up_proj, experts.down_proj)
    ids = torch.arange(8)[None]
    torch.testing.assert_close(model(ids).logits, mixtral()(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small_weights")
@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("kind", [Plain, Gated])
@torch.no_grad()
def test_all_converted_layers_are_in_large_pages(kind: Callable[[], nn.Module], weights: str | None) -> None:
    model = dense_model(kind)
    expected = model(X)
    sparse_model(model, dense=True, weights=weights)
    torch.testing.assert_close(model(X), expected, rtol=0.05, atol=0.05)
    converted = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and isinstance(layer, Converted)]
    assert converted
    assert begins_at_page(*(layer.weight for layer in converted))
    other = copy.deepcopy(model)
    assert torch.equal(other(X), model(X))
