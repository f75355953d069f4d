"""The report of a study's folder: its page, its figures, and the tables that the terminal shows too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actratio.errors import FitError, RunError
from actratio.files import read_table
from actratio.laws.estimate import Estimate
from actratio.laws.fitting import LawFit
from actratio.laws.observations import DatasetLaws, fit_observations, read_observations, read_published
from actratio.report.chart import Chart
from actratio.report.page import Page, Table, write_page
from actratio.report.static import save_charts
from actratio.studies.folder import read_settings
from actratio.studies.mlp.figures import charts, width_table
from actratio.studies.mlp.history import TIDY_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

_RATIO = "{:.1%}"
_NUMBER = "{:.3g}"


@dataclass(frozen=True)
class StudyReport:
    """A finished study, fitted and laid out.

    Attributes:
        frame: the tidy table.
        laws: of each data set.
        tables: widths and laws, as text.
        findings: the verdicts in words.
    """

    frame: pd.DataFrame
    laws: list[DatasetLaws]
    tables: list[Table]
    findings: list[str]
    charts: list[Chart]
    settings: dict[str, Any]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, run: Path, published: Path | None = None) -> StudyReport:
        """Read the study in the folder ``run``.

        Args:
            published: CSV with the article's columns, drawn beside ours.

        Raises:
            ActratioError: no study there, none of its units finished, or no such CSV.
        """
        settings, made_by = read_settings(run)
        table = run / "results.parquet"
        if not table.is_file():
            raise RunError(f"{run} has no finished training yet; run the study's command again to go on")
        theirs = None if published is None else read_published(published)
        frame, _ = read_table(table)
        missing = [column for column in TIDY_COLUMNS if column not in frame.columns]
        if missing:
            raise RunError(f"{table} has no column {missing[0]}; remove it, and the study's command makes it again")
        laws, unfitted = [], []
        for dataset, rows in read_observations(table).groupby("dataset", sort=False):
            try:
                laws += fit_observations(rows)
            except FitError as error:  # a single width, say: all else can still be shown
                unfitted.append(f"{dataset}: no law was fitted: {error}.")
        return cls(
            frame,
            laws,
            [_widths(width_table(frame, laws, theirs), theirs is not None), *([laws_table(laws)] if laws else [])],
            [*(finding for each in laws for finding in findings(each)), *unfitted],
            charts(frame, laws, theirs),
            settings,
            made_by,
        )

    def write(self, run: Path) -> Path:
        """Write ``figures/`` and ``report.html`` into ``run``; returns the page."""
        save_charts(self.charts, run / "figures")
        study = self.settings
        names = ", ".join(study["datasets"])
        page = Page(
            title=f"Activation ratios of MLPs on {names}",
            lead=(
                f"{study['seeds']} seeds, {study['epochs']} epochs, batch {study['batch_size']}, Adam, "
                f"{'with' if study['bias'] else 'without'} biases. The activation ratio is the share of neurons whose activation is above "
                "zero, over the training batches of the last epoch unless a figure says otherwise."
            ),
            findings=self.findings,
            tables=self.tables,
            charts=self.charts,
            details=self._details(),
        )
        return write_page(page, run / "report.html")

    def _details(self) -> dict[str, str]:
        data = {
            f"data: {name}": f"{entry['train']} + {entry['val']} examples, {entry['features']} features, {entry['classes']} classes, SHA-256 {entry['fingerprint'][:16]}…"
            for name, entry in self.settings["data"].items()
        }
        return {**data, **{key: str(value) for key, value in self.provenance.items()}}


def findings(each: DatasetLaws) -> list[str]:
    """What follows from the fits of a data set, in sentences."""
    laws = each.laws
    left_out = f" Left out of the fit: {each.left_out}." if each.left_out else ""
    sentences = [f"{each.dataset}: {laws.verdict}{left_out}"]
    if laws.depth is not None and not math.isnan(laws.depth.low):
        depth = laws.depth
        change = f"with every layer deeper, {depth.format('{:.2f}')} times as many neurons fire at equal width"
        if depth.high < 1:
            sentences.append(f"{each.dataset}: fewer are active deeper: {change}.")
        elif depth.low > 1:
            sentences.append(f"{each.dataset}: more are active deeper: {change}.")
        else:
            sentences.append(
                f"{each.dataset}: whether fewer are active deeper is not settled: {change}, an interval that holds 1."
            )
    alpha = laws.alpha_at_depth
    if alpha is not None and not math.isnan(alpha.low):
        sentences.append(f"{each.dataset}: of layers equally deep, α is {alpha.format('{:.3f}')}.")
    return sentences


def laws_table(laws: list[DatasetLaws]) -> Table:
    """Every law of every data set, and α and F by layer position."""
    rows = []
    for each in laws:
        for fit in each.laws.fits.values():
            rows.append(_law_row(each.dataset, "all", fit, best=fit is each.laws.best))
        for layer, alone in each.by_layer.items():
            rows += [_law_row(each.dataset, str(layer), alone.fits[name], best=False) for name in ("sqrt", "power")]
    return Table(
        "Laws of active neurons A against width N",
        ["data set", "layer", "law", "F", "α or K", "AICc", "left-out error"],
        rows,
        "Fitted to log A, one point a layer and architecture, the mean over its seeds; in brackets 95 % intervals from a bootstrap over "
        "architectures and seeds. The law with the smallest AICc is marked *. The left-out error is the root mean square of "
        "log(predicted/observed) for widths left out of the fit. 'Not determined' means that the law fits best as its limit, a straight line or a constant. "
        "Rows of a single layer use that layer alone, because width and depth are confounded in the article's design.",
    )


def _law_row(dataset: str, layer: str, fit: LawFit, *, best: bool) -> list[str]:
    parameters = [fit.parameters[name].format(_NUMBER) for name in fit.law.parameters]
    if fit.at_bound:
        parameters = ["not determined"] * len(parameters)
    parameters += [""] * (2 - len(parameters))
    numbers = [
        "" if math.isnan(number) else text.format(number)
        for number, text in ((fit.aicc, "{:.1f}"), (fit.left_out_error, "{:.3f}"))
    ]
    return [dataset, layer, fit.law.formula + (" *" if best else ""), *parameters, *numbers]


def _widths(table: pd.DataFrame, with_published: bool) -> Table:
    header = ["data set", "neurons", "layers", "activation ratio", "active", "F·√N", "dead"] + [
        "published ratio"
    ] * with_published
    rows = []
    for row in table.itertuples():
        ratio, active, dead = row.activation_ratio, row.active_mean, row.dead
        assert isinstance(ratio, Estimate)
        assert isinstance(active, Estimate)
        assert isinstance(dead, Estimate)
        cells = [
            row.dataset,
            f"{row.width}" + (" (logits)" if row.tensor == "logits" else ""),
            str(row.layers),
            ratio.plus_minus(_RATIO),
            active.plus_minus("{:.1f}"),
            "" if row.sqrt_law != row.sqrt_law or row.sqrt_law is None else f"{row.sqrt_law:.1f}",
            f"{dead.value:.1f}",
        ]
        published = row.published_ratio
        rows.append(
            [str(cell) for cell in cells]
            + ([_RATIO.format(published) if published == published else ""] if with_published else [])
        )
    return Table(
        "Active neurons by width, after training",
        header,
        rows,
        "Means over the layers of a width, ± half of the 95 % interval over seeds. F·√N is the fitted law. 'Dead' neurons were active on no training example of the last epoch.",
    )
