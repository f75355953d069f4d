"""Fine-tune a model until few of its neuron outputs are left, with their zeros exact."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actratio.errors import DataError, SiteError
from actratio.models.fingerprint import weights_fingerprint
from actratio.relufication.activations import swap_activations
from actratio.relufication.checkpoint import TrainingFolder
from actratio.relufication.penalty import hidden_l1, hidden_outputs, typical_sizes
from actratio.relufication.results import Relufied
from actratio.relufication.schedule import Evaluation, FineTuning, is_better, learning_rate, next_strength
from actratio.sites import evaluating
from actratio.sites.mlps import MLP, resolve
from actratio.sparse.comparing import loss_increase
from actratio.sparse.converted import densify
from actratio.sparse.masking import hidden_hooks
from actratio.sparse.text import Batch, SequenceLosses, list_batches, next_token_logits, sequence_losses
from actratio.tracking import Tracker

_TENTH = 10  # of the sequences choose, another tenth checks
_MOST_CHOOSING = 8192  # tokens; they are read at every evaluation
_LARGEST_NORM = 1.0  # of the gradient
_READINGS = 100  # of the tracker
_FORMAT = 2  # of the state of a training

Progress = Callable[[int, float, float], object]


def relufy(
    model: nn.Module,
    batches: Iterable[Batch],
    tuning: FineTuning | None = None,
    *,
    folder: str | Path | None = None,
    progress: Progress = lambda step, loss, ratio: None,
) -> Relufied:
    """Give a model an activation function with true zeros, and fine-tune it with a penalty until few outputs are left.

    The penalty is λ · mean over MLPs of mean |h|, in units of what |h| was at the start, where h enters the down projection. λ rises while the
    ratio of nonzero outputs is above the target, and falls while the loss is above its bound. The ratio and the loss are measured on a tenth of the
    text. The best model within the bound is kept, and is checked on another tenth. Afterwards the model has its weights; if none was within the
    bound, it is in the state of the last step.

    The recipe follows Mirzadeh et al., `ReLU Strikes Back <https://arxiv.org/abs/2310.04564>`_ (swap the function, then fine-tune), and Song et al.,
    `ProSparse <https://arxiv.org/abs/2402.13516>`_ (an L1 penalty on h whose strength rises).

    Args:
        model: a causal language model from transformers, in float32.
        batches: text, each a mapping with ``input_ids``, (sequences, tokens). All sequences must have as many tokens as the first; those that are padded
            or shorter are left out.
        tuning: how to train.
        folder: where the state is kept at every evaluation. If it holds the state of the same training, the training resumes.
        progress: called after each step with its number, its loss (without the penalty) and the latest ratio (NaN before the first reading).

    Raises:
        DataError: too few sequences.
        RunError: the folder is in use, damaged, or holds another training.
        SiteError: no MLP, one whose function can't be replaced, a model that doesn't predict next tokens or isn't in float32, or a loss
            that isn't finite.
    """
    tuning = tuning or FineTuning()
    densify(model)
    sequences = _full_sequences(batches)
    training, choosing, checking = split_sequences(sequences, tuning.batch_size)
    with torch.random.fork_rng(), ExitStack() as stack:
        mlps = _checked_mlps(model)
        settings = {
            "format": _FORMAT, **asdict(tuning), "model": weights_fingerprint(model), "text": hashlib.sha256(sequences.numpy().tobytes()).hexdigest()[:16]
        }  # fmt: skip
        place = None if folder is None else TrainingFolder(Path(folder), settings)
        if place is not None:
            stack.enter_context(place.locked())
        saved = None if place is None else place.load()
        function = mlps[0].site.function
        if saved is None:
            start, _ = evaluation_on(model, mlps, choosing, 0, 0.0)
            before, losses_before = evaluation_on(model, mlps, checking, 0, 0.0)
            given = Given(start, before, losses_before.nats.tolist())
        else:
            given = Given.from_dict(saved[1]["given"])
        if given.start.ratio <= tuning.target < 1:
            raise SiteError(
                f"{given.start.ratio:.1%} of the neuron outputs are not zero already, and the target is {tuning.target:.1%}; skip these zeros with "
                "actratio sparsify --target zeros, or give a smaller --target"
            )
        swap_activations(model, mlps, tuning.activation)
        mlps = _checked_mlps(model)
        run = Training(model, mlps, tuning, training, choosing, given, place)
        if saved is not None:
            run.restore(*saved)
        run.train(progress)
        after, increase = None, None
        if run.kept is not None:
            run.put_back_best()
            after, losses = evaluation_on(model, mlps, checking, run.kept.step, run.kept.strength)
            increase = loss_increase(losses._replace(nats=torch.tensor(given.nats, dtype=torch.float64)), losses)
    tokens = tuning.batch_size * sequences.shape[1]
    readings = run.tracker.readings
    return Relufied(
        tuning, function, tokens, run.bound, run.evaluations, run.kept, given.before, after, increase, readings
    )


@dataclass(frozen=True)
class Given:
    """What is known of the given model.

    Attributes:
        start: its evaluation on the text that chooses.
        before: on the text that checks.
        nats: its loss of each sequence of the text that checks.
    """

    start: Evaluation
    before: Evaluation
    nats: list[float]

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Given:
        """Return what ``dataclasses.asdict`` made a dictionary of."""
        return cls(Evaluation(**saved["start"]), Evaluation(**saved["before"]), saved["nats"])


class Training:
    """A training, and what its next step depends on."""

    def __init__(
        self,
        model: nn.Module,
        mlps: Sequence[MLP],
        tuning: FineTuning,
        training: Tensor,
        choosing: Tensor,
        given: Given,
        place: TrainingFolder | None,
    ) -> None:
        self._model, self._mlps, self._tuning, self._place = model, mlps, tuning, place
        self._training, self._choosing, self._given = training, choosing, given
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._optimizer = torch.optim.AdamW(self._parameters.values(), lr=tuning.lr, weight_decay=0.0, fused=True)
        self._best: dict[str, Tensor] | None = None  # if there is no folder
        self._sizes: dict[str, float] = {}
        self._strength = 0.0
        self._steps = 0
        every = max(1, tuning.steps // _READINGS)
        self.tracker = Tracker(model, every, criterion="nonzero", dead_limit=None)
        self.evaluations = [given.start]
        self.kept: Evaluation | None = None
        self.bound = given.start.loss * (1 + tuning.loss / 100)

    def train(self, progress: Progress) -> None:
        """Train to the last step."""
        was_training = self._model.training
        self._model.train()
        try:
            with hidden_outputs(self._mlps) as hidden, self.tracker:
                for step in range(self._steps + 1, self._tuning.steps + 1):
                    loss = self._step(step, hidden)
                    self._steps = step
                    progress(step, loss, self.tracker.latest.get("actratio/ratio", math.nan))
                    if self._tuning.is_evaluated(step):
                        self._evaluate()
        finally:
            self._model.train(was_training)

    def _step(self, step: int, hidden: dict[str, Tensor]) -> float:
        torch.manual_seed(self._tuning.seed * 1_000_003 + step)  # of dropout
        loss = _loss(self._model, _batch(self._training, self._tuning, step))
        plain_loss = float(loss.detach())
        if not self._sizes:
            self._sizes = typical_sizes(hidden)
        total = loss + self._strength * hidden_l1(hidden, self._sizes) if self._strength else loss
        hidden.clear()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._tuning, step)
        self._optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), _LARGEST_NORM)
        if not math.isfinite(float(norm)):
            raise SiteError(
                f"the gradient is not finite at step {step} (the loss is {plain_loss:g}); train with a smaller learning rate"
            )
        self._optimizer.step()
        return plain_loss

    def _evaluate(self) -> None:
        latest, _ = evaluation_on(self._model, self._mlps, self._choosing, self._steps, self._strength)
        self.evaluations.append(latest)
        if is_better(self._tuning, latest, self.kept, self.bound):
            self.kept = latest
            weights = {name: value.detach().cpu() for name, value in self._parameters.items()}
            if self._place is None:
                self._best = {name: value.clone() for name, value in weights.items()}
            else:
                self._place.save_best(weights)
        self._strength = next_strength(self._tuning, latest, self.bound)
        if self._place is not None:
            self._place.save(self._arrays(), self._state())

    def _arrays(self) -> dict[str, Tensor]:
        arrays = {}
        for name, parameter in self._parameters.items():
            arrays[f"weight.{name}"] = parameter.detach().cpu()
            moments = self._optimizer.state[parameter]
            arrays |= {f"{key}.{name}": moments[key].detach().cpu() for key in _MOMENTS}
        return arrays

    def _state(self) -> dict[str, Any]:
        return {
            "steps": self._steps,
            "strength": self._strength,
            "sizes": self._sizes,
            "given": asdict(self._given),
            "evaluations": [asdict(item) for item in self.evaluations],
            "kept": None if self.kept is None else asdict(self.kept),
            "tracker": self.tracker.state_dict(),
        }

    def restore(self, arrays: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(arrays[f"weight.{name}"])
                moments = {key: arrays[f"{key}.{name}"].to(parameter.device) for key in _MOMENTS}
                moments["step"] = torch.tensor(float(state["steps"]), device=parameter.device)
                self._optimizer.state[parameter] = moments
        self._steps, self._strength, self._sizes = state["steps"], state["strength"], state["sizes"]
        self.evaluations = [Evaluation(**item) for item in state["evaluations"]]
        self.kept = None if state["kept"] is None else Evaluation(**state["kept"])
        self.tracker.load_state_dict(state["tracker"])

    def put_back_best(self) -> None:
        """Give the model the weights that are kept."""
        best = self._best if self._place is None else self._place.load_best()
        assert best is not None  # something was kept
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(best[name])


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _checked_mlps(model: nn.Module) -> list[MLP]:
    """Return the model's MLPs.

    Raises:
        SiteError: one has no down projection of its own, or the weights aren't float32.
    """
    mlps = resolve(model)
    for mlp in mlps:
        if mlp.site.expert is not None or mlp.down is None:
            raise SiteError(
                f"{mlp.site.name} has no down projection of its own, so its outputs can't be penalised; use another model"
            )
    kinds = {value.dtype for value in model.parameters() if value.is_floating_point()}
    if kinds != {torch.float32}:
        raise SiteError(
            f"the weights are {', '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}, whose steps are too coarse to train; load the model in "
            "float32"
        )
    return mlps


def _full_sequences(batches: Iterable[Batch]) -> Tensor:
    """Return the sequences without padding that are as long as the first one, (sequences, tokens), int64."""
    listed = list_batches(batches, 1, of_tokens=True)
    length = listed[0]["input_ids"].shape[1]
    kept = []
    for batch in listed:
        ids, mask = batch["input_ids"].cpu(), batch.get("attention_mask")
        if ids.shape[1] == length:
            kept.append(ids if mask is None else ids[mask.bool().all(1).cpu()])
    return torch.cat(kept) if kept else torch.empty(0, length, dtype=torch.int64)


def split_sequences(sequences: Tensor, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sequences that train, those that choose, and those that check: the last ones.

    Raises:
        DataError: there are too few.
    """
    count, length = sequences.shape
    part = count // _TENTH
    if part < 1 or count - 2 * part < batch_size or length < 2:
        raise DataError(
            f"the text makes {count} full sequence{'' if count == 1 else 's'} of {length} tokens, and {max(_TENTH, batch_size + 2)} are needed; give more text or use "
            "shorter sequences"
        )
    choosing, checking = sequences[-2 * part : -part], sequences[-part:]
    return sequences[: -2 * part], choosing[: max(1, _MOST_CHOOSING // length)], checking


def _batch(training: Tensor, tuning: FineTuning, step: int) -> Tensor:
    """Return the sequences of a step, counted from 1. The order is another one in each epoch."""
    per_epoch = len(training) // tuning.batch_size
    epoch, place = divmod(step - 1, per_epoch)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(tuning.seed * 1_000_003 + epoch))
    return training[order[place * tuning.batch_size : (place + 1) * tuning.batch_size]]


def _loss(model: nn.Module, ids: Tensor) -> Tensor:
    logits = next_token_logits(model, {"input_ids": ids}).float()
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(logits.device))


def evaluation_on(
    model: nn.Module, mlps: Sequence[MLP], sequences: Tensor, step: int, strength: float
) -> tuple[Evaluation, SequenceLosses]:
    """Return the loss and the share of outputs that aren't zero on some sequences, and the loss of each."""
    nonzero, outputs = 0, 0

    def count(_: MLP, hidden: Tensor) -> None:
        nonlocal nonzero, outputs
        nonzero += int(hidden.count_nonzero())
        outputs += hidden.numel()

    with evaluating(model), torch.no_grad(), hidden_hooks(mlps, count):
        losses = sequence_losses(model, [{"input_ids": ids} for ids in torch.split(sequences, 4)])
    if not math.isfinite(losses.mean):
        raise SiteError(
            f"the loss is {losses.mean} after {step} steps; check the model, or train with a smaller learning rate"
        )
    return Evaluation(step, losses.mean, nonzero / outputs, strength), losses
