"""Speed and loss of another form of a model, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from actratio.sparse import comparing
from actratio.sparse.comparing import Race, loss_increase, speedup
from actratio.sparse.text import SequenceLosses, sequence_losses
from actratio.statistics.estimate import Estimate
from tests.sparse.calibration_text import token_batches

TinyGPT2 = Callable[..., Any]


def test_loss_increase_is_that_of_the_mean_losses(tiny_gpt2: TinyGPT2) -> None:
    model, other, batches = tiny_gpt2("relu"), tiny_gpt2("relu"), token_batches(5, padded=True)
    with torch.no_grad():
        other.transformer.h[0].mlp.c_proj.weight *= 1.5
    losses = nats, tokens = sequence_losses(model, batches)
    assert tokens.tolist() == [11, 6] * 5
    alone, _ = sequence_losses(model, [{"input_ids": batches[0]["input_ids"][1:, :7]}])  # without its padding
    assert float(nats[1]) == pytest.approx(float(alone[0]), rel=1e-5)
    changed = sequence_losses(other, batches)
    increase = loss_increase(losses, changed)
    assert increase.value == pytest.approx(100 * (float(changed.nats.sum() / nats.sum()) - 1))
    assert increase.value == pytest.approx(100 * (changed.mean / losses.mean - 1))
    assert increase.low < increase.value < increase.high
    same = loss_increase(losses, losses)
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-9)


class _Passes:
    """Forward passes whose times are set: 2 s and 1 s, with some noise of the second model."""

    noise = 0.0

    def __init__(self, model: str, batch: int, *, prompt: int, text: None) -> None:
        self.model, self.prompt, self.number = model, prompt, 0

    @contextmanager
    def in_a_row(self, passes: int) -> Iterator[None]:
        yield

    def seconds(self) -> float:
        self.number += 1
        return 2.0 if self.model == "dense" else 1.0 + self.noise * (self.number % 5)


@pytest.mark.parametrize(("noise", "rounds"), [(0.0, 9), (0.5, 100)])
def test_speedup_takes_turns_until_its_interval_is_narrow(
    noise: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[_Passes] = []

    class Recorded(_Passes):
        def __init__(self, model: str, batch: int, *, prompt: int, text: None) -> None:
            super().__init__(model, batch, prompt=prompt, text=text)
            self.noise = noise
            made.append(self)

    monkeypatch.setattr(comparing, "ForwardPasses", Recorded)
    monkeypatch.setattr(comparing, "_SECONDS", 1000.0)
    dense, other = "dense", "other"
    estimate = speedup(dense, other, 1, prompt=4)  # type: ignore[arg-type]
    assert [passes.number for passes in made] == [rounds + 1] * 2  # one warms up
    if noise:
        assert estimate.low < estimate.value < estimate.high
    else:
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_race_goes_on_in_several_spells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says how many rounds it added, which another one can be told to add too."""
    monkeypatch.setattr(comparing, "ForwardPasses", _Passes)
    monkeypatch.setattr(_Passes, "noise", 0.5)
    race = Race.of_models("dense", "other", 1)  # type: ignore[arg-type]
    assert [race.run(0.0, 4, 10), race.run(1000.0, 4, 10), race.run(1000.0, 2, 2)] == [4, 10, 2]
    assert [len(spell) for spell in race._spells] == [4, 10, 2]
    monkeypatch.setattr(_Passes, "noise", 0.0)
    assert Race.of_models("dense", "other", 1).run(1000.0, 4, 40) == 9  # type: ignore[arg-type]


def test_an_interval_has_the_medians_of_all_spells(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last spell, the machine is in another state. The interval over all 36 rounds doesn't tell."""
    monkeypatch.setattr(comparing, "ForwardPasses", _Passes)
    race = Race.of_models("dense", "other", 1)  # type: ignore[arg-type]
    race._spells = [[2.0] * 9, [2.0] * 9, [2.0] * 9]
    assert race.estimate == Estimate(2.0, 2.0, 2.0)
    race._spells.append([1.0, *[3.0] * 7, 9.0])
    assert race.estimate == Estimate(2.0, 2.0, 3.0)


def test_a_race_tells_how_long_the_dense_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "ForwardPasses", _Passes)
    race = Race.of_models("dense", "other", 1)  # type: ignore[arg-type]
    race.run(0.0, 4, 4)
    monkeypatch.setattr(_Passes, "seconds", lambda self: 3.0 if self.model == "dense" else 1.0)
    race.run(0.0, 2, 2)
    assert race.dense_seconds == 2.0
    race.run(0.0, 3, 3)
    assert race.dense_seconds == 3.0


def test_a_burst_of_other_work_does_not_change_a_speedup(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second model takes a hundred times as long in a few of the rounds, as it may on a machine that does other work at times."""

    class Disturbed(_Passes):
        def seconds(self) -> float:
            disturbed = self.model == "other" and self.number % 60 > 52
            return super().seconds() * (100 if disturbed else 1)

    monkeypatch.setattr(comparing, "ForwardPasses", Disturbed)
    monkeypatch.setattr(Disturbed, "noise", 0.1)
    estimate = speedup("dense", "other", 1)  # type: ignore[arg-type]
    assert 1.4 < estimate.low < estimate.value < estimate.high <= 2.0


def test_a_loss_that_is_not_finite_has_no_interval() -> None:
    tokens = torch.ones(3)
    increase = loss_increase(SequenceLosses(tokens, tokens), SequenceLosses(torch.tensor([1.0, math.inf, 1.0]), tokens))
    assert (increase.value, math.isnan(increase.low), math.isnan(increase.high)) == (math.inf, True, True)
