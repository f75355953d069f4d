"""The tracker on plain training loops, against counts taken by hand."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import actratio
from actratio.errors import CriterionError, SiteError, TrackerError
from actratio.tracking import DeadNeuronsWarning, Tracker, track


class Functional(nn.Module):
    """An MLP whose activation is a function, so that no module's hook shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def modules() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {"modules": modules, "functional": Functional}


def made(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = MODELS[kind]()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def batch(step: int) -> Tensor:
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, forward: Any = None) -> None:
    for step in steps:
        (model if forward is None else forward)(batch(step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def by_hand(kind: str, steps: range) -> dict[int, Tensor]:
    """Return, for each step, the number of tokens on which each neuron of the first layer was active."""
    model, optimizer = made(kind)
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    counted = {}
    for step in steps:
        with torch.no_grad():
            counted[step + 1] = (first(batch(step)) > 0).sum(0)
        train(model, optimizer, range(step, step + 1))
    return counted


@pytest.mark.parametrize("kind", MODELS)
def test_every_reading_has_the_counts_of_its_step(kind: str) -> None:
    expected = by_hand(kind, range(7))
    model, optimizer = made(kind)
    ratios = {}
    with Tracker(model, 2, dead_limit=None) as tracker:
        for step in range(7):
            train(model, optimizer, range(step, step + 1))
            if (step + 1) % 2 == 0:
                ratios[step + 1] = next(iter(tracker.neuron_ratios.values()))
    frame = tracker.to_frame()
    assert frame["step"].drop_duplicates().tolist() == [2, 4, 6]
    first = frame.drop_duplicates("step")
    for step, total, dead in zip(first["step"], first["active_mean"] * first["tokens"], first["dead"], strict=True):
        assert round(total) == int(expected[step].sum())
        assert dead == int((expected[step] == 0).sum())
        assert torch.equal((ratios[step] * 12).round().long(), expected[step])


@pytest.mark.parametrize("kind", MODELS)
def test_training_is_unchanged_by_the_tracker(kind: str) -> None:
    tracked, optimizer = made(kind)
    with Tracker(tracked, 1, dead_limit=None):
        train(tracked, optimizer, range(5))
    alone, optimizer = made(kind)
    train(alone, optimizer, range(5))
    for a, b in zip(tracked.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tracked.modules())


@pytest.mark.parametrize("kind", MODELS)
def test_an_example_without_an_axis_for_the_batch_is_one_token(kind: str) -> None:
    model, optimizer = made(kind)
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    with Tracker(model, 1, dead_limit=None) as tracker:
        for step in range(2):
            active = int((first(x := batch(step)[0]) > 0).sum())
            train(model, optimizer, range(1), lambda _, x=x: model(x))
            row = tracker.to_frame().set_index("step").loc[[step + 1]].iloc[0]
            assert (row["tokens"], row["active_mean"]) == (1, active)


def test_evaluation_is_not_counted() -> None:
    model, optimizer = made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        for step in range(3):
            train(model, optimizer, range(step, step + 1))
            with torch.no_grad():
                model(batch(100))
            model.eval()
            model(batch(101))
            model.train()
    assert tracker.to_frame()["tokens"].tolist() == [12] * 6


def test_accumulated_passes_are_one_step() -> None:
    model, optimizer = made("functional")
    with Tracker(model, 1, dead_limit=None) as tracker:
        for part in range(3):
            model(batch(part)).square().mean().backward()
        optimizer.step()
    assert tracker.to_frame()["tokens"].tolist() == [36]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_recomputed_activations_are_not_counted_again(kind: str, reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = MODELS[kind]()

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = checkpoint(self.body, x.requires_grad_(), use_reentrant=reentrant)
            return output

    model = Checkpointed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(model, optimizer, range(2))
    assert set(tracker.to_frame()["tokens"]) == {12}


def test_a_pass_that_fails_counts_nothing() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fails = modules(), False

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.body(x)
            if self.fails:
                raise ValueError("no memory")
            return output

    model = Fails()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(model, optimizer, range(1))
        model.fails = True
        with pytest.raises(ValueError, match="no memory"):
            model(batch(1))
        model.fails = False
        train(model, optimizer, range(2, 3))
    assert tracker.to_frame()["tokens"].tolist() == [12] * 4


def test_several_optimizers_take_one_step_together() -> None:
    model, _ = made("modules")
    weights, biases = ([p for p in model.parameters() if (p.ndim == 2) == two] for two in (True, False))
    optimizers = [torch.optim.SGD(weights, lr=0.1), torch.optim.Adam(biases)]
    with Tracker(model, 1, dead_limit=None) as tracker:
        for step in range(3):
            model(batch(step)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert tracker.steps == 3


def test_an_optimizer_of_another_model_takes_no_step() -> None:
    model, optimizer = made("modules")
    other, others = made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(model, optimizer, range(1))
        train(other, others, range(4))
    assert tracker.steps == 1


def test_a_loop_without_an_optimizer() -> None:
    model, _ = made("modules")
    with Tracker(model, 2, dead_limit=None) as tracker:
        for step in range(4):
            model(batch(step)).square().mean().backward()
            tracker.step()
            tracker.step()  # without a forward pass in between
    assert tracker.to_frame()["step"].unique().tolist() == [2, 4]


def test_a_copy_of_the_model_is_not_counted() -> None:
    model, optimizer = made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(model, optimizer, range(1))
        averaged = copy.deepcopy(model)
        model(batch(1)).square().mean().backward()
        averaged(batch(2))
        optimizer.step()
    assert tracker.to_frame()["tokens"].tolist() == [12] * 4


def test_a_tracked_model_can_be_saved_and_loaded(tmp_path: Any) -> None:
    model, optimizer = made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(model, optimizer, range(1))
        torch.save(model, tmp_path / "model.pt")
        loaded = torch.load(tmp_path / "model.pt", weights_only=False)
        assert torch.equal(loaded(batch(1)), model(batch(1)))
        train(model, optimizer, range(1, 2))
    assert tracker.to_frame()["tokens"].tolist() == [12, 12, 24, 24]  # with the pass that was compared


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_is_saved_or_copied_before_its_first_step(kind: str, tmp_path: Any) -> None:
    model, optimizer = made(kind)
    with Tracker(model, 1, dead_limit=None) as tracker:
        copied = copy.deepcopy(model)
        torch.save(model, tmp_path / "model.pt")
        loaded = torch.load(tmp_path / "model.pt", weights_only=False)
        for other in (copied, loaded):
            other.compile(backend="eager")
            assert torch.equal(other(batch(1)), model(batch(1)))
        assert model._compiled_call_impl is None
        train(model, optimizer, range(2))
        torch.save(model, tmp_path / "model.pt")  # in a step that is read
        torch.load(tmp_path / "model.pt", weights_only=False)(batch(1)).sum().backward()
        copy.deepcopy(model)(batch(1)).sum().backward()
        train(model, optimizer, range(2, 3))
    frame = tracker.to_frame()
    assert set(frame["tokens"][frame["step"] > 1]) == {12}


def test_readings_of_the_whole_model() -> None:
    model, optimizer = made("modules")
    with Tracker(model, 2, dead_limit=None) as tracker:
        train(model, optimizer, range(4))
    sites, whole = tracker.to_frame(), tracker.to_frame(whole_model=True)
    assert whole["step"].tolist() == [2, 4]
    for column in ("width", "dead", "always_on", "died", "revived"):
        assert whole[column].tolist() == sites.groupby("step")[column].sum(min_count=1).tolist()
    changed = (sites["drift"] * sites["width"]).groupby(sites["step"]).sum()
    assert whole["drift"][1] == pytest.approx(changed[4] / 24)
    assert whole["activation_ratio"][1] == tracker.latest["actratio/ratio"]


@pytest.mark.parametrize("kind", MODELS)
def test_two_trackers_of_one_model(kind: str) -> None:
    model, optimizer = made(kind)
    with (
        Tracker(model, 1, dead_limit=None) as first,
        Tracker(model, 2, criterion="contribution(0.01)", dead_limit=None) as second,
    ):
        train(model, optimizer, range(4))
    model, optimizer = made(kind)
    with Tracker(model, 1, dead_limit=None) as alone:
        train(model, optimizer, range(4))
    assert first.to_frame().equals(alone.to_frame())
    assert second.to_frame()["step"].unique().tolist() == [2, 4]


def stance() -> str:
    from torch._dynamo.eval_frame import _stance

    return str(_stance.stance)


@pytest.mark.parametrize("kind", MODELS)
def test_trackers_that_overlap_leave_the_compiler_as_it_was(kind: str) -> None:
    (one, first), (other, second) = made(kind), made(kind)
    trackers = [Tracker(one, 2, dead_limit=None).start(), Tracker(other, 3, dead_limit=None).start()]
    for step in range(3):
        train(one, first, range(step, step + 1))
        train(other, second, range(step, step + 1))
    for tracker in trackers:
        tracker.stop()
    assert stance() == "default"
    for model in (one, other):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert model._compiled_call_impl is None


def test_trackers_that_are_stopped_before_the_first_pass() -> None:
    model, optimizer = made("modules")
    trackers = [Tracker(model, 1).start(), Tracker(model, 1).start()]
    for tracker in trackers:
        tracker.stop()
    train(model, optimizer, range(2))
    assert [tracker.steps for tracker in trackers] == [0, 0]
    assert stance() == "default"
    assert not any(module._forward_hooks for module in model.modules())


def test_a_first_pass_that_fails_is_not_the_first() -> None:
    model, optimizer = made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        for _ in range(2):
            with pytest.raises(SiteError, match="failed in the forward pass that looks for its MLPs"):
                model(torch.zeros(2, 5))
        train(model, optimizer, range(2))
    assert tracker.to_frame()["tokens"].tolist() == [12] * 4
    assert model._compiled_call_impl is None
    assert "compile" not in vars(model)


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_model_that_is_compiled_between_the_ends_of_two_trackers(stopped: int) -> None:
    model = Functional()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trackers = [Tracker(model, 1, dead_limit=None).start() for _ in range(2)]
    trackers.pop(stopped).stop()
    model.compile(backend="eager")
    train(model, optimizer, range(2))
    trackers[0].stop()
    assert trackers[0].to_frame()["tokens"].tolist() == [12] * 2
    assert "compile" not in vars(model)


def test_a_training_without_steps_of_an_optimizer_is_told() -> None:
    model, _ = made("modules")
    tracker = Tracker(model, 1, dead_limit=None).start()
    model(batch(0)).sum().backward()
    with pytest.warns(UserWarning, match="no optimizer with parameters of Sequential took a step"):
        tracker.stop()


def test_an_interrupted_pass_counts_nothing() -> None:
    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.interrupts = modules(), False

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.body(x)
            if self.interrupts:
                raise KeyboardInterrupt
            return output

    model = Interrupted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(model, optimizer, range(1))
        model.interrupts = True
        with pytest.raises(KeyboardInterrupt):
            model(batch(1))
        model.interrupts = False
        train(model, optimizer, range(2, 3))
    assert tracker.to_frame()["tokens"].tolist() == [12] * 4


def test_the_pass_after_an_interrupted_one_has_its_own_padding() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.interrupts = modules(), True

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            output: Tensor = self.body(x)
            if self.interrupts:
                raise KeyboardInterrupt
            return output

    model = Masked()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, mask = batch(0).view(3, 4, 6), torch.ones(3, 4, dtype=torch.long)
    mask[0, 2:] = 0
    with Tracker(model, 1, sites=["body.1"], inputs=None, dead_limit=None) as tracker:
        model.interrupts = False
        model(x, torch.ones_like(mask)).sum().backward()
        optimizer.step()
        model.interrupts = True
        with pytest.raises(KeyboardInterrupt):
            model(x, mask)
        model.interrupts = False
        model(x, torch.ones_like(mask)).sum().backward()
        optimizer.step()
    assert tracker.to_frame()["tokens"].tolist() == [12, 12]


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_tracked_part_that_is_checkpointed_with_its_surroundings(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    model, head = MODELS["modules"](), nn.Linear(3, 3)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1)
    with Tracker(model, 1, inputs=batch(0), dead_limit=None) as tracker:
        for step in range(2):
            x = batch(step).requires_grad_()
            output = checkpoint(lambda x: head(model(x)).relu(), x, use_reentrant=reentrant)
            output.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert tracker.to_frame()["tokens"].tolist() == [12] * 4


def test_a_tracker_does_not_keep_the_model() -> None:
    import weakref

    model, optimizer = made("modules")
    tracker = track(model, 1, dead_limit=None)
    train(model, optimizer, range(1))
    gone = weakref.ref(model)
    del model, optimizer, tracker
    gc.collect()
    assert gone() is None


def test_data_parallel_is_refused() -> None:
    with pytest.raises(TrackerError, match="use DistributedDataParallel"):
        Tracker(nn.DataParallel(modules()))


def test_a_planted_death_is_found_at_its_step() -> None:
    model, optimizer = made("modules")
    first = model[0]
    assert isinstance(first, nn.Linear)
    with Tracker(model, 1, dead_limit=None, sites="1") as tracker:
        for step in range(8):
            if step == 4:  # before step 5
                with torch.no_grad():
                    first.weight[:10] = 0
                    first.bias[:10] = -1
            if step == 6:
                with torch.no_grad():
                    first.bias[:3] = 1
            train(model, optimizer, range(step, step + 1))
    frame = tracker.to_frame().set_index("step")
    assert (frame["dead"][:4] == 0).all()
    assert frame["dead"][5] == frame["died"][5] == 10
    assert frame["revived"][7] == 3
    assert frame["drift"][5] >= 10 / 16
    assert frame["living_trend"][8] < 0


def test_many_dead_neurons_warn_once_for_each_layer() -> None:
    model, optimizer = made("modules")
    for layer in (model[0], model[2]):
        assert isinstance(layer, nn.Linear)
        nn.init.constant_(layer.bias, -100)
    told: list[tuple[str, int]] = []
    with (
        Tracker(model, 1, dead_limit=0.5, on_dead=lambda site, step: told.append((site, step))),
        pytest.warns(DeadNeuronsWarning) as warned,
    ):
        train(model, optimizer, range(3))
    first, second = (str(warning.message) for warning in warned)
    assert first.startswith("16 of 16 neurons of 1 (100%) were active on none of the 12 tokens of step 1;")
    assert second.startswith("8 of 8 neurons of 3 (100%)")
    assert told == [("1", 1), ("3", 1)]


@pytest.mark.parametrize(
    ("every", "steps"), [(3, [3, 6, 9]), ("log", [1, 2, 3, 4, 5, 6, 8, 10]), (lambda step: step in (2, 7), [2, 7])]
)
def test_schedules(every: Any, steps: list[int]) -> None:
    model, optimizer = made("functional")
    with Tracker(model, every, dead_limit=None) as tracker:
        train(model, optimizer, range(10))
    assert tracker.to_frame()["step"].tolist() == steps


def test_a_reading_at_the_end_of_each_epoch() -> None:
    model, optimizer = made("modules")
    with Tracker(model, "epoch", steps_per_epoch=4, dead_limit=None) as tracker:
        train(model, optimizer, range(9))
    assert tracker.to_frame()["step"].unique().tolist() == [4, 8]


@pytest.mark.parametrize("kind", MODELS)
def test_a_resumed_run_has_the_table_of_an_undisturbed_one(kind: str) -> None:
    model, optimizer = made(kind)
    with Tracker(model, 1, dead_limit=None) as whole:
        train(model, optimizer, range(6))
    model, optimizer = made(kind)
    with Tracker(model, 1, dead_limit=None) as part:
        train(model, optimizer, range(4))
    state = json.loads(json.dumps(part.state_dict()))
    resumed = Tracker(model, 1, dead_limit=None)
    resumed.load_state_dict(state)
    assert resumed.latest == part.latest
    assert resumed.to_frame().equals(part.to_frame())  # before the training goes on
    with resumed:
        train(model, optimizer, range(4, 6))
    assert resumed.to_frame().equals(whole.to_frame())


def test_a_callback_that_raises_loses_no_reading() -> None:
    def stop(values: Any, step: int) -> None:
        raise KeyboardInterrupt

    model, optimizer = made("modules")
    with Tracker(model, 2, dead_limit=None, on_reading=stop) as tracker:
        for step in range(4):
            with contextlib.suppress(KeyboardInterrupt):
                train(model, optimizer, range(step, step + 1))
    assert tracker.to_frame()["step"].tolist() == [2, 2, 4, 4]


def test_a_foreign_optimizer_between_two_passes_of_a_step() -> None:
    (model, optimizer), (other, others) = made("modules"), made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        for step in range(3):
            model(batch(step)).square().mean().backward()
            train(other, others, range(1))
            train(model, optimizer, range(1))
    assert tracker.steps == 3
    assert set(tracker.to_frame()["tokens"]) == {24}


def test_an_optimizer_that_gets_the_model_later() -> None:
    (model, optimizer), (other, others) = made("modules"), made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(other, others, range(2))
        train(model, optimizer, range(1))
        others.add_param_group({"params": list(model.parameters())})  # from now on, it trains both
        train(model, others, range(1))
    assert tracker.steps == 2


@pytest.mark.parametrize(("every", "is_log"), [("log", True), (5, False)])
def test_plots_of_spread_steps_have_a_logarithmic_axis(every: Any, is_log: bool) -> None:
    model, optimizer = made("modules")
    with Tracker(model, every, dead_limit=None) as tracker:
        train(model, optimizer, range(200))
    assert [chart.x_log for chart in tracker.plot().charts] == [is_log] * 2


def test_values_for_loggers() -> None:
    model, optimizer = made("modules")
    logged: dict[int, dict[str, float]] = {}
    with Tracker(
        model, 2, dead_limit=None, on_reading=lambda values, step: logged.update({step: dict(values)})
    ) as tracker:
        train(model, optimizer, range(4))
    frame = tracker.to_frame()
    assert list(logged) == [2, 4]
    for step, values in logged.items():
        rows = frame[frame["step"] == step]
        for _, row in rows.iterrows():
            assert values[f"actratio/{row['site']}/ratio"] == row["activation_ratio"]
            assert values[f"actratio/{row['site']}/dead"] == row["dead"]
            assert values[f"actratio/{row['site']}/always_on"] == row["always_on"]
        active, neurons = (rows["active_mean"] * rows["tokens"]).sum(), (rows["width"] * rows["tokens"]).sum()
        assert values["actratio/ratio"] == pytest.approx(active / neurons)
    assert tracker.latest == logged[4]


@pytest.mark.parametrize("criterion", ["nonzero", "above(0.2)", "contribution(0.05)"])
def test_other_criteria(criterion: str) -> None:
    model, optimizer = made("modules")
    measured = actratio.measure(model, [batch(0)], criteria=criterion).to_frame()
    with Tracker(model, 1, criterion=criterion, dead_limit=None) as tracker:
        train(model, optimizer, range(1))
    assert tracker.to_frame()["activation_ratio"].tolist() == measured["activation_ratio"].tolist()


def test_track_and_stop() -> None:
    model, optimizer = made("modules")
    tracker = track(model, 1, dead_limit=None)
    train(model, optimizer, range(2))
    tracker.stop()
    train(model, optimizer, range(2))
    assert tracker.steps == 2
    assert not any(module._forward_hooks for module in model.modules())
    with tracker:  # again
        train(model, optimizer, range(1))
    assert tracker.steps == 3


def test_a_site_that_does_not_run_is_an_error() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.both = modules(), modules(), True

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.a(x)
            return output + self.b(x) if self.both else output

    model = Sometimes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, 1, inputs=batch(0), dead_limit=None) as tracker:
        train(model, optimizer, range(1))
        model.both = False  # has run before, so it only rests, as with stochastic depth
        train(model, optimizer, range(1))
    assert tracker.to_frame().set_index("step")["tokens"][2].tolist() == [12, 12, 0, 0]

    class InEvaluationOnly(Sometimes):
        def forward(self, x: Tensor) -> Tensor:
            self.both = not self.training
            return super().forward(x)

    model = InEvaluationOnly()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        Tracker(model, 1, inputs=batch(0), dead_limit=None),
        pytest.raises(SiteError, match=r"b\.1 did not run in step 1"),
    ):
        train(model, optimizer, range(1))


def test_a_module_that_is_not_called_is_told_once() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = modules()

    model = Wrapper()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        Tracker(model, 1) as tracker,
        pytest.warns(UserWarning, match="Wrapper, but its forward hasn.t been called since tracking started") as warned,
    ):
        train(model, optimizer, range(4), model.body)
    assert len(warned) == 1
    assert tracker.steps == 0


def test_training_in_evaluation_mode_is_an_error() -> None:
    model, optimizer = made("modules")
    model.eval()
    with pytest.raises(SiteError, match="was trained in evaluation mode"), Tracker(model, 1):
        train(model, optimizer, range(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0; give a number of steps"),
        ({"every": "daily"}, "every is 'daily'"),
        ({"every": "epoch"}, "needs the number of optimizer steps in an epoch, not None"),
        ({"every": 5, "steps_per_epoch": 5}, "steps_per_epoch is for every='epoch'"),
        ({"tensor": "down"}, "there is no tensor 'down'"),
        ({"every": "epoch", "steps_per_epoch": 2.5}, "steps in an epoch, not 2.5"),
        ({"dead_limit": 2}, "dead_limit is 2; give a share"),
        ({"dead_limit": "0.5"}, "dead_limit is '0.5'; give a share"),
        ({"criterion": ["positive", "nonzero"]}, "give one criterion, such as 'positive'"),
        ({"on_reading": "x"}, "on_reading is 'x'; give a function, or None"),
        ({"on_dead": 3}, "on_dead is 3; give a function, or None"),
    ],
)
def test_options_that_cannot_be_understood(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrackerError, match=message):
        Tracker(modules(), **options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript
def test_what_is_no_model_that_can_be_tracked() -> None:
    with pytest.raises(TrackerError, match=r"the model is of type str; give the nn\.Module that is trained"):
        Tracker("gpt2")  # type: ignore[arg-type]
    with pytest.raises(TrackerError, match="a ScriptModule takes no hooks"):
        Tracker(torch.jit.trace(modules(), batch(0)))


def test_other_bad_input() -> None:
    with pytest.raises(CriterionError, match="no criterion 'big'"):
        Tracker(modules(), criterion="big")
    with pytest.raises(SiteError, match="no site matches 'x'"):
        Tracker(modules(), inputs=batch(0), sites="x").start()
    with pytest.raises(SiteError, match="sites is 3; give globs"):
        Tracker(modules(), sites=3)  # type: ignore[arg-type]
    tracker = track(modules(), inputs=batch(0))
    with pytest.raises(TrackerError, match="attached already"):
        tracker.start()
    tracker.stop()
    with pytest.raises(TrackerError, match="not attached"):
        tracker.step()
    with pytest.raises(TrackerError, match="not the state of a tracker"):
        tracker.load_state_dict({"step": 3})


@pytest.mark.parametrize("change", [{"step": 4}, {"warned": ["x"]}, {"readings": []}, {"sites": []}, {"checksum": 0}])
def test_a_changed_state_is_refused(change: dict[str, Any]) -> None:
    model, optimizer = made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(model, optimizer, range(3))
    state = tracker.state_dict()
    Tracker(modules(), 1).load_state_dict(state)
    with pytest.raises(TrackerError, match=r"not the state of a tracker \(its checksum does not match\)"):
        Tracker(modules(), 1).load_state_dict({**state, **change})


def test_figures(tmp_path: Any) -> None:
    model, optimizer = made("modules")
    with Tracker(model, 1, dead_limit=None) as tracker:
        train(model, optimizer, range(3))
    figures = tracker.plot()
    assert figures.names == ["ratio", "dead"]
    with warnings.catch_warnings():
        assert len(figures.save(tmp_path)) == 4
    assert repr(tracker) == "<Tracker not attached to Sequential: 3 steps, 3 readings>"


def test_a_stopped_tracker_leaves_nothing_behind() -> None:
    model, optimizer = made("modules")

    def track_a_step() -> None:
        with Tracker(model, every=1, dead_limit=None):
            model(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()

    def kept() -> int:
        gc.collect()
        return sum(type(item).__name__ in ("RemovableHandle", "finalize", "Tracker") for item in gc.get_objects())

    track_a_step()
    before = kept()
    for _ in range(20):
        track_a_step()
    assert kept() == before


def test_measuring_between_passes_isnt_counted() -> None:
    """Of a model whose activation is no module, so that a probe follows its data."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.down(torch.relu(self.up(x)))
            return out

    model = Functional().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, 1, dead_limit=None) as tracker:
        for _ in range(2):
            model(torch.randn(4, 8)).sum().backward()
            for step in (lambda: None, optimizer.step):  # before the step, the pass that is counted has ended
                step()
                assert actratio.measure(model, [torch.randn(5, 8)]).rows[0].counts.tokens == 5
    assert tracker.to_frame()["tokens"].tolist() == [4, 4]
    assert model.training
