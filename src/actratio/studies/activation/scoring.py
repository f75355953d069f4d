"""What a model loses on each document: the next token's loss, or that of a linear probe of sentence embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from actratio.errors import DataError, SiteError

_TOKENS = 2048  # in a batch, at most
_PENALTIES = (1.0, 10.0, 100.0, 1000.0)  # of the probe: scikit-learn's C
_PROBE_STEPS = 2000

Scores = dict[str, Tensor]
"""``loss``, and what else is measured, each (documents,)."""


class Scorer(Protocol):
    """Reads documents with a model in its current state."""

    def calibrate(self) -> None:
        """Run the model on the documents that means are taken from."""

    def score(self) -> Scores:
        """Return the scores of the documents."""


def equal_length_batches(documents: Sequence[Tensor]) -> Iterator[list[int]]:
    """Yield the indices of documents of equal length, about 2,048 tokens at a time, so that nothing is padded."""
    by_length: dict[int, list[int]] = {}
    for index, document in enumerate(documents):
        by_length.setdefault(len(document), []).append(index)
    for length, indices in sorted(by_length.items()):
        size = max(1, _TOKENS // length)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


class LanguageScorer:
    """The next token's loss.

    Args:
        logits: returns the logits of token ids, (documents, tokens, vocabulary).
        documents: token ids of each document.
        calibration: documents that means are taken from.
        given: tokens at the start of a document that are not predicted; at least 1.
    """

    def __init__(
        self, logits: Callable[[Tensor], Tensor], documents: Sequence[Tensor], calibration: Sequence[Tensor], given: int
    ) -> None:
        self._logits, self._documents, self._calibration, self._given = logits, documents, calibration, given

    @torch.no_grad()
    def calibrate(self) -> None:
        for indices in equal_length_batches(self._calibration):
            self._logits(torch.stack([self._calibration[index] for index in indices]))

    @torch.no_grad()
    def score(self) -> Scores:
        """Return the mean loss of each document's tokens, and the share of them that the model gives the highest probability."""
        loss = torch.zeros(len(self._documents))
        accuracy = torch.zeros_like(loss)
        for indices in equal_length_batches(self._documents):
            ids = torch.stack([self._documents[index] for index in indices])
            logits, labels = self._logits(ids)[:, self._given - 1 : -1].float(), ids[:, self._given :]
            losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
            loss[indices] = losses.mean(1)
            accuracy[indices] = (logits.argmax(-1) == labels).float().mean(1)
        return {"loss": loss, "accuracy": accuracy}


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of embeddings.

    Attributes:
        weight: (classes, features).
        bias: (classes,).
        penalty: scikit-learn's C, that was chosen.
    """

    weight: Tensor
    bias: Tensor
    penalty: float

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings @ self.weight.T + self.bias


def fit_probe(embeddings: Tensor, labels: Tensor) -> Probe:
    """Fit a logistic regression whose penalty is chosen by the log loss on every fourth text.

    Raises:
        DataError: a class is missing among the texts that are fitted.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x, y = embeddings.double().numpy(), labels.numpy()
    held_out = np.arange(len(y)) % 4 == 3
    if set(y[held_out]) - set(y[~held_out]) or len(set(y)) < 2:
        raise DataError(f"{len(y)} texts are too few for a probe of {len(set(y))} classes; use more documents")

    def fitted(penalty: float, rows: Any) -> Any:
        return LogisticRegression(C=penalty, max_iter=_PROBE_STEPS).fit(x[rows], y[rows])

    def held_out_loss(penalty: float) -> float:
        model = fitted(penalty, ~held_out)
        return float(log_loss(y[held_out], model.predict_proba(x[held_out]), labels=model.classes_))

    best = min(_PENALTIES, key=held_out_loss)
    probe = fitted(best, slice(None))
    weight, bias = torch.from_numpy(probe.coef_).float(), torch.from_numpy(probe.intercept_).float()
    if len(weight) == 1:  # two classes share one row
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return Probe(weight, bias, best)


@torch.no_grad()
def sentence_embeddings(model: nn.Module, documents: Sequence[Tensor]) -> Tensor:
    """Return the mean of the last hidden states over tokens, normalised: (documents, features).

    Raises:
        SiteError: the model has no hidden states of tokens.
    """
    rows: dict[int, Tensor] = {}
    for indices in equal_length_batches(documents):
        ids = torch.stack([documents[index] for index in indices])
        output: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        if not hasattr(output, "last_hidden_state"):
            raise SiteError(
                f"{type(model).__name__} is neither a causal language model nor an encoder of sentences; give one of these"
            )
        states = output.last_hidden_state.float().mean(1)
        rows |= dict(zip(indices, F.normalize(states, dim=-1), strict=True))
    return torch.stack([rows[index] for index in range(len(documents))])


class SentenceScorer:
    """The loss of a linear probe that reads sentence embeddings.

    Args:
        model: an encoder as it is at first; the embeddings of ``documents`` are kept to compare with.
        probe: the probe.
        documents: token ids of each document.
        labels: class of each document, (documents,).
        calibration: documents that means are taken from.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Probe,
        documents: Sequence[Tensor],
        labels: Tensor,
        calibration: Sequence[Tensor],
    ) -> None:
        self._model, self._probe = model, probe
        self._documents, self._labels, self._calibration = documents, labels, calibration
        self._dense = sentence_embeddings(model, documents)

    def calibrate(self) -> None:
        sentence_embeddings(self._model, self._calibration)

    def score(self) -> Scores:
        """Return the probe's cross entropy, whether it is right, and 1 − cosine to the embeddings of the model as it was at first."""
        embeddings = sentence_embeddings(self._model, self._documents)
        logits = self._probe.logits(embeddings)
        return {
            "loss": F.cross_entropy(logits, self._labels, reduction="none"),
            "accuracy": (logits.argmax(-1) == self._labels).float(),
            "distance": (1 - (embeddings * self._dense).sum(-1)).clamp_min(0),
        }
