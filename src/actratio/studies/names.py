"""Names of models and data sets as text."""

from __future__ import annotations

_SHOWN = {
    "smollm2": "SmolLM2",
    "minilm": "MiniLM",
    "iglm": "IgLM",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
}


def shown_name(name: str) -> str:
    """Return the name of a model or data set as text; other names stay as they are.

    >>> shown_name("fashion_mnist")
    'Fashion-MNIST'
    """
    return _SHOWN.get(name, name)
