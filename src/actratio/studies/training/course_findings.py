"""The answer of the study: how the ratio changes over training, with every width, and where it can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from actratio.errors import plural
from actratio.report.findings import Table
from actratio.statistics.seeds import over_seeds
from actratio.studies.training.decay_findings import LOSSES
from actratio.studies.training.endings import NEARLY_ZERO, Ending, ratio_at_loss, run_endings
from actratio.studies.training.part import Part, in_words, ratio_shown, shown
from actratio.studies.training.summaries import by_step, peak_step
from actratio.studies.training.tidying import DECAY

if TYPE_CHECKING:
    import pandas as pd

_RISE = 0.02  # a rise by less is not spoken of


def course_part(frame: pd.DataFrame, epochs: int) -> Part:
    """Return how the ratio changes, at equal training loss and at the end, with a table of where runs end.

    The comparison at equal loss leads, because the last step is in the middle of a jump for some runs.

    Args:
        frame: the tidy table of the study.
        epochs: length of the long runs.
    """
    rows = frame[frame["part"] == DECAY]
    runs = {int(width): of_width for width, of_width in rows.groupby("width")}
    if not runs:
        return Part()
    ratios = {width: by_step(of_width, "activation_ratio") for width, of_width in runs.items()}
    ends = {width: run_endings(of_width) for width, of_width in runs.items()}
    loss = next((loss for loss in reversed(LOSSES) if _all_reach(runs.values(), loss)), None)  # type: ignore[arg-type]
    first = _course_sentence(
        ratios, None if loss is None else {w: ratio_at_loss(r, loss) for w, r in runs.items()}, loss
    )
    return Part([first, _endings_sentence(ratios, ends, epochs)], tables=[_endings_table(runs, ratios, ends, loss)])


def _all_reach(runs: Sequence[pd.DataFrame], loss: float) -> bool:
    return all(not ratio_at_loss(of_width, loss).isna().any() for of_width in runs)


def _course_sentence(ratios: dict[int, pd.DataFrame], at_loss: dict[int, pd.Series] | None, loss: float | None) -> str:
    means = {width: values.mean(axis=1) for width, values in ratios.items()}
    peaks = {width: peak_step(values) for width, values in means.items()}
    starts = [values.iloc[0] for values in means.values()]
    tops = [means[width].loc[peak] for width, peak in peaks.items()]
    rises = all(top > start + _RISE for top, start in zip(tops, starts, strict=True))
    start = f"The ratio starts at {_range(starts)}"
    middle = (
        f", rises to {_range(tops)} within the first {plural(max(peaks.values()), 'step')}, and then falls."
        if rises
        else "."
    )
    places = at_loss or {width: values.iloc[-1] for width, values in ratios.items()}
    where = "At the end of training" if loss is None else f"At a training loss of {loss:g}"
    levels = in_words([f"{values.mean():.0%} with {width}" for width, values in places.items()])
    return f"{start}{middle} {where}, it's {levels} neurons{_below(ratios, places)}."


def _below(ratios: dict[int, pd.DataFrame], places: dict[int, pd.Series]) -> str:
    """Return the widths whose ratio is below its start."""
    below = [width for width, values in places.items() if over_seeds(values - ratios[width].iloc[0]).high < 0]
    if len(below) == len(places):
        return ", which is below the start"
    return (
        f"; only with {in_words(below)} neurons is this below the start"
        if below
        else ", which isn't clearly below the start"
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0%}", f"{max(values):.0%}"
    return low if low == high else f"{low[:-1]} to {high}"


def _endings_sentence(ratios: dict[int, pd.DataFrame], ends: dict[int, list[Ending]], epochs: int) -> str:
    levels = in_words([f"{ratio_shown(values.iloc[-1])} with {width}" for width, values in ratios.items()])
    sentence = f"After {plural(epochs, 'epoch')} the ratio is {levels} neurons."
    runs = [ending for of_width in ends.values() for ending in of_width]
    drops = [ending.drop for ending in runs if ending.jump is not None]
    if not drops:
        return sentence
    widest = [ending.end for ending in ends[max(ends)]]
    falls = f", and the ratio drops by {_points(drops)} points with it" if min(drops) > 0 else ""
    return (
        f"{sentence} Don't read these figures alone: the training loss of {len(drops)} of {len(runs)} runs jumps after it was nearly zero{falls}. With "
        f"{max(ends)} neurons, the seeds end anywhere from {min(widest):.0%} to {max(widest):.0%}."
    )


def _points(shares: Sequence[float]) -> str:
    return f"{100 * min(shares):.0f} to {100 * max(shares):.0f}"


def _endings_table(
    runs: dict[int, pd.DataFrame], ratios: dict[int, pd.DataFrame], ends: dict[int, list[Ending]], loss: float | None
) -> Table:
    rows = []
    for width, of_width in runs.items():
        found, shift = ends[width], by_step(of_width, "shift")
        peak = peak_step(ratios[width].mean(axis=1))
        rows.append(
            [
                str(width),
                "–" if loss is None else ratio_shown(ratio_at_loss(of_width, loss)),
                _spread([ending.lowest for ending in found]),
                _spread([ending.before for ending in found]),
                _spread([ending.end for ending in found]),
                f"{sum(ending.jump is not None for ending in found)} of {len(found)}",
                shown(over_seeds(shift.loc[peak].tolist()), "{:.2f}"),
                shown(over_seeds(shift.iloc[-1].tolist()), "{:.2f}"),
            ]
        )
    at = "at equal loss" if loss is None else f"at a loss of {loss:g}"
    return Table(
        "Looked at afterwards: where the long runs end",
        [
            "width",
            at,
            "lowest",
            "before a jump",
            "at the end",
            "runs with a jump",
            "shift at the peak",
            "shift at the end",
        ],
        rows,
        "Exploratory, 27 November 2026. Lowest: after the peak, of each seed. Before a jump: at the last checkpoint before the training loss, once below "
        f"{NEARLY_ZERO:g}, grows to ten times its lowest value; the last checkpoint for runs without a jump. These columns have the mean and, in brackets, the "
        "smallest and the largest seed. Shift: mean of a pre-activation in its standard deviations, median over neurons. Parentheses: 95% intervals over seeds.",
    )


def _spread(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.0%} [{min(values):.0%} to {max(values):.0%}]"
