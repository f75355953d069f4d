"""The tracker on compiled models: the same integers, one graph, nothing compiled again at a reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from actratio.errors import SiteError
from actratio.tracking import Tracker
from actratio.tracking.operator import count_active
from tests.tracking.test_tracker import Functional, batch, modules, train


class Outer(nn.Module):
    """A class of a user; PyTorch itself can't compile an ``nn.Sequential`` in place as one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body = modules()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.body(x)
        return output


MODELS: dict[str, type[nn.Module]] = {"modules": Outer, "functional": Functional}


def made(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = MODELS[kind]()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


HOW = ("before", "after", "in place, before", "in place, after")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_run(kind: str, how: str, backend: Any, options: dict[str, Any]) -> Tracker:
    """Train with a tracker that is attached before or after the model is compiled as one graph."""
    model, optimizer = made(kind)
    forward: Callable[..., Any] = model
    if how == "before":
        forward = torch.compile(model, fullgraph=True, backend=backend)
    elif how == "in place, before":
        model.compile(fullgraph=True, backend=backend)
    assert isinstance(forward, nn.Module)
    if "before" in how:
        with torch.no_grad():
            forward(batch(50))  # compiled by now
    tracker = Tracker(forward, 3, dead_limit=None, **options).start()
    if how == "after":
        forward = torch.compile(model, fullgraph=True, backend=backend)
    elif how == "in place, after":
        model.compile(fullgraph=True, backend=backend)
    train(model, optimizer, range(9), forward)
    tracker.stop()
    return tracker


@pytest.mark.parametrize("inputs", [None, batch(0)], ids=["found in the first pass", "with inputs"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", MODELS)
def test_compiled_models_have_the_counts_of_uncompiled_ones(kind: str, how: str, inputs: Any) -> None:
    model, optimizer = made(kind)
    with Tracker(model, 3, dead_limit=None) as eager:
        train(model, optimizer, range(9))
    backend = CompileCounterWithBackend("aot_eager")
    tracker = compiled_run(kind, how, backend, {"inputs": inputs})
    assert tracker.to_frame().equals(eager.to_frame())
    assert len(tracker.to_frame()["step"].unique()) == 3
    # One graph for the training and, where a pass came before the tracker, one for that.
    assert backend.frame_count == 1 + ("before" in how)


def test_a_model_of_a_class_that_was_compiled_before() -> None:
    other, others = made("modules")
    train(other, others, range(1), torch.compile(other, backend="aot_eager"))
    model, optimizer = made("modules")
    forward = torch.compile(model, backend="aot_eager")
    train(model, optimizer, range(1), forward)
    with Tracker(model, 1, inputs=batch(0), dead_limit=None) as tracker:  # not the compiled one
        train(model, optimizer, range(1, 3), forward)
        train(other, others, range(2), torch.compile(other, backend="aot_eager"))
    assert tracker.to_frame()["tokens"].tolist() == [12] * 4


@pytest.mark.parametrize("kind", MODELS)
def test_another_model_of_the_class_is_compiled_first(kind: str) -> None:
    (model, optimizer), (other, others) = made(kind), made(kind)
    with Tracker(model, 2, inputs=batch(0), dead_limit=None) as tracker:
        train(other, others, range(2), torch.compile(other, backend="aot_eager", fullgraph=True))
        train(model, optimizer, range(4), torch.compile(model, backend="aot_eager", fullgraph=True))
    assert set(tracker.to_frame()["tokens"]) == {12}
    assert tracker.to_frame()["step"].unique().tolist() == [2, 4]


def test_readings_compile_nothing_and_break_no_graph() -> None:
    model, optimizer = made("modules")
    backend = CompileCounterWithBackend("aot_eager")
    forward = torch.compile(model, fullgraph=True, backend=backend)
    with Tracker(model, 2, inputs=batch(0), dead_limit=None) as tracker:
        train(model, optimizer, range(1), forward)
        with torch.compiler.set_stance("fail_on_recompile"):
            train(model, optimizer, range(1, 8), forward)
    assert tracker.to_frame()["step"].unique().tolist() == [2, 4, 6, 8]
    assert backend.frame_count == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch itself
def test_inductor() -> None:
    tracker = compiled_run("modules", "after", "inductor", {"inputs": batch(0)})
    model, optimizer = made("modules")
    with Tracker(model, 3, dead_limit=None) as eager:
        train(model, optimizer, range(9))
    columns = ["step", "site", "tokens"]
    assert tracker.to_frame()[columns].equals(eager.to_frame()[columns])
    # Inductor's matrix products may round otherwise, so that a neuron at zero may change its side.
    assert (tracker.to_frame()["activation_ratio"] - eager.to_frame()["activation_ratio"]).abs().max() < 0.02


def test_a_part_of_the_model_that_is_compiled() -> None:
    def run(compiles: bool) -> Tracker:
        torch.manual_seed(0)
        model = Outer()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if compiles:
            model.body = torch.compile(model.body, fullgraph=True, backend="aot_eager")
        with Tracker(model, 2, dead_limit=None) as tracker:
            train(model, optimizer, range(4))
        return tracker

    assert run(True).to_frame().equals(run(False).to_frame())


def test_a_model_that_is_moved_after_the_start() -> None:
    model = Outer().to("meta")
    tracker = Tracker(model, 1, inputs=batch(0).to("meta")).start()
    model.to_empty(device="cpu")
    with pytest.raises(SiteError, match=r"body\.1 runs on cpu, and was on meta .* after you move the model"):
        model(batch(0))
    with pytest.warns(UserWarning, match="took a step"):
        tracker.stop()
    # Compiled code calls this on devices that exist.
    with pytest.raises(SiteError, match="a runs on cpu, and was on meta"):
        count_active(batch(0), None, torch.tensor(True), torch.zeros(8, device="meta"), "positive", "a")


def test_checkpointing_inside_a_compiled_model() -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = modules()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = checkpoint(self.body, x, use_reentrant=False)
            return output

    model = Checkpointed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    forward = torch.compile(model, backend="aot_eager")
    with Tracker(model, 2, inputs=batch(0), dead_limit=None) as tracker:
        train(model, optimizer, range(4), forward)
    assert tracker.to_frame()["tokens"].tolist() == [12] * 4


@pytest.mark.parametrize(
    ("criterion", "padding"),
    [
        ("positive", 0),
        ("above(0.3)", 3),
        pytest.param("positive", 3, marks=pytest.mark.slow),
        pytest.param("above(0.3)", 0, marks=pytest.mark.slow),
    ],
)
def test_checkpointing_around_a_part_that_is_compiled(criterion: str, padding: int) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Outer):
        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            output: torch.Tensor = checkpoint(self.body, x, use_reentrant=False)
            return output

    mask = torch.ones(3, 4)
    mask[0, :padding] = 0

    def run(compiles: bool) -> Tracker:
        torch.manual_seed(0)
        model = Checkpointed()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if compiles:
            model.body = torch.compile(model.body, backend="aot_eager")
        with Tracker(model, 2, criterion=criterion, inputs=batch(0).view(3, 4, 6), dead_limit=None) as tracker:
            train(model, optimizer, range(4), lambda x: model(x.view(3, 4, 6), mask if padding else None))
        return tracker

    compiled = run(True).to_frame()
    assert compiled.equals(run(False).to_frame())
    assert set(compiled["tokens"]) == {12 - padding}


@pytest.mark.parametrize(
    ("criterion", "backend"),
    [
        ("nonzero", "aot_eager"),
        ("above(0.3)", "aot_eager"),
        pytest.param("nonzero", "inductor", marks=pytest.mark.slow),
        ("above(0.3)", "inductor"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch itself
def test_criteria_in_one_graph(criterion: str, backend: str) -> None:
    model, optimizer = made("modules")
    for parameter in model.parameters():  # numbers that both kinds of code round alike
        parameter.data = (parameter.data * 8).round() / 8
    optimizer.param_groups[0]["lr"] = 0.0
    inputs = [(batch(number) * 4).round() / 4 for number in range(4)]

    def run(forward: Callable[..., Any]) -> Tracker:
        with Tracker(model, 2, criterion=criterion, dead_limit=None) as tracker:
            for x in inputs:
                forward(x).sum().backward()
                optimizer.step()
        return tracker

    eager = run(model)
    compiled = run(torch.compile(model, fullgraph=True, backend=backend))
    assert 0 < eager.to_frame()["activation_ratio"].mean() < 1
    assert compiled.to_frame().equals(eager.to_frame())


class Masked(nn.Module):
    """Gets a mask, and computes one MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.body = modules()

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.body(x)
        return output


def masks() -> dict[str, torch.Tensor]:
    """Make masks of two sequences of five tokens, of which the second has two of padding."""
    kept = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    added = (1.0 - kept) * -1e9
    return {
        "plain": kept, "bool": kept.bool(), "float": kept.float(), "without padding": torch.ones(2, 1, 5, 5).tril().bool(),
        "keys": kept.bool()[:, None, None, :], "queries and keys": kept.bool()[:, None, None, :].expand(2, 1, 5, 5),
        "added": added, "added to scores": added[:, None, None, :], "one sequence": kept[1],
    }  # fmt: skip


@pytest.mark.parametrize("kind", masks())
def test_masks_in_compiled_code(kind: str) -> None:
    """The same tokens are counted as in eager mode, or the same masks refused, and only where a step is read."""
    width = next(module.in_features for module in modules().modules() if isinstance(module, nn.Linear))
    x, mask = torch.randn(2, 5, width), masks()[kind]

    def run(compiles: bool) -> Any:
        torch.manual_seed(0)
        model = Masked()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        forward: Any = torch.compile(model, fullgraph=True, backend="aot_eager") if compiles else model
        inputs = {"x": x, "attention_mask": torch.ones(2, 5)}
        steps = 0
        try:
            with Tracker(model, 2, inputs=inputs, dead_limit=None) as tracker:
                for _ in range(4):
                    forward(x, mask).square().mean().backward()
                    optimizer.step()
                    steps += 1
        except SiteError:
            return f"refused after {steps} steps"
        return tracker.to_frame().to_csv()

    eager = run(False)
    assert run(True) == eager
    assert (eager == "refused after 1 steps") == (
        kind in ("keys", "queries and keys", "added", "added to scores", "one sequence")
    )
