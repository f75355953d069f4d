"""Figures of each seed, from the tidy table: what the verdicts and the tables of the study are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actratio.statistics.seeds import log_slope
from actratio.statistics.trajectories import at_loss
from actratio.studies.training.forecasts import Form, forecast_error
from actratio.studies.training.schedule import log_steps
from actratio.studies.training.tidying import DECAY

if TYPE_CHECKING:
    import pandas as pd


def by_step(rows: pd.DataFrame, column: str, split: str = "val") -> pd.DataFrame:
    """Return the mean of a column over the layers, one row per step and one column per seed."""
    chosen = rows[rows["split"] == split]
    return chosen.pivot_table(index="step", columns="seed", values=column, aggfunc="mean")


def log_active(rows: pd.DataFrame, split: str = "val") -> pd.DataFrame:
    """Return the mean over the layers of log A, one row per step and one column per seed; NaN if no neuron was active."""
    with np.errstate(divide="ignore"):
        logs = np.log(rows["active_mean"].to_numpy(dtype=float))
    return by_step(rows.assign(log=np.where(np.isfinite(logs), logs, np.nan)), "log", split)


def log_active_at_loss(rows: pd.DataFrame, loss: float) -> pd.Series:
    """Return log A of each seed where its training loss first falls to ``loss``; NaN for a seed that never gets there.

    Interpolation between checkpoints is linear in the logarithm of the loss.
    """
    import pandas as pd

    logs, losses = log_active(rows), by_step(rows, "train_loss").clip(lower=1e-12)
    return pd.Series(
        {seed: at_loss(np.log(losses[seed]), logs[seed], float(np.log(loss))) for seed in logs.columns}, dtype=float
    )


def alpha_per_seed(logs: Mapping[int, pd.Series]) -> pd.Series:
    """Return α of each seed, the slope of log A against log width, for seeds that have log A at every width.

    Args:
        logs: log A of each seed, by width.
    """
    import pandas as pd

    table = pd.DataFrame(dict(logs)).dropna()
    widths = [float(width) for width in table.columns]
    return pd.Series({seed: log_slope(widths, np.exp(row)) for seed, row in table.iterrows()}, dtype=float)


def exponents_at_step(frame: pd.DataFrame, step: int) -> pd.Series:
    """Return α of each seed at a step of the long runs; the step must have been recorded."""
    return alpha_per_seed({width: log_active(rows).loc[step] for width, rows in _decay(frame)})


def exponents_at_loss(frame: pd.DataFrame, loss: float) -> tuple[pd.Series, int]:
    """Return α of each seed at a training loss, and the number of runs that never reach it."""
    logs = {width: log_active_at_loss(rows, loss) for width, rows in _decay(frame)}
    return alpha_per_seed(logs), sum(int(values.isna().sum()) for values in logs.values())


def peak_step(ratios: pd.Series) -> int:
    """Return the step with the highest ratio, given the ratios by step; the first one if there are several."""
    return int(ratios.idxmax())


def forecast_errors(frame: pd.DataFrame, forms: Sequence[Form], *, after_peak: bool = False) -> pd.DataFrame:
    """Return the error of each form's forecast, one row per width and seed, one column per form.

    Args:
        frame: the tidy table.
        forms: the forms to fit to the first half of the log-spaced steps.
        after_peak: leave out the steps before the seed's highest ratio.
    """
    import pandas as pd

    found = []
    for width, rows in _decay(frame):
        ratios = by_step(rows, "activation_ratio")
        steps = [step for step in log_steps(int(ratios.index.max())) if step in ratios.index]
        for seed in ratios.columns:
            first = peak_step(ratios[seed]) if after_peak else 0
            chosen = [step for step in steps if step >= first]
            errors = {form.name: forecast_error(form, chosen, ratios.loc[chosen, seed]) for form in forms}
            found.append({"width": width, "seed": seed, **errors})
    return pd.DataFrame(found)


def main_effects(levels: Mapping[str, Sequence[int]], response: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Return the change of the response from the low to the high level of each factor.

    With all runs present it is the difference of two means. Without some, it is twice the coefficient of a least-squares fit
    with main effects only, and NaN if the runs that are left cannot tell the factors apart.

    Args:
        levels: −1 or +1 for each factor, by run.
        response: one row per run, one column per seed; NaN for a run without response.
        factors: names of the factors, in the order of the levels.

    Returns:
        One row per factor, one column per seed.
    """
    import pandas as pd

    effects = {}
    for seed in response.columns:
        values = response[seed].dropna()
        design = np.array([[1, *levels[run]] for run in values.index], dtype=float).reshape(-1, 1 + len(factors))
        if np.linalg.matrix_rank(design) < design.shape[1]:
            effects[seed] = np.full(len(factors), np.nan)
        else:
            effects[seed] = 2 * np.linalg.lstsq(design, values.to_numpy(dtype=float), rcond=None)[0][1:]
    return pd.DataFrame(effects, index=list(factors))


def decomposition(rows: pd.DataFrame, since: int = 0) -> pd.DataFrame:
    """Split the change of log A from a step to the last one into the share of living neurons and the ratio among them.

    Args:
        rows: rows of one condition.
        since: a recorded step.

    Returns:
        One row per seed: ``total`` = ``living`` + ``among``, means over the layers. The index is the seed.
    """
    import pandas as pd

    chosen = rows[rows["split"] == "val"]
    living = 1 - chosen["dead"] / chosen["width"]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = pd.DataFrame(
            {
                "total": np.log(chosen["activation_ratio"]),
                "living": np.log(living),
                "among": np.log(chosen["activation_ratio"] / living),
            }
        ).set_index([chosen["seed"], chosen["layer"]])
    step = chosen["step"].to_numpy()
    change = (parts[step == step.max()] - parts[step == since]).replace([np.inf, -np.inf], np.nan)
    return change.dropna().groupby("seed").mean()


def decay_widths(frame: pd.DataFrame) -> list[int]:
    """Return the widths of the long runs that are there."""
    return [width for width, _ in _decay(frame)]


def _decay(frame: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    rows = frame[frame["part"] == DECAY]
    return [(int(width), of_width) for width, of_width in rows.groupby("width")]
