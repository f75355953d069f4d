"""Useful outputs: golden cases by hand, all thresholds tried one by one, and what a measurement makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio import Measurement, Probe, SiteCounts, find_sites, load, measure
from actratio.counting.useful import MOST_TOKENS, rows_of_site, useful_outputs
from actratio.sites.mlps import resolve
from tests.conftest import make_tiny_causal_lm as tiny

ONES = torch.ones(4, 1)


@pytest.mark.parametrize(
    ("hidden", "rows", "bound", "useful"),
    [
        ([[8.0, 1.0, 1.0, 0.0]], ONES, 0.2, 1),  # without the ones, 2 of 10 are missing
        ([[8.0, 1.0, 1.0, 0.0]], ONES, 0.19, 3),  # both ones are at the threshold, or neither is
        ([[8.0, 1.0, 0.5, 0.0]], ONES, 0.1, 2),
        ([[8.0, -1.0, 1.0, 0.0]], ONES, 0.1, 1),  # what is dropped cancels
        ([[1.0, 1.0, 1.0, 1.0]], torch.tensor([[9.0], [0.5], [0.0], [0.5]]), 0.2, 1),  # the norms of the rows count
        ([[4.0, 1.0, 0.0, 0.0], [0.1, 0.4, 0.0, 0.0]], ONES, 0.1, 3),  # 0 and 0.2: the mean of two tokens is 0.1
        ([[4.0, 1.0, 0.0, 0.0], [0.1, 0.4, 0.0, 0.0]], ONES, 0.05, 4),
        ([[0.0, 0.0, 0.0, 0.0]], ONES, 0.2, 0),
        ([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], ONES, 0.2, 1),
        ([[1.0], [-2.0], [0.0]], torch.ones(1, 1), 0.2, 2),  # one neuron
        ([[1.0, 2.0, 3.0, 4.0]], ONES, 0.0, 4),
        ([[2.0, -1.0, -1.0, 0.0]], ONES, 0.2, 0),  # an output of zero needs nothing
    ],
)
def test_useful_outputs_by_hand(hidden: list[list[float]], rows: Tensor, bound: float, useful: int) -> None:
    assert useful_outputs(torch.tensor(hidden), rows, bound) == useful


def test_no_tokens_need_no_outputs() -> None:
    assert useful_outputs(torch.zeros(0, 4), ONES) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_have_no_useful_outputs(value: float) -> None:
    assert useful_outputs(torch.tensor([[1.0, value, 0.0, 0.0]]), ONES) is None
    assert useful_outputs(torch.ones(1, 4), torch.tensor([[1.0], [value], [1.0], [1.0]])) is None


def error_without(hidden: Tensor, rows: Tensor, threshold: float) -> float:
    """Mean error without what is at or below a threshold: token by token, neuron by neuron, in float64."""
    norms = [float(row.norm()) for row in rows]
    errors = []
    for token in hidden:
        kept, whole = torch.zeros(rows.shape[1]).double(), torch.zeros(rows.shape[1]).double()
        for value, row, norm in zip(token.tolist(), rows, norms, strict=True):
            whole += value * row
            kept += value * row if abs(value) * norm > threshold else 0.0
        errors.append(float((whole - kept).norm() / whole.norm()) if float(whole.norm()) else 0.0)
    return sum(errors) / len(errors)


@pytest.mark.parametrize("function", [nn.functional.relu, nn.functional.silu, nn.functional.gelu, torch.abs])
@pytest.mark.parametrize("seed", [0, 1])
def test_useful_outputs_are_where_the_error_crosses_the_bound(function: Any, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    hidden = function(torch.randn(7, 20, generator=random)).double()
    rows = torch.randn(20, 5, generator=random).double()
    contributions = (hidden.abs() * rows.norm(dim=1)).flatten()
    thresholds = [0.0, *sorted(set(contributions.tolist()) - {0.0})]
    within = [error_without(hidden, rows, threshold) <= 0.2 for threshold in thresholds]
    kept = [int((contributions > threshold).sum()) for threshold in thresholds]
    crossings = {kept[at] for at in range(len(kept) - 1) if within[at] and not within[at + 1]}
    useful = useful_outputs(hidden, rows)
    assert useful in crossings  # the only one, unless the error goes down and up
    assert len(crossings) > 1 or useful == min(number for number, ok in zip(kept, within, strict=True) if ok)
    assert useful <= int((hidden != 0).sum())


def test_many_outputs_are_searched_to_a_1024th() -> None:
    random = torch.Generator().manual_seed(0)
    hidden, rows = torch.randn(256, 96, generator=random), torch.randn(96, 24, generator=random)
    useful = useful_outputs(hidden, rows)
    assert useful is not None
    ordered = (hidden.abs() * rows.norm(dim=1)).flatten().sort(descending=True).values
    part = hidden.numel() // 1024

    def error(kept: int) -> float:
        dropped = torch.where(hidden.abs() * rows.norm(dim=1) <= ordered[kept], hidden, 0)
        return float(((dropped @ rows).norm(dim=1) / (hidden @ rows).norm(dim=1)).mean())

    assert error(useful) <= 0.2 < error(useful - part)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "phi3", "lfm2"])
def test_a_measurement_counts_them_on_tokens_that_are_no_padding(kind: str) -> None:
    model, ids = tiny(kind).eval(), torch.randint(1, 64, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    entered: dict[str, Tensor] = {}
    mlps = resolve(model)
    hooks = [
        mlp.down.register_forward_pre_hook(lambda _, args, name=mlp.site.name: entered.update({name: args[0]}))
        for mlp in mlps
    ]
    measured = measure(model, [{"input_ids": ids, "attention_mask": mask}])
    for hook in hooks:
        hook.remove()
    for mlp in mlps:
        hidden = entered[mlp.site.name].detach().reshape(-1, mlp.site.width)[mask.flatten().bool()]
        for row in (row for row in measured if row.site.name == mlp.site.name):
            assert row.counts.useful_tokens == 14
            assert row.counts.useful == useful_outputs(hidden, mlp.rows.detach())
            assert row.counts.useful_ratio == row.counts.useful / (14 * mlp.site.width)


class KnownMLP(nn.Sequential):
    """An MLP whose useful outputs are known: its neurons are the inputs."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))
        with torch.no_grad():
            self[0].weight.copy_(torch.eye(4))
            self[2].weight.fill_(1.0)


def of(measurement: Measurement) -> SiteCounts:
    return measurement.rows[0].counts


INPUT = torch.tensor([[9.0, 1.0, 1.0, -5.0]])
"""One of its four outputs is useful."""


def test_they_are_counted_on_the_first_256_tokens() -> None:
    counts = of(measure(KnownMLP(), [INPUT.repeat(100, 1)] * 3))
    assert (counts.tokens, counts.useful_tokens, counts.useful) == (300, MOST_TOKENS, 256)
    assert counts.useful_ratio == 0.25


def test_they_merge_by_adding_up(tmp_path: Path) -> None:
    a, b = measure(KnownMLP(), [INPUT] * 2), measure(KnownMLP(), [torch.ones(3, 4)])
    (a | b).save(tmp_path)
    for merged in (a | b, b | a, load(tmp_path)):
        assert (of(merged).useful_tokens, of(merged).useful) == (5, 2 + 3 * 4)
    assert of(Measurement.from_frame((a | b).to_frame(neurons=True))).useful_ratio == 14 / 20
    assert (a | b).to_frame()["useful_ratio"].tolist() == [14 / 20]


def test_they_are_counted_once_for_several_criteria_and_change_no_count() -> None:
    batches = [INPUT, -INPUT]
    measured = measure(KnownMLP(), batches, criteria=["positive", "nonzero", "contribution(0.1)"])
    alone = measure(KnownMLP(), batches, criteria=["positive", "nonzero", "contribution(0.1)"], counts_alone=True)
    assert [row.counts.useful for row in measured] == [2, 2, 2]
    assert [row.counts.useful_ratio for row in alone] == [None, None, None]
    assert [row.counts.active.tolist() for row in measured] == [row.counts.active.tolist() for row in alone]
    assert of(measured | alone).useful_ratio is None  # as with all that one part did not count


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
def test_counts_alone_leave_them_out(kind: str) -> None:
    measured = measure(tiny(kind), [torch.randint(1, 64, (2, 9))], counts_alone=True)
    assert measured.to_frame()["useful_ratio"].isna().all()


def test_what_is_not_finite_is_missing_and_stays_missing() -> None:
    counts = of(measure(KnownMLP(), [INPUT, INPUT * float("inf"), INPUT]))
    assert counts.tokens == 3
    assert counts.useful_ratio is None


def test_experts_have_none() -> None:
    measured = measure(tiny("mixtral"), [torch.randint(1, 64, (2, 9))])
    assert measured.to_frame()["useful_ratio"].isna().all()


def test_a_computed_weight_is_missing() -> None:
    model = KnownMLP()
    torch.nn.utils.parametrizations.weight_norm(model[2])
    assert of(measure(model, [INPUT])).useful_ratio is None


def test_what_comes_between_the_product_and_the_down_projection_is_seen() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm, self.down = nn.Linear(4, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.norm(torch.relu(self.up(x))))

    torch.manual_seed(0)
    model, x = Scaled(), torch.randn(5, 4)
    counts = of(measure(model, [x]))
    assert counts.useful == useful_outputs(model.norm(torch.relu(model.up(x))), model.down.weight.detach().T)


@pytest.mark.parametrize(
    "weight",
    [
        None,
        torch.zeros(1, 4, dtype=torch.int8),
        torch.zeros(1, 4, device="meta"),
        torch.zeros(4),
        torch.zeros(1, 2),
        torch.zeros(1, 4, 3),
    ],
)
def test_weights_that_do_not_show_the_down_projection(weight: Tensor | None) -> None:
    (site,) = find_sites(KnownMLP(), INPUT)
    assert rows_of_site(site, weight) is None


def test_decoding_steps_are_not_sampled() -> None:
    model = tiny("llama")
    with Probe(model, find_sites(model, torch.ones(1, 4, dtype=torch.long))) as probe:
        model.generate(torch.ones(1, 4, dtype=torch.long), max_new_tokens=5, do_sample=False)
    counts = of(Measurement.of(probe, "tiny"))
    assert (counts.tokens, counts.useful_tokens) == (8, 4)


def test_a_resumed_measurement_samples_the_same_tokens(tmp_path: Path) -> None:
    model, batches = KnownMLP(), [INPUT.repeat(100, 1), torch.ones(100, 4), INPUT.repeat(100, 1), INPUT]

    def until(last: int) -> Any:
        yield from batches[:last]
        raise KeyboardInterrupt

    for last in (1, 3):
        path = tmp_path / f"{last}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            measure(model, until(last), partial=path)
        assert path.is_file()
        counts = of(measure(model, batches, partial=path))
        assert (counts.tokens, counts.useful_tokens, counts.useful) == (301, 256, 100 + 400 + 56)
