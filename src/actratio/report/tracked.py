"""Charts of what a tracker read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actratio.report.chart import COLOURS, Chart, Series
from actratio.statistics.estimate import Estimate
from actratio.tracking.readings import SiteReading

_MOST_LINES = len(COLOURS)


def tracker_charts(readings: Sequence[SiteReading]) -> list[Chart]:
    """Return the charts: the activation ratio and the share of dead neurons of some layers over the steps.

    At most eight sites are drawn, spread over the depth of the model. Steps that are spaced like powers have a logarithmic
    axis.
    """
    names = _spread(list(dict.fromkeys(item.site for item in readings)))
    ratios = {name: [item for item in readings if item.site == name and item.tokens] for name in names}
    x_log = _is_spread([item.step for item in readings])
    return [
        Chart(
            "ratio",
            _title(ratios, "Activation ratio", lambda item: item.ratio),
            "Each line is one layer. A reading counts the tokens of one training step.",
            "step",
            "activation ratio",
            [
                _line(name, items, number, lambda item: item.ratio)
                for number, (name, items) in enumerate(ratios.items())
            ],
            x_log=x_log,
            percent=True,
        ),
        Chart(
            "dead",
            _title(ratios, "Dead neurons", lambda item: item.dead / item.width),
            "Share of a layer's neurons that were active on none of the tokens of the step.",
            "step",
            "dead neurons",
            [
                _line(name, items, number, lambda item: item.dead / item.width)
                for number, (name, items) in enumerate(ratios.items())
            ],
            x_log=x_log,
            percent=True,
        ),
    ]


def _title(ratios: Mapping[str, Sequence[SiteReading]], what: str, value: Callable[[SiteReading], float]) -> str:
    ends = [(value(items[0]), value(items[-1])) for items in ratios.values() if items]
    if not ends:
        return f"{what} over the training"
    first, last = (sum(values) / len(values) for values in zip(*ends, strict=True))
    return f"{what}: {first:.0%} at the first reading, {last:.0%} at the last"


def _line(name: str, items: Sequence[SiteReading], colour: int, value: Callable[[SiteReading], float]) -> Series:
    return Series(name, [float(item.step) for item in items], [Estimate(value(item)) for item in items], colour)


def _is_spread(steps: Sequence[int]) -> bool:
    """Return whether half of the steps are in the first tenth of the training."""
    different = sorted(set(steps))
    return len(different) > 2 and different[len(different) // 2] <= different[-1] / 10


def _spread(names: list[str]) -> list[str]:
    """Return at most eight of the names, the first and the last among them."""
    if len(names) <= _MOST_LINES:
        return names
    step = (len(names) - 1) / (_MOST_LINES - 1)
    return [names[round(number * step)] for number in range(_MOST_LINES)]
