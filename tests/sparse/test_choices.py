"""Thresholds by error, by share and by loss, and the search for the fewest neurons that a loss allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio.sites.mlps import resolve
from actratio.sparse import choices
from actratio.sparse.choices import LossSearch, at_cett, at_mean_cett, at_ratio, losses_with
from actratio.sparse.curves import SHARES, Curve, dropping_curves
from actratio.sparse.text import SequenceLosses, next_token_loss
from actratio.sparse.thresholds import LayerThresholds
from tests.sparse.calibration_text import hidden_of, token_batches

TinyGPT2 = Callable[..., Any]


def curves_of(model: nn.Module, batches: list[dict[str, Tensor]], by: str = "contribution") -> list[Curve]:
    return dropping_curves(model, resolve(model), batches, by)


def test_cett_target_bounds_the_error_of_every_layer(tiny_gpt2: TinyGPT2) -> None:
    curves = curves_of(tiny_gpt2(), token_batches())
    chosen = at_cett(curves, 0.2)
    assert all(error <= 0.2 for error in chosen.cett.values())
    assert all(share > 0 for share in chosen.dropped.values())
    for curve in curves:
        assert curve.cett[curve.place_at(0.2) + 1] > 0.2


@pytest.mark.parametrize("ratio", [0.3, 0.337, 0.004])
def test_ratio_target_leaves_this_ratio_active(ratio: float, tiny_gpt2: TinyGPT2) -> None:
    chosen = at_ratio(curves_of(tiny_gpt2(), token_batches(), "magnitude"), ratio)
    assert chosen.by == "magnitude"
    assert list(chosen.dropped.values()) == pytest.approx([1 - ratio] * 2, abs=0.001)


def test_ratio_target_of_a_relu_drops_all_zeros(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2("relu"), token_batches(1)
    chosen = at_ratio(curves_of(model, batches), 0.9)
    zeros = [float((h == 0).float().mean()) for h in hidden_of(model, batches[0])]
    assert list(chosen.thresholds.values()) == [0, 0]
    assert list(chosen.cett.values()) == [0, 0]
    assert list(chosen.dropped.values()) == pytest.approx(zeros)


def test_errors_between_the_shares_that_were_tried_are_interpolated(tiny_gpt2: TinyGPT2) -> None:
    for curve in curves_of(tiny_gpt2(), token_batches()):
        assert [curve.cett_at(share) for share in SHARES] == curve.cett
        assert curve.cett_at(0.52) == pytest.approx(0.6 * curve.cett[10] + 0.4 * curve.cett[11])
        assert curve.cett_at(1.0) == 1.0


def test_a_mean_error_drops_the_same_share_everywhere(tiny_gpt2: TinyGPT2) -> None:
    curves = curves_of(tiny_gpt2(), token_batches())
    chosen = at_mean_cett(curves, 0.2)
    first, second = chosen.dropped.values()
    assert first == pytest.approx(second, abs=0.001)
    assert sum(chosen.cett.values()) / 2 == pytest.approx(0.2, abs=1e-4)
    assert max(chosen.cett.values()) > 0.2


# ---- The search for a loss.


def planted(width: int, power: float) -> Any:
    """Return a curve whose error is the dropped share to some power, and whose thresholds are this share."""
    ordered = torch.arange(1, 10_001) / 10_000
    mlp = SimpleNamespace(site=SimpleNamespace(name=f"{width}-{power}", width=width))
    return Curve(
        mlp,  # type: ignore[arg-type]
        "contribution",
        torch.ones(width),
        ordered,
        [float(torch.tensor(share)) for share in SHARES],
        [share**power for share in SHARES],
    )


def planted_search(
    curves: Sequence[Curve], weights: Sequence[float], monkeypatch: pytest.MonkeyPatch
) -> tuple[LossSearch, Callable[[LayerThresholds], float], list[int]]:
    """Return a search whose loss rises by the weighted squares of the errors, this increase, and the calls that computed it."""
    calls: list[int] = []

    def increase(thresholds: Mapping[str, float]) -> float:
        errors = (curve.cett_at(thresholds[curve.mlp.site.name]) for curve in curves)
        return sum(weight * error**2 for weight, error in zip(weights, errors, strict=True))

    def losses(_: object, __: object, thresholds: Mapping[str, float], ___: object) -> SequenceLosses:
        calls.append(1)
        return SequenceLosses(torch.tensor([1 + increase(thresholds) / 100]), torch.ones(1))

    monkeypatch.setattr(choices, "losses_with", losses)
    monkeypatch.setattr(choices, "next_token_loss", lambda model, batches: 1.0)
    return LossSearch(nn.Identity(), curves, []), lambda chosen: increase(chosen.thresholds), calls


def kept(curves: Sequence[Curve], chosen: LayerThresholds) -> float:
    widths = [curve.mlp.site.width for curve in curves]
    left = sum(width * (1 - share) for width, share in zip(widths, chosen.dropped.values(), strict=True))
    return left / sum(widths)


@pytest.mark.parametrize("percent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("weights", "family"),
    [
        ((20.0, 20.0), at_cett),  # the error of both MLPs matters: the one with the flatter curve should drop more
        ((20.0, 0.1), at_mean_cett),  # that of the second one, which is large for any share, hardly matters
    ],
)
def test_the_family_that_needs_fewer_neurons_is_found(
    weights: tuple[float, float], family: Any, percent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = [planted(100, 6.0), planted(300, 0.7)]
    search, increase, calls = planted_search(curves, weights, monkeypatch)
    chosen = search.at(percent)
    assert increase(chosen) <= percent
    assert len(calls) <= 17
    best = {
        way: min(
            kept(curves, tried) for place in range(1001) if increase(tried := way(curves, place / 1000)) <= percent
        )
        for way in (at_cett, at_mean_cett)
    }
    assert min(best, key=best.__getitem__) is family
    assert kept(curves, chosen) == pytest.approx(best[family], abs=0.03)


def test_a_family_that_needs_more_neurons_costs_one_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = [planted(100, 6.0), planted(300, 0.7)]
    one, _, few = planted_search(curves, (20.0, 0.1), monkeypatch)
    one.at(1.0)
    monkeypatch.setattr(LossSearch, "_may_drop_more", lambda *_: True)
    other, _, many = planted_search(curves, (20.0, 0.1), monkeypatch)
    other.at(1.0)
    assert len(few) < len(many)
    before = len(few)
    one.at(1.0)
    assert len(few) == before  # nothing is computed twice


@pytest.mark.parametrize("function", ["gelu_new", "relu"])
def test_no_pair_of_shares_is_much_better_than_what_is_found(function: str, tiny_gpt2: TinyGPT2) -> None:
    """All pairs of shares of a model with two MLPs are tried, on text that this model wrote, so that its MLPs matter."""
    model = tiny_gpt2(function)
    model.transformer.ln_f.weight.data *= 20
    for block in model.transformer.h:
        block.mlp.c_proj.weight.data *= 10
    start = torch.arange(8)[:, None]
    batches = [{"input_ids": model.generate(start, max_length=12, do_sample=False, pad_token_id=0)}]
    curves = curves_of(model, batches)
    dense, percent = next_token_loss(model, batches), 1.0

    def increase(thresholds: LayerThresholds) -> float:
        return 100 * (losses_with(model, curves, thresholds.thresholds, batches).mean / dense - 1)

    pairs = [
        choices._thresholds(
            curves, [curve.threshold_at(share) for curve, share in zip(curves, pair, strict=True)], [0, 0]
        )
        for pair in product([place / 10 for place in range(11)], repeat=2)
    ]
    best = min(kept(curves, pair) for pair in pairs if increase(pair) <= percent)
    chosen = LossSearch(model, curves, batches).at(percent)
    assert increase(chosen) <= percent
    assert 0 < best < 1
    assert kept(curves, chosen) <= best + 0.1


def test_loss_target_bounds_the_loss_and_leaves_the_model_unchanged(tiny_gpt2: TinyGPT2) -> None:
    model, batches = tiny_gpt2(), token_batches()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    curves = curves_of(model, batches)
    chosen = LossSearch(model, curves, batches).at(0.5)
    assert losses_with(model, curves, chosen.thresholds, batches).mean <= next_token_loss(model, batches) * 1.005
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
