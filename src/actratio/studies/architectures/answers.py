"""The sentences of the study, and what was looked at after the verdicts were known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actratio.errors import plural
from actratio.statistics.verdict import NO, YES
from actratio.studies.architectures.judging import ProfileEstimate, judge_generalises
from actratio.studies.architectures.measured import Costs
from actratio.studies.names import shown_name
from actratio.studies.transformer.profiles import depth_profiles

if TYPE_CHECKING:
    import pandas as pd

DATE = "27 November 2026"
_KINDS = {"smollm2": "a Llama", "minilm": "a BERT", "iglm": "a GPT-2 of antibodies"}
_ARTICLES_FAMILY = "iglm"  # a GPT-2 like the article's models, of another domain


def answer_sentences(
    profiles: Sequence[ProfileEstimate],
    costs: Mapping[str, Costs],
    models: int,
    published: pd.DataFrame | None,
    *,
    widened: bool,
) -> list[str]:
    """Return the answer, then the profile and the needed neurons of each model.

    Args:
        models: number of models that are judged together.
        published: the article's measurements.
        widened: whether the intervals of models with quantised weights are widened.
    """
    said = [_answer(profiles, models, published)] if profiles else []
    for profile in profiles:
        first, plateau, drift = (part.value for part in profile.parts)
        said.append(
            f"{shown_name(profile.model)}: {first:.1%} in the first layer, {plateau:.1%} after the first third, {drift:+.0%} from there to the last layer."
        )
    for model, found in costs.items():
        cost = "its loss may rise by 1%" if found.relative else "the cosine of its embeddings may fall by 0.01"
        limit = "at most " if found.smallest.value <= min(found.kept) else ""
        said.append(
            f"{shown_name(model)} needs {limit}{found.smallest.value:.0%} of its neurons, those with each token's largest contributions, if {cost} "
            f"({plural(found.blocks, 'block')} of text)."
        )
    if widened:
        said.append(
            "The intervals of models with quantised weights are widened by the shift that rounding causes in MiniLM."
        )
    return said


def _answer(profiles: Sequence[ProfileEstimate], models: int, published: pd.DataFrame | None) -> str:
    """Return whether the profile carries over, with the figures that decide, and how many of the article's models have it."""
    outcome, number = judge_generalises(profiles, models)
    begin = {
        YES: "Yes, the profile of the GPT models carries over to other models",
        NO: "No, the profile of the GPT models does not carry over to other models",
    }.get(outcome, "Whether the profile of the GPT models carries over to other models cannot be decided from this")
    figures = "; ".join(
        f"{_described(profile.model)} {'has ' if place == 0 else ''}{profile.parts[0].value:.0%}, {profile.parts[1].value:.0%} and {profile.parts[2].value:+.0%}"
        for place, profile in enumerate(profiles)
    )
    article = ""
    if published is not None:
        have, all_models = _published_profiles(published)
        article = f" {_narrow(len(have), all_models)} of the article's own {all_models} GPT models."
    return (
        f"{begin}: {number.value:.0f} of {models} have 3 to 5% of the neurons active in the first layer, 12 to 16% after the first third, and a change "
        f"of at most 20% from there. {figures}.{article}"
    )


def _narrow(have: int, models: int) -> str:
    return f"But the bands are narrow: they fit only {have}" if have < models / 2 else f"The same bands fit {have}"


def _described(model: str) -> str:
    name = shown_name(model)
    return f"{name} ({_KINDS[model]})" if model in _KINDS else name


def _published_profiles(published: pd.DataFrame) -> tuple[list[str], int]:
    """Return which of the article's models have the profile, by the same bands but without intervals, and how many models there are."""
    profiles = depth_profiles(published)
    return [profile.model for profile in profiles if profile.holds], len(profiles)


def later_sentences(profiles: Sequence[ProfileEstimate], published: pd.DataFrame | None) -> list[str]:
    """Return what the bands say of the article's models, and of the models that aren't GPTs; empty if there is neither."""
    said = []
    if published is not None:
        have, models = _published_profiles(published)
        said.append(
            "The bands that judge the other models were made from the article's description, not from its data. "
            f"Of its {models} GPT models, taken as the mean over its prompts, these lie in all three bands: {', '.join(have) or 'none'}. So a model outside "
            "of the bands isn't unlike every GPT model."
        )
    others = [profile for profile in profiles if profile.model != _ARTICLES_FAMILY]
    if 0 < len(others) < len(profiles):
        said.append(
            f"IgLM is a GPT-2, trained on antibodies: another domain, and not another family. Without it, {sum(profile.holds for profile in others)} of "
            f"{plural(len(others), 'model')} of other families have the profile."
        )
    return [f"Added on {DATE}, when the results were known; exploratory.", *said] if said else []
