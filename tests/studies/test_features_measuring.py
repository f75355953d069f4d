"""The study of features: its generators, its readings, and how it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from actratio import ActratioError
from actratio.data import load_dataset
from actratio.studies.base import Arrays
from actratio.studies.features import FeaturesStudy
from actratio.studies.features.capacity import CUT, FRESH, NETWORKS, WHOLE, compare_capacity, mean_contributions
from actratio.studies.features.grid import SCHEMES, TESTS, planned_trainings
from actratio.studies.features.planted import EndlessBatches, PlantedFeatures, Teacher, sample_dataset
from actratio.studies.features.rank import (
    StreamedCovariance,
    count_duplicates,
    effective_rank,
    participation_ratio,
)
from actratio.studies.features.recording import Probes, measured_steps, record
from actratio.training import Architecture, Recipe
from actratio.training.trainer import Trainer


@pytest.mark.parametrize(("features", "present"), [(4, 1), (16, 4), (64, 4)])
def test_planted_features_are_as_many_as_planted(features: int, present: int) -> None:
    inputs, labels = EndlessBatches(PlantedFeatures(features, present), [3], 8).held_out(20_000)
    eigenvalues = np.linalg.eigvalsh(np.cov(inputs[0].numpy().T))
    noise, p = 0.1**2, present / features
    assert int((eigenvalues > noise + p * (1 - p) / 2).sum()) == features
    # Each feature has length 1 and is present with probability p, beside the noise of 64 dimensions.
    assert float(inputs[0].square().sum(1).mean()) == pytest.approx(present + 64 * noise, rel=0.03)
    assert len(labels.unique()) > 2


def test_the_label_is_the_largest_logit_of_the_features_that_are_present() -> None:
    task: Any = PlantedFeatures(16, 4).task(np.random.default_rng(0))
    x, y = task.draw(np.random.default_rng(1), 4000)
    z = np.rint(x @ task.directions.T)  # orthonormal directions, and noise of 0.1
    right = (z @ task.read_out).argmax(1) == y
    assert right.mean() > 0.999
    assert (y[z.sum(1) == 0] == 0).all()


def test_teachers_use_many_classes_and_differ_by_seed() -> None:
    _, labels = EndlessBatches(Teacher(16), [0, 1], 8).held_out(2000)
    assert all(len(own.unique()) >= 8 for own in labels)
    assert not torch.equal(labels[0], labels[1])


@pytest.mark.parametrize("generator", [PlantedFeatures(16, 4), Teacher(4)])
def test_a_batch_depends_on_the_seed_and_the_step_alone(generator: Any) -> None:
    batches = EndlessBatches(generator, [0, 5], 16)
    first = [tuple(part.clone() for part in batches.batch(step)) for step in (0, 1, 63, 64, 300)]
    again = EndlessBatches(generator, [5], 16)
    for step, (inputs, labels) in reversed(list(zip((0, 1, 63, 64, 300), first, strict=True))):
        same_inputs, same_labels = again.batch(step)
        assert torch.equal(same_inputs[0], inputs[1])
        assert torch.equal(same_labels[0], labels[1])
    assert len({inputs.sum().item() for inputs, _ in first}) == len(first)
    assert not torch.equal(batches.held_out(16)[0], first[0][0])


@pytest.mark.parametrize("make", [lambda: PlantedFeatures(4, 4), lambda: PlantedFeatures(65, 1), lambda: Teacher(0)])
def test_tasks_that_cannot_be_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ActratioError, match="give"):
        make()


def test_streamed_rank_against_numpy_and_scipy() -> None:
    rng = np.random.default_rng(0)
    values = np.maximum(rng.standard_normal((3, 12, 500)) + rng.standard_normal((3, 12, 1)), 0)
    values[2] = values[2][:1]  # one direction only
    streamed = StreamedCovariance()
    for part in np.split(values, [70, 300], axis=2):
        streamed.add(torch.from_numpy(part.astype(np.float32)))
    covariance = streamed.matrix()
    ranks, ratios = effective_rank(covariance), participation_ratio(covariance)
    for seed, own in enumerate(values.astype(np.float32).astype(np.float64)):
        expected = np.cov(own, bias=True)
        np.testing.assert_allclose(covariance[seed].numpy(), expected, atol=1e-12)
        eigenvalues = np.linalg.svd(own - own.mean(1, keepdims=True), compute_uv=False) ** 2
        assert ranks[seed].item() == pytest.approx(np.exp(scipy.stats.entropy(eigenvalues)), rel=1e-6)
        assert ratios[seed].item() == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-9)
    assert ranks[2].item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.eye(7, dtype=torch.float64)[None]).item() == pytest.approx(7)
    nothing = torch.zeros(1, 3, 3, dtype=torch.float64)
    assert effective_rank(nothing).item() == participation_ratio(nothing).item() == 0


def test_duplicates_are_counted_among_the_living() -> None:
    weights = torch.tensor([[[1.0, 0.0], [3.0, 0.1], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]]])
    living = torch.tensor([[True, True, True, False, True]])
    assert count_duplicates(weights, living).tolist() == [2]
    assert count_duplicates(weights, torch.ones_like(living)).tolist() == [4]


class KilledError(Exception):
    pass


class Memory:
    """A checkpoint that keeps everything, and raises after a number of saves."""

    def __init__(self, state: Arrays | None = None, kill_after: int = 10**9) -> None:
        self.state, self._left, self.done = state, kill_after, 0.0

    def load(self) -> Arrays | None:
        return self.state

    def save(self, make_arrays: Callable[[], Arrays]) -> None:
        self.state = {name: tensor.clone() for name, tensor in make_arrays().items()}
        self._left -= 1
        if self._left == 0:
            raise KilledError

    def advance(self, share: float) -> None:
        self.done += share

    def unusable(self, error: Exception) -> Exception:
        return error


def make_trainer() -> tuple[Trainer, Probes]:
    generator = PlantedFeatures(16, 4)
    batches = EndlessBatches(generator, (0, 1), 32)
    examples = batches.held_out(300)
    trainer = Trainer(
        Architecture(64, (24, 12), 10), sample_dataset(generator, "x"), (0, 1), Recipe(batch_size=32), batches=batches
    )
    return trainer, Probes(examples, examples, examples)


@pytest.mark.parametrize("kill_after", [2, 6])
def test_a_killed_training_resumes_bit_for_bit(kill_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actratio.studies.features.recording._SAVED_EVERY", 7)
    whole = Memory()
    expected = record(*make_trainer(), 10, 40, whole)
    assert whole.done == pytest.approx(1)
    killed = Memory(kill_after=kill_after)
    with pytest.raises(KilledError):
        record(*make_trainer(), 10, 40, killed)
    resumed = Memory(killed.state)
    arrays = record(*make_trainer(), 10, 40, resumed)
    assert resumed.done == pytest.approx(1)
    assert set(arrays) == set(expected)
    assert all(torch.equal(arrays[name], expected[name]) for name in expected)
    assert arrays["step"].tolist() == measured_steps(10, 40)
    assert arrays["active_mean"].shape == (len(arrays["step"]), 2, 2)
    assert arrays["effective_rank"].shape == (2, 2)
    with pytest.raises((KeyError, RuntimeError)):
        record(*make_trainer(), 10, 40, Memory({"other": torch.zeros(1)}))


def test_half_of_the_neurons_are_active_before_training() -> None:
    arrays = record(*make_trainer(), 1, 1, Memory())
    assert arrays["active_mean"][0].mean(1).tolist() == pytest.approx([12, 6], rel=0.25)


def test_contributions_are_the_mean_outputs_times_the_norms() -> None:
    data = load_dataset("digits")
    trainer = Trainer(Architecture(64, (8,), 10), data, (0, 1))
    x = torch.from_numpy(data.x_train)
    first, last = (weight.detach() for weight in trainer.model.weights)
    expected = torch.relu(x @ first.transpose(1, 2)).mean(1) * last.square().sum(1).sqrt()
    torch.testing.assert_close(mean_contributions(trainer, x).float(), expected)


@pytest.mark.parametrize("kill_after", [0, 1])
def test_capacity_keeps_as_many_neurons_as_are_active_and_resumes(
    kill_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actratio.studies.features.recording._SAVED_EVERY", 50)
    data = load_dataset("digits")
    held_out = torch.from_numpy(data.x_val), torch.from_numpy(data.y_val)

    def compare(checkpoint: Memory) -> Arrays:
        return compare_capacity(data, 48, 1, Recipe(lr=3e-3), 150, held_out, checkpoint)

    whole = Memory()
    arrays = compare(whole)
    assert whole.done == pytest.approx(1)
    kept = round(arrays["active_mean"][NETWORKS.index(WHOLE)].item())
    assert 1 < kept < 48
    assert arrays["neurons"].tolist() == [48, kept, kept, kept]
    accuracy = dict(zip(NETWORKS, arrays["accuracy"].tolist(), strict=True))
    assert accuracy[WHOLE] > 0.8
    assert accuracy[FRESH] > 0.7
    assert accuracy[CUT] > 0.2
    if kill_after:
        killed = Memory(kill_after=kill_after)
        with pytest.raises(KilledError):
            compare(killed)
        resumed = Memory(killed.state)
        again = compare(resumed)
        assert resumed.done == pytest.approx(1)
        assert all(torch.equal(again[name].nan_to_num(-1), arrays[name].nan_to_num(-1)) for name in arrays)


def test_a_cut_that_keeps_every_useful_neuron_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the neurons get no way out before the cut: only the others contribute."""
    data = load_dataset("digits")
    held_out = torch.from_numpy(data.x_val), torch.from_numpy(data.y_val)

    def trained(self: Trainer, steps: int) -> None:
        with torch.no_grad():
            self.model.weights[-1][:, :, ::2] = 0
            self.model.weights[0].abs_()  # the inputs are positive, so that every neuron is active
            self.model.weights[0][:, 1::4] *= -1  # a quarter of them never
        self.steps_done += steps

    monkeypatch.setattr(Trainer, "train", trained)
    arrays = compare_capacity(data, 48, 0, Recipe(), 1, held_out, Memory())
    assert arrays["neurons"][1].item() == 36
    assert arrays["accuracy"][1].item() == arrays["accuracy"][0].item()
    assert arrays["loss"][1].item() == pytest.approx(arrays["loss"][0].item(), rel=1e-6)


def test_schemes_change_what_they_say() -> None:
    data = load_dataset("digits")
    made = {name: change(data) for name, change in SCHEMES.items()}
    true = made["true labels"]
    assert np.array_equal(made["shuffled labels"].x_train, true.x_train)
    assert 0.05 < (made["shuffled labels"].y_train == true.y_train).mean() < 0.2
    assert 0.78 < (made["20% of the labels shuffled"].y_train == true.y_train).mean() < 0.86
    gaussian = made["Gaussian inputs"]
    assert np.array_equal(gaussian.y_train, true.y_train)
    np.testing.assert_allclose(gaussian.x_train.mean(0), true.x_train.mean(0), atol=0.05)
    np.testing.assert_allclose(gaussian.x_train.std(0), true.x_train.std(0), atol=0.05)
    assert (made["2 merged classes"].classes, made["5 merged classes"].classes) == (2, 5)
    assert len(made["at most 1,000 examples"].y_train) == 1000


@pytest.mark.parametrize("test", TESTS)
def test_plans_have_unique_names(test: str) -> None:
    planned = list(planned_trainings(test, (32, 128, 512), 100, 5))
    assert len({training.name for training in planned}) == len(planned)
    assert all(training.steps >= training.equal_steps == 100 for training in planned)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tests": ("planted", "astrology")}, "no test 'astrology'"),
        ({"tests": ("planted", "planted")}, "given twice"),
        ({"widths": ("16", "16")}, "given twice"),
        ({"widths": ("wide",)}, "not a whole number"),
        ({"seeds": 0}, "at least 1"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ActratioError, match=words):
        replace(FeaturesStudy(), **change)


def test_tests_without_a_data_set_need_none() -> None:
    study = FeaturesStudy(tests=("planted", "teachers"), dataset="nothing")
    assert study.settings()["data"] == {}
    assert len(study.units()) == 8 * 7
