"""The findings of the study of MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from actratio.errors import FitError
from actratio.laws.observations import ARTICLE_BLOCK, DatasetLaws, at_epoch, fit_observations, prepare_observations
from actratio.laws.observations import to_article as article_columns
from actratio.report.chart import Chart, ForestChart
from actratio.report.findings import Findings, Table
from actratio.report.laws import law_sentences, laws_table
from actratio.statistics.verdict import NO, YES, Verdict
from actratio.studies.mlp.afterwards_findings import (
    Afterwards,
    afterwards_sentences,
    afterwards_tables,
    alpha_forest,
    headline,
    look_afterwards,
)
from actratio.studies.mlp.crossed import CROSSED_BLOCK
from actratio.studies.mlp.depth import LIMIT, STEP_RULE, DepthFit, fit_depth, judge_steps
from actratio.studies.mlp.exponents import alpha_chart, crossed_table, exponent_table, loss_table, step_chart
from actratio.studies.mlp.figures import mlp_charts
from actratio.studies.mlp.published import printed_sentence, published_table
from actratio.studies.mlp.sentences import sentence_verdicts
from actratio.studies.mlp.widths import width_findings

if TYPE_CHECKING:
    import pandas as pd

_PRIMARY = "val"


def study_findings(frame: pd.DataFrame, settings: Mapping[str, Any], published: pd.DataFrame | None) -> Findings:
    """Judge the prediction, √N and the article's sentences, and return them with the tables and charts.

    Args:
        frame: the tidy table of the study.
        settings: the settings of the study.
        published: the article's measurements with our column names (``observations.read_published``).
    """
    frame = prepare_observations(frame, "the study's table")
    article = frame[frame["block"] == ARTICLE_BLOCK]
    if published is not None and not set(published["dataset"]) & set(frame["dataset"]):
        published = None
    quick = bool(settings.get("quick"))  # a quick run supports no law and no verdict, not even in a chart's title
    held_out, unfitted = ({}, []) if quick else _fit(article, _PRIMARY)
    trained = {} if quick else _fit(article, "train")[0]
    theirs = {} if published is None else _fit(published, "train")[0]
    theirs = {dataset: fitted for dataset, fitted in theirs.items() if dataset in trained}
    crossed = {} if quick else _crossed(frame[frame["block"] == CROSSED_BLOCK])
    looked = {} if quick else _afterwards(frame)
    step_verdicts = _step_verdicts({dataset: fits[_PRIMARY][0] for dataset, fits in crossed.items()})
    verdicts = [
        *step_verdicts,
        *(replace(fitted.verdict, confirmatory=False) for fitted in held_out.values()),
        *([] if quick else sentence_verdicts(frame, trained, published)),
    ]
    sentences = [
        headline(looked),
        *(_step_sentence(verdict) for verdict in step_verdicts),
        *(sentence for fitted in held_out.values() for sentence in law_sentences(fitted)),
        *afterwards_sentences(looked),
        *unfitted,
        *([] if published is None else [printed_sentence(published)]),
    ]
    return Findings(
        title=f"Activation ratios of MLPs on {', '.join(settings['datasets'])}",
        lead=(
            f"{settings['seeds']} seeds, {settings['epochs']} epochs, batch {settings['batch_size']}, Adam, "
            f"{'with' if settings['bias'] else 'without'} biases. The activation ratio is the share of neurons whose "
            "activation is above zero. The prediction and √N are judged by counts over held-out examples; the article's sentences, and the charts "
            "beside its measurements, by counts over the training batches of an epoch, as the article counted."
        ),
        sentences=[sentence for sentence in sentences if sentence],
        tables=[*_tables(article, published, held_out, trained, theirs, crossed), *afterwards_tables(looked)],
        charts=_charts(article, published, trained, crossed, looked),
        details={
            f"data: {name}": f"{entry['train']} + {entry['val']} examples, {entry['features']} features, "
            f"{entry['classes']} classes, SHA-256 {entry['fingerprint'][:16]}…"
            for name, entry in settings["data"].items()
        },
        data={"laws": [fitted.to_dict() for fitted in held_out.values()]},
        exports={} if article.empty else {"article.csv": article_columns(article)},
        verdicts=verdicts,
    )


def _fit(rows: pd.DataFrame, split: str) -> tuple[dict[str, DatasetLaws], list[str]]:
    """Return the laws of each data set after the last epoch, and a sentence for each that has none."""
    laws, unfitted = {}, []
    for dataset, same in rows.groupby("dataset", sort=False):
        try:
            (laws[str(dataset)],) = fit_observations(same, split=split)
        except FitError as error:  # for example for a single width; the rest can still be shown
            unfitted.append(f"{dataset}: no law was fitted: {error}.")
    return laws, unfitted


def _crossed(rows: pd.DataFrame) -> dict[str, dict[str, tuple[DepthFit, DepthFit | None]]]:
    """Return the fits of the crossed block by data set and split, with depth from the input and from the output."""
    fits: dict[str, dict[str, tuple[DepthFit, DepthFit | None]]] = {}
    for dataset, same in rows.groupby("dataset", sort=False):
        by_split = {}
        for split in ("val", "train"):
            hidden = _hidden(at_epoch(same, split, None))
            fit = fit_depth(hidden)
            if fit is not None:
                by_split[split] = (fit, fit_depth(hidden, from_output=True))
        if by_split:
            fits[str(dataset)] = by_split
    return fits


def _afterwards(frame: pd.DataFrame) -> dict[str, Afterwards]:
    """Return what was looked at afterwards, by data set."""
    hidden = _hidden(frame[(frame["split"] == _PRIMARY) & (frame["epoch"] > 0)])
    found = {
        str(dataset): look_afterwards(*(rows[rows["block"] == block] for block in (ARTICLE_BLOCK, CROSSED_BLOCK)))
        for dataset, rows in hidden.groupby("dataset", sort=False)
    }
    return {dataset: looked for dataset, looked in found.items() if looked is not None}


def _step_verdicts(fits: Mapping[str, DepthFit]) -> list[Verdict]:
    outcomes = judge_steps([fit.log_step for fit in fits.values()])
    return [
        Verdict(
            f"{dataset}: from the second layer on, each layer deeper multiplies A by less than 0.95",
            outcome,
            fit.step,
            STEP_RULE,
            figure="step in B0",
            predicted=YES,
        )
        for (dataset, fit), outcome in zip(fits.items(), outcomes, strict=True)
    ]


def _step_sentence(verdict: Verdict) -> str:
    dataset = verdict.claim.split(": ")[0]
    outcome = {YES: "holds", NO: "is falsified"}.get(verdict.verdict, "is not decided")
    if verdict.verdict == NO and verdict.estimate.low < LIMIT:
        outcome += ", but only in the sense that the interval includes 1; it includes smaller factors than 0.95 too"
    return (
        f"{dataset}: by the planned fit, each layer deeper multiplies the number of active neurons by "
        f"{verdict.estimate.format('{:.2f}')}, from the second layer on. The prediction (less than 0.95) {outcome}."
    )


def _hidden(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[~rows["logits"]]


def _tables(
    article: pd.DataFrame,
    published: pd.DataFrame | None,
    held_out: Mapping[str, DatasetLaws],
    trained: Mapping[str, DatasetLaws],
    theirs: Mapping[str, DatasetLaws],
    crossed: Mapping[str, Mapping[str, tuple[DepthFit, DepthFit | None]]],
) -> list[Table]:
    tables: list[Table | None] = []
    if crossed:
        fits = [(name, split, *pair) for name, by_split in crossed.items() for split, pair in by_split.items()]
        tables.append(crossed_table(fits))
    if held_out:
        named = (("held-out", held_out), ("training", trained), ("published", theirs))
        tables.append(
            exponent_table([(counts, laws[name]) for name in held_out for counts, laws in named if name in laws])
        )
    if not article.empty:
        hidden = _hidden(article[article["split"] == _PRIMARY])
        tables.append(
            loss_table({str(name): rows for name, rows in hidden.groupby("dataset", sort=False) if name in held_out})
        )
        tables.append(width_findings(article, trained, published))
        tables.append(None if published is None else published_table(article, published))
    if held_out:
        tables.append(laws_table(list(held_out.values())))
    return [table for table in tables if table is not None]


def _charts(
    article: pd.DataFrame,
    published: pd.DataFrame | None,
    trained: Mapping[str, DatasetLaws],
    crossed: Mapping[str, Mapping[str, tuple[DepthFit, DepthFit | None]]],
    looked: Mapping[str, Afterwards],
) -> list[Chart | ForestChart]:
    charts: list[Chart | ForestChart | None] = [alpha_forest(looked)]
    primary = [(name, *by_split[_PRIMARY]) for name, by_split in crossed.items() if _PRIMARY in by_split]
    if primary:
        charts.append(step_chart(primary, {name: own.within for name, own in looked.items() if own.within is not None}))
    if not article.empty:
        series = []
        for dataset, rows in _hidden(article).groupby("dataset", sort=False):
            if dataset not in trained:
                continue
            for split, counts in (("val", "held-out"), ("train", "training")):
                series.append((str(dataset), counts, rows[rows["split"] == split]))
            if published is not None:
                series.append((str(dataset), "published", _hidden(published[published["dataset"] == dataset])))
        charts.append(alpha_chart(series))
        charts += mlp_charts(article, list(trained.values()), published)
    return [chart for chart in charts if chart is not None]
