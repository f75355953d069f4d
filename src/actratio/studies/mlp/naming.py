"""Names of data sets in sentences and charts."""

from __future__ import annotations

_TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "letter": "Letter", "banking77": "BANKING77"}


def dataset_title(name: str) -> str:
    """Return how a data set is written in a sentence; unknown names stay as they are.

    >>> dataset_title("fashion_mnist")
    'Fashion-MNIST'
    """
    return _TITLES.get(name, name)
