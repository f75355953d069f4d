"""Dropping outputs in four ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio.errors import SiteError
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.masking import hidden_hooks
from actratio.studies.interventions import WAYS, dropping, nonpositive_means

IDS = torch.arange(3, 27).view(2, 12)


def hidden_outputs(model: nn.Module, mlps: list[MLP], ids: Tensor = IDS) -> list[Tensor]:
    """What each down projection reads."""
    seen: list[Tensor] = []
    with hidden_hooks(mlps, lambda mlp, hidden: seen.append(hidden.detach())), torch.no_grad():
        model(ids)
    return seen


def dropped_outputs(model: nn.Module, mlps: list[MLP], way: str, share: float = 1.0, **options: Any) -> list[Tensor]:
    """What each down projection reads while outputs are dropped; hooks run in the order in which they were added."""
    with dropping(mlps, way, share, **options):
        return hidden_outputs(model, mlps)


@pytest.fixture
def model(tiny_gpt2: Callable[..., Any]) -> Any:
    model = tiny_gpt2("gelu_new", initializer_range=0.2)  # so small that no output is rounded to 0
    with torch.no_grad():  # columns of different norms, so that contribution and magnitude differ
        for block in model.transformer.h:
            block.mlp.c_proj.weight.mul_(torch.linspace(0.1, 3, 48).unsqueeze(1))
    return model


def test_by_sign_exactly_the_nonpositive_outputs_become_zero(model: Any) -> None:
    mlps = resolve(model)
    before = hidden_outputs(model, mlps[:1])[0]
    after = dropped_outputs(model, mlps[:1], "sign")[0]
    assert torch.equal(after, before.clamp_min(0))
    assert (before < 0).float().mean() > 0.2


def test_all_ways_drop_equally_many_at_each_token(model: Any) -> None:
    mlps = resolve(model)[:1]
    before = hidden_outputs(model, mlps)[0]
    expected = (before <= 0).sum(-1)
    for way in ("sign", "least", "random"):
        assert torch.equal((dropped_outputs(model, mlps, way)[0] == 0).sum(-1), expected), way
    half = (0.5 * expected.double()).round().long()
    for way in ("sign", "least", "random"):
        after = dropped_outputs(model, mlps, way, 0.5)[0]
        assert torch.equal((after == 0).sum(-1), half), way
        assert torch.equal(after[after != 0], before[after != 0])
        if way == "sign":
            assert bool((before[after == 0] <= 0).all())


def test_the_least_contributions_are_those_with_the_smallest_products(model: Any) -> None:
    mlps = resolve(model)[:1]
    before, after = hidden_outputs(model, mlps)[0], dropped_outputs(model, mlps, "least")[0]
    contribution = before.abs() * mlps[0].rows.norm(dim=1)
    largest_dropped = torch.where(after == 0, contribution, 0).amax(-1)
    smallest_kept = torch.where(after == 0, torch.inf, contribution).amin(-1)
    assert bool((largest_dropped <= smallest_kept).all())


def test_means_replace_the_nonpositive_outputs(model: Any) -> None:
    mlps = resolve(model)
    before = hidden_outputs(model, mlps)[0].flatten(0, 1)
    means = nonpositive_means(mlps, lambda: model(IDS))
    oracle = torch.tensor([column[column <= 0].mean() if (column <= 0).any() else 0.0 for column in before.T])
    torch.testing.assert_close(means[mlps[0].site.name], oracle)
    after = dropped_outputs(model, mlps[:1], "mean", means=means)[0].flatten(0, 1)
    assert torch.equal(after, torch.where(before <= 0, means[mlps[0].site.name], before))
    # The mean of each neuron over these tokens is kept.
    torch.testing.assert_close(after.mean(0), before.mean(0))
    half = dropped_outputs(model, mlps[:1], "sign", 0.5)[0]
    replaced = dropped_outputs(model, mlps[:1], "mean", 0.5, means=means)[0]
    assert torch.equal(half == 0, replaced != hidden_outputs(model, mlps[:1])[0])  # the same outputs are drawn


def test_random_drops_are_repeatable_and_differ_between_layers_calls_and_seeds(model: Any) -> None:
    mlps = resolve(model)

    def two_calls(seed: int) -> list[Tensor]:
        with dropping(mlps, "random", seed=seed), torch.no_grad():
            return [model(IDS).logits, model(IDS).logits]

    first = two_calls(0)
    assert all(torch.equal(left, right) for left, right in zip(first, two_calls(0), strict=True))
    assert not torch.equal(*first)
    assert not torch.equal(first[0], two_calls(1)[0])


def test_the_tally_counts_and_the_model_is_left_as_it_was(model: Any) -> None:
    mlps = resolve(model)
    with torch.no_grad():
        before = model(IDS).logits
    outputs = torch.stack(hidden_outputs(model, mlps[:1]))
    for way in WAYS:
        with dropping(mlps[:1], way, means=nonpositive_means(mlps[:1], lambda: model(IDS))) as tally, torch.no_grad():
            model(IDS)
        assert tally.share == pytest.approx(float((outputs <= 0).float().mean()))
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, before)


def test_relu_loses_nothing_by_sign(tiny_gpt2: Callable[..., Any]) -> None:
    model = tiny_gpt2("relu")
    with torch.no_grad():
        before = model(IDS).logits
        for way in ("sign", "least"):
            with dropping(resolve(model), way):
                assert torch.equal(model(IDS).logits, before)


def test_gated_outputs_are_dropped_by_the_sign_of_the_activation_function(
    tiny_causal_lm: Callable[[str], Any],
) -> None:
    model = tiny_causal_lm("llama")
    mlps = resolve(model)[:1]
    activations: list[Tensor] = []
    handle = mlps[0].activation.register_forward_hook(lambda module, args, output: activations.append(output))
    before = hidden_outputs(model, mlps)[0]
    handle.remove()
    after = dropped_outputs(model, mlps, "sign")[0]
    assert torch.equal(after, torch.where(activations[0] <= 0, 0, before))
    assert bool((before[activations[0] <= 0] > 0).any())
    means = nonpositive_means(mlps, lambda: model(IDS))[mlps[0].site.name]
    dropped = torch.where(activations[0] <= 0, before, 0).flatten(0, 1).sum(0)
    torch.testing.assert_close(means, dropped / (activations[0] <= 0).flatten(0, 1).sum(0).clamp_min(1))


def test_an_mlp_that_can_not_be_resolved_is_named(tiny_causal_lm: Callable[[str], Any]) -> None:
    model = tiny_causal_lm("mixtral")
    with pytest.raises(SiteError, match="can't be dropped"), dropping(resolve(model), "sign"):
        pass
