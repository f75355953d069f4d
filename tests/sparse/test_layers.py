"""Weights whose rows are contiguous, in large pages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio.sparse import densify, layers
from actratio.sparse.converted import Converted
from actratio.sparse.layers import is_laid_out, laid_out, lay_out
from tests.sparse.models import Gated, Plain, X, dense_model, sparse_model
from tests.sparse.test_experts import experts_of, mixtral, sparse

PAGE = 1 << 21
LARGE = (1100, 1000)  # in float32, more than two large pages


@pytest.fixture
def small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put small weights in large pages too."""
    monkeypatch.setattr(layers, "_LEAST", 0)


def begins_at_page(*weights: Tensor) -> bool:
    return all(weight.data_ptr() % PAGE == 0 for weight in weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_large_weights_begin_at_a_large_page(dtype: torch.dtype, is_transposed: bool) -> None:
    rows = torch.randint(-9, 9, (2100, 2000)).to(dtype)
    rows = rows.t() if is_transposed else rows
    laid = laid_out(rows)
    assert torch.equal(laid, rows)
    assert laid.is_contiguous()
    assert begins_at_page(laid)
    assert laid.untyped_storage().nbytes() == laid.nbytes  # all that is saved
    assert laid_out(laid) is laid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_small_weights_and_other_types_are_only_made_contiguous(dtype: torch.dtype) -> None:
    rows = torch.ones(40, 30, dtype=dtype) if dtype == torch.float32 else torch.ones(LARGE, dtype=dtype)
    assert laid_out(rows) is rows
    assert laid_out(rows.t()).is_contiguous()


def test_parameters_keep_their_numbers_and_stay_what_they_are() -> None:
    weight, other = nn.Parameter(torch.rand(LARGE)), nn.Linear(1000, 1100)
    before, other.weight = weight.detach().clone(), weight
    lay_out(weight)
    assert begins_at_page(weight)
    assert torch.equal(weight, before)
    assert other.weight is weight
    assert weight.requires_grad
    other(torch.ones(1, 1000)).sum().backward()
    assert weight.grad is not None


def test_memory_that_others_use_is_left_alone() -> None:
    shared = nn.Parameter(torch.rand(LARGE).share_memory_())
    view = nn.Parameter(torch.rand(2, *LARGE)[1])
    plain = torch.rand(LARGE)  # not a parameter
    transposed = nn.Parameter(torch.rand(LARGE).t())
    for weight in (shared, view, plain, transposed):
        address = weight.data_ptr()
        lay_out(weight)
        assert weight.data_ptr() == address
    assert is_laid_out(shared)
    assert not is_laid_out(view)


@pytest.mark.usefixtures("small_weights")
@torch.no_grad()
def test_both_projections_of_a_gated_mlp_are_in_large_pages() -> None:
    model = sparse_model(dense_model(Gated))
    model(X)
    block: Any = model.get_submodule("blocks.0")
    assert begins_at_page(block.up.weight, block.down.weight)
    for changed in (copy.deepcopy(model), model.double().float()):  # in memory of their own
        torch.testing.assert_close(changed(X), dense_model(Gated)(X), rtol=1e-5, atol=1e-5)
        block = changed.get_submodule("blocks.0")
        assert begins_at_page(block.up.weight, block.down.weight)
    torch.testing.assert_close(densify(model)(X), dense_model(Gated)(X), rtol=1e-5, atol=1e-5)


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
    found = model(X)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and isinstance(layer, Converted):
            assert begins_at_page(layer.weight), layer


@pytest.mark.usefixtures("small_weights")
@torch.no_grad()
def test_int8_weights_of_a_copy_are_laid_out_again() -> None:
    model = sparse_model(dense_model(Gated), weights="int8")
    expected = model(X)
    other = copy.deepcopy(model)
    assert torch.equal(other(X), expected)
    block: Any = other.get_submodule("blocks.0")
    assert begins_at_page(block.up.weight, block.down.weight)
