"""Gradients of a ReLU MLP and Adam's update written out by hand, in float64: an oracle for the trainer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class HandWritten:
    """Train one ReLU MLP without biases.

    Args:
        weights: one matrix per layer, shape (out, in).
    """

    def __init__(self, weights: list[Array], lr: float = 1e-3) -> None:
        self.weights = [weight.astype(np.float64) for weight in weights]
        self._moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in self.weights]
        self._lr, self._steps = lr, 0

    def step(self, x: Array, labels: NDArray[np.int64]) -> float:
        """Take one step on a batch and return its mean cross-entropy."""
        outputs = [x.T]
        for layer, weight in enumerate(self.weights):
            product = weight @ outputs[-1]
            outputs.append(product if layer == len(self.weights) - 1 else np.maximum(product, 0))
        logits = outputs[-1] - outputs[-1].max(0)
        probabilities = np.exp(logits) / np.exp(logits).sum(0)
        loss = -np.log(probabilities[labels, np.arange(len(labels))]).mean()
        error = probabilities
        error[labels, np.arange(len(labels))] -= 1
        error /= len(labels)
        self._steps += 1
        gradients = []
        for layer in reversed(range(len(self.weights))):
            gradients.append(error @ outputs[layer].T)
            error = (self.weights[layer].T @ error) * (outputs[layer] > 0)
        for layer, gradient in enumerate(reversed(gradients)):
            self._update(layer, gradient)
        return float(loss)

    def _update(self, layer: int, gradient: Array) -> None:
        mean, square = self._moments[layer]
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient**2 - square)
        corrected = mean / (1 - 0.9**self._steps)
        scale = np.sqrt(square / (1 - 0.999**self._steps)) + 1e-8
        self.weights[layer] = self.weights[layer] - self._lr * corrected / scale
