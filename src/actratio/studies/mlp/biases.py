"""What biases change: the difference of the activation ratio between two studies, with and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actratio.laws.observations import ARTICLE_BLOCK, at_epoch
from actratio.statistics.estimate import Estimate, mean_interval
from actratio.statistics.multiple import bonferroni_interval
from actratio.statistics.verdict import Verdict
from actratio.studies.mlp.sentences import BIASES

if TYPE_CHECKING:
    import pandas as pd


def bias_differences(without: pd.DataFrame, with_biases: pd.DataFrame, split: str = "train") -> dict[int, Estimate]:
    """Return the ratio with biases minus that without, by width; the 95% intervals hold together (Bonferroni).

    A seed starts from other weights with biases than without. The difference of each seed is still one independent figure.

    Args:
        without, with_biases: the tidy tables of both studies, with rows of one data set.
        split: which examples were counted, ``train`` or ``val``.
    """
    first, second = (_by_width(frame, split) for frame in (without, with_biases))
    differences = (second - first).dropna()
    widths = sorted(differences.index.get_level_values("width").unique())
    return {int(width): bonferroni_interval(differences.loc[width].tolist(), len(widths)) for width in widths}


def bias_verdict(dataset: str, without: pd.DataFrame, with_biases: pd.DataFrame, split: str = "train") -> Verdict:
    """Judge whether biases hardly matter on one data set; see ``bias_differences`` for the arguments."""
    first, second = (np.log(_by_width(frame, split)) for frame in (without, with_biases))
    change = (second - first).dropna().groupby("seed").mean()
    relative = mean_interval(change.tolist()).exp()
    return BIASES.verdict(dataset, Estimate(relative.value - 1, relative.low - 1, relative.high - 1))


def _by_width(frame: pd.DataFrame, split: str) -> pd.Series:
    """Return the mean ratio of the hidden layers of each width and seed, after the last epoch."""
    rows = at_epoch(frame[frame["block"] == ARTICLE_BLOCK], split, None)
    hidden = rows[rows["tensor"] != "logits"]
    return hidden.groupby(["width", "seed"])["activation_ratio"].mean()
