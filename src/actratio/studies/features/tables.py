"""The tables of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actratio.report.findings import Table
from actratio.statistics.estimate import Estimate
from actratio.statistics.seeds import over_seeds
from actratio.studies.features.capacity import NETWORKS
from actratio.studies.features.exponents import exponent_of_seeds, exponents_by_layer
from actratio.studies.features.figures import is_number
from actratio.studies.features.grid import (
    BASE_WIDTH,
    CAPACITY,
    LABELS,
    PARAMETRISATION,
    PLANTED,
    RATE,
    SCHEMES,
    STANDARD,
    TEACHERS,
    TRUE,
)
from actratio.studies.features.recording import READINGS
from actratio.studies.features.results import PlantedResult, Results, compare_schemes, scheme_rows

if TYPE_CHECKING:
    import pandas as pd

_PERCENT = "{:.2%}"


def shown(estimate: Estimate, number: str = "{:.2f}") -> str:
    """Return the estimate with its interval, or an empty text if it is NaN."""
    return estimate.format(number) if is_number(estimate) else ""


def study_tables(frame: pd.DataFrame, settings: Mapping[str, Any], results: Results) -> list[Table]:
    """Return the tables of the tests that the table contains."""
    tests = {str(test): rows for test, rows in frame.groupby("test", sort=False)}
    widths = settings["widths"]
    tables = []
    if PARAMETRISATION in tests:
        tables += [_parametrisation(tests[PARAMETRISATION], widths[PARAMETRISATION]), _rates(tests[PARAMETRISATION])]
    planted = [
        row
        for found, kind in ((results.planted, PLANTED), (results.teachers, TEACHERS))
        if found
        for row in _planted_rows(found, tests[kind])
    ]
    if planted:
        tables.append(
            Table(
                "T1: exponents by task",
                ["task", "α", "widest network", "active neurons there", "accuracy there"],
                planted,
                "α comes from widths of at least four neurons per feature.",
            )
        )
    if LABELS in tests:
        tables.append(_labels(tests[LABELS], widths[LABELS]))
    if CAPACITY in tests:
        tables.append(_capacity(tests[CAPACITY]))
    readings = _readings({test: rows for test, rows in tests.items() if test != CAPACITY})
    return [table for table in (*tables, readings) if table.rows]


def _planted_rows(found: PlantedResult, rows: pd.DataFrame) -> list[list[str]]:
    last = rows[rows["at_equal_steps"] & (rows["width"] == found.width)]
    return [
        [
            str(condition),
            shown(over_seeds(found.cells[condition])) if condition in found.cells else "",
            str(found.width),
            shown(over_seeds(own["active_mean"]), "{:.1f}"),
            shown(over_seeds(own["val_accuracy"]).clip(0, 1), "{:.1%}"),
        ]
        for condition, own in last.groupby("condition", sort=False)
    ]


def _labels(rows: pd.DataFrame, widths: Sequence[int]) -> Table:
    cells = []
    for scheme in SCHEMES:
        own = scheme_rows(rows, scheme)
        compared = compare_schemes(rows, scheme, widths)
        at_loss = ["", "", ""]
        if scheme != TRUE and compared.loss is not None and not own.empty:
            at_loss = [f"{compared.loss:g}", shown(over_seeds(compared.first)), shown(over_seeds(compared.difference))]
        if not own.empty:
            cells.append([scheme, shown(over_seeds(exponent_of_seeds(own, widths))), *at_loss])
    return Table(
        "T2: exponents by labels",
        ["labels", "α at equal steps", "training loss", "α at that loss", "minus true labels"],
        cells,
        "The training loss is the smallest of the grid that all runs of the scheme and of true labels reach.",
    )


def _parametrisation(rows: pd.DataFrame, widths: Sequence[int]) -> Table:
    cells = []
    for condition, own in rows.groupby("condition", sort=False):
        measured = widths if (own["lr"] == RATE).all() else sorted(own["width"].unique())
        layers = exponents_by_layer(own, measured)
        both = over_seeds(layers.mean(axis=1, skipna=False))
        if is_number(both):
            cells.append(
                [
                    str(condition),
                    ", ".join(map(str, measured)),
                    *(shown(over_seeds(layers[layer])) for layer in layers),
                    shown(both),
                ]
            )
    return Table(
        "T3: exponents by parametrisation",
        ["networks", "widths", "α, first layer", "α, second layer", "α, mean"],
        cells,
        "At equal steps. The rules use the rate 0.001; the other rates are exploratory.",
    )


def _rates(rows: pd.DataFrame) -> Table:
    last = rows[
        rows["at_equal_steps"]
        & (rows["width"] == BASE_WIDTH)
        & (rows["parametrisation"] == STANDARD)
        & (rows["layer"] == 0)
    ]
    return Table(
        f"T3: the sweep of rates at N = {BASE_WIDTH}",
        ["rate", "weight decay", "training loss", "held-out accuracy"],
        [
            [
                f"{rate:g}",
                f"{decay:g}",
                shown(over_seeds(own["train_loss"]), "{:.4f}"),
                shown(over_seeds(own["val_accuracy"]).clip(0, 1), _PERCENT),
            ]
            for (rate, decay), own in last.groupby(["lr", "weight_decay"])
        ],
        "Both parametrisations are identical at this width.",
    )


def _capacity(rows: pd.DataFrame) -> Table:
    return Table(
        "T4: the wide network, cut, and a small one",
        ["network", "neurons", "held-out accuracy", "held-out loss"],
        [
            [
                network,
                shown(over_seeds(own["width"].astype(float)), "{:.1f}"),
                shown(over_seeds(own["val_accuracy"]).clip(0, 1), _PERCENT),
                shown(over_seeds(own["val_loss"]), "{:.3f}"),
            ]
            for network in NETWORKS
            for own in [rows[rows["condition"] == network]]
            if not own.empty
        ],
        "Networks are cut without further training.",
    )


def _readings(tests: Mapping[str, pd.DataFrame]) -> Table:
    rows = []
    for test, own in tests.items():
        last = own[own["at_equal_steps"] & (own["width"] == own["width"].max()) & (own["lr"] == RATE)]
        for condition, networks in last.groupby("condition", sort=False):
            by_seed = networks.groupby("seed")[["active_mean", "dead", *READINGS]].mean()
            width = int(networks["width"].iloc[0])
            rows.append(
                [
                    f"{test}: {condition.split(', rate')[0]}" + _decay(networks),
                    str(width),
                    *(
                        f"{over_seeds(by_seed[name]).value:.1f}"
                        for name in ("active_mean", "effective_rank", "participation_ratio")
                    ),
                    f"{width - over_seeds(by_seed['dead']).value:.1f}",
                    f"{over_seeds(by_seed['dead']).value:.1f}",
                    f"{over_seeds(by_seed['duplicates']).value:.1f}",
                ]
            )
    return Table(
        "Readings of the widest networks (exploratory)",
        ["network", "N", "active", "effective rank", "participation ratio", "union", "dead", "with a duplicate"],
        rows,
        "Means over seeds and hidden layers, at equal steps. Union: neurons active on at least one held-out example; dead: the others. With a duplicate: "
        "living neurons whose incoming weights have a cosine above 0.95 with another's.",
    )


def _decay(networks: pd.DataFrame) -> str:
    decay = networks["weight_decay"].iloc[0]
    return f", weight decay {decay:g}" if decay else ""
