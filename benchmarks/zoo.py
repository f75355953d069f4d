"""Every type of model that the installed transformers has, tiny and untrained, measured and checked.

The oracle (``zoo_oracle.py``) knows neither our finder nor our hooks: it hears every activation function where PyTorch
computes it. An MLP is known by its width alone: the configurations (``zoo_models.py``) are made with widths that nothing
else has. So for each model

- every output of such a width must be counted by exactly one site (nothing is missed, nothing twice),
- the numbers of active neurons must be the same, as integers, call by call, and
- nothing else may be counted.

    PYTHONPATH=.venv/timm python benchmarks/zoo.py [--family causal-lm] [--types llama,mixtral] [--json]
    python benchmarks/zoo.py --results causal.json masked.json … --write-docs
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import nn

from actratio import ActratioError, Measurement, measure
from actratio.provenance import current_provenance
from actratio.sites import MEASURED, Site
from zoo_models import FAMILIES, PRIME, has_experts, inputs, kinds, let_timm_load, override_of, tiny, wants_experts
from zoo_oracle import Heard, Listening

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "architectures.md"
LIST = DOCS / "results" / "data" / "architectures.csv"
_INTRODUCTION = """# Supported architectures

**On {exact} of {tried} model types with an MLP, actratio counts exactly the same integers as an independent check.**

actratio finds MLPs by following the data, not by a list of architectures. So this page is a test, not a list of what is allowed: your
own model works in the same way. [How activations are found](sites.md) explains the method.

The test builds every causal language model, masked language model, encoder-decoder and image classifier of transformers {version}, tiny and
with random weights. It measures each one and compares it with a check that shares no code with the measurement: the check listens to
every activation function where PyTorch computes it, and recognises MLPs by their widths, which nothing else in the tiny model has.
*Exact* means that the numbers of active neurons and of tokens are the same integers, call by call, over a batch of two: nothing is missed
and nothing is counted twice. A type that belongs to two families is tested, and counted here, once in each.

```console
$ PYTHONPATH=.venv/timm python benchmarks/zoo.py --write-docs
```
"""
_REASONS = {
    "voxtral_realtime": "its code fixes the width of the time embedding's MLP at 32, which other parts of the tiny model also have, so "
    "the check can't recognise it",
}
"""Why a type is an exception, where its problem does not say."""


@dataclass
class Outcome:
    """What came out for one type of model.

    Attributes:
        sites: how many MLPs and experts we found in the tiny model.
        status: ``exact``, ``no MLP``, ``differs``, ``not tried``, or ``not installed``: a library that the type needs.
        problem: what differs, or why it was not tried.
    """

    kind: str
    family: str
    sites: int
    functions: str
    status: str
    problem: str = ""


def check(family: str, kind: str) -> Outcome:
    """Measure one type of model and compare."""
    try:
        model, heard = _deep_enough(family, kind)
    except Exception as error:
        missing = "library but it was not found" in str(error)
        return Outcome(
            kind, family, 0, "", "not installed" if missing else "not tried", " ".join(str(error).split())[:300]
        )
    widths = {call.width for call in heard}

    def compared(site: Site) -> bool:
        """Also an MLP of a head, which is measured when it is asked for."""
        return site.role in MEASURED or (site.role == "head" and site.width in widths)

    torch.manual_seed(1)
    try:
        found = measure(model, [inputs(model, family, kind)], tensors=["activation"], sites=compared)
    except ActratioError as error:
        silent = not heard and ("selects none" in str(error) or "has no MLP" in str(error))
        return Outcome(kind, family, 0, "", *(("no MLP", "") if silent else ("differs", str(error)[:300])))
    functions = ", ".join(sorted({row.site.function for row in found}))
    problem = compare(heard, found)
    return Outcome(kind, family, len(found.rows), functions, "differs" if problem else "exact", problem[:300])


def _deep_enough(family: str, kind: str) -> tuple[nn.Module, list[Heard]]:
    """The shallowest model in which the expert layers that its configuration speaks of appear."""
    for model in tiny(family, kind):
        heard = listen(model, family, kind)
        config: Any = model.config
        if not wants_experts(config) or has_experts(model):
            return model, heard
    return model, heard


def listen(model: nn.Module, family: str, kind: str) -> list[Heard]:
    """What the oracle hears in one forward pass."""
    torch.manual_seed(1)
    given = inputs(model, family, kind)
    own = override_of(family, kind)
    with torch.no_grad(), Listening(PRIME, own.widths, own.hears, own.convolutions) as listening:
        model(**given)
    return listening.heard


def compare(heard: Iterable[Heard], found: Measurement) -> str:
    """What differs, or nothing: each site's counts must be some that were heard, and all that was heard must be a site's.

    Compared are the active neurons and, as ``outputs``, the tokens: width times what was counted. A site that runs
    several times, or experts that run in one call, have the sum of what was heard.
    """
    groups: dict[Any, list[Any]] = defaultdict(list)
    for row in found:
        groups[row.site.group].append(row)
    theirs = Counter(heard)
    summed: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for rows in groups.values():
        counted = [_as_heard(row) for row in rows]
        together = Heard(
            counted[0].width, sum(counts.active for counts in counted), sum(counts.outputs for counts in counted)
        )
        # Some run every expert on every token, and scale by zero what was not routed: that is never counted.
        everywhere = together._replace(outputs=together.width * sum(row.counts.passed or 0 for row in rows))
        for parts in ([together], [counts for counts in counted if counts.outputs], [everywhere]):
            if not Counter(parts) - theirs:
                theirs -= Counter(parts)
                break
        else:
            if rows[0].site.calls == 1 and len(rows) == 1:
                return f"{rows[0].site.name} has {together}, and nobody heard that: {dict(theirs)}"
            summed[together.width][0] += together.active
            summed[together.width][1] += together.outputs
    left: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for call, times in theirs.items():
        left[call.width][0] += call.active * times
        left[call.width][1] += call.outputs * times
    if left != summed:
        return f"heard and not counted: {dict(left)}; counted and not heard: {dict(summed)}"
    return ""


def _as_heard(row: Any) -> Heard:
    width = row.site.width
    return Heard(width, int(row.counts.active.sum()), row.counts.tokens * width)


def goal(family: str, outcomes: list[Outcome]) -> dict[str, Any]:
    """The share that is exact of a family's types that have an MLP and can be made with what is installed."""
    mine = [
        outcome
        for outcome in outcomes
        if outcome.family == family and outcome.status not in ("no MLP", "not installed")
    ]
    share = sum(outcome.status == "exact" for outcome in mine) / max(1, len(mine))
    least = FAMILIES[family][1]
    return {
        "goal": f"{family}: {least:.0%} of {len(mine)} types with an MLP exact",
        "measured": share,
        "met": share >= least,
    }


def page(outcomes: list[Outcome], goals: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Return the docs' page in Markdown: the answer, a row for each family, the exceptions, and the functions."""
    statuses = Counter(outcome.status for outcome in outcomes)
    exact = statuses["exact"]
    tried = exact + statuses["differs"] + statuses["not tried"]
    lines = [_INTRODUCTION.format(exact=exact, tried=tried, version=transformers.__version__), "## By family", ""]
    lines += [
        "| family | types with an MLP | exact | goal | | types without an MLP |",
        "| :-- | --: | --: | --: | :-- | --: |",
    ]
    for family, family_goal in zip(FAMILIES, goals, strict=True):
        count = Counter(outcome.status for outcome in outcomes if outcome.family == family)
        with_mlp = count["exact"] + count["differs"] + count["not tried"]
        lines.append(
            f"| {family} | {with_mlp} | {count['exact']} ({family_goal['measured']:.1%}) | {FAMILIES[family][1]:.0%} "
            f"| {'met' if family_goal['met'] else 'not met'} | {count['no MLP']} |"
        )
    lines += ["", f"All {len(outcomes)} types: [{LIST.name}](results/data/{LIST.name}).", ""]
    lines += ["## Exceptions", "", "| type | family | | why |", "| :-- | :-- | :-- | :-- |"]
    for outcome in outcomes:
        if outcome.status not in ("exact", "no MLP"):
            why = _reason(outcome).replace("|", "\\|")
            lines.append(f"| {outcome.kind} | {outcome.family} | {outcome.status} | {why} |")
    functions = Counter(name for outcome in outcomes for name in outcome.functions.split(", ") if name)
    lines += ["", "## Activation functions", "", "Number of types that use a function; a type can use several. "]
    lines[-1] += "Functions that are written out step by step are joined by `·`."
    lines += ["", "| function | types |", "| :-- | --: |"]
    lines += [f"| {name} | {number} |" for name, number in functions.most_common()]
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    return "\n".join([*lines, "", f"<small>Machine: {about}; transformers {transformers.__version__}.</small>"]) + "\n"


def write_list(outcomes: list[Outcome], path: Path) -> None:
    """Write a row for each type as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["type", "family", "sites", "activation_functions", "status", "problem"])
        for outcome in outcomes:
            written = [vars(outcome)[name] for name in ("kind", "family", "sites", "functions", "status")]
            writer.writerow([*written, _reason(outcome)])


def _reason(outcome: Outcome) -> str:
    return _REASONS.get(outcome.kind, outcome.problem).partition(". You can install")[0]


def _chosen(types: str | None, family: str) -> list[str]:
    """Return the types of a family, or those of ``--types`` that belong to it."""
    chosen = types.split(",") if types else None
    return [kind for kind in kinds(family) if chosen is None or kind in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: all")
    parser.add_argument(
        "--types", help="types, separated by commas, tried in the families that they belong to; default: all"
    )
    parser.add_argument(
        "--results", nargs="+", type=Path, metavar="FILE", help="read what --json printed instead of running"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE.name} and {LIST.name}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    let_timm_load()
    transformers.logging.set_verbosity_error()
    families = arguments.family or list(FAMILIES)
    outcomes, machine = [], current_provenance()
    for path in arguments.results or ():
        read = json.loads(path.read_text(encoding="utf-8"))
        machine = read["machine"]
        outcomes += [Outcome(**row) for row in read["rows"]]
    for family in families if not arguments.results else ():
        for kind in _chosen(arguments.types, family):
            outcomes.append(check(family, kind))
            print(outcomes[-1], file=sys.stderr, flush=True)
    goals = [goal(family, outcomes) for family in families if any(outcome.family == family for outcome in outcomes)]
    if arguments.write_docs:
        PAGE.write_text(page(outcomes, goals, machine), encoding="utf-8")
        write_list(outcomes, LIST)
    if arguments.json:
        print(json.dumps({"machine": machine, "rows": [vars(outcome) for outcome in outcomes], "goals": goals}))
        return
    table = Table("type", "family", "sites", "functions", "status", "problem")
    for outcome in outcomes:
        table.add_row(
            outcome.kind, outcome.family, str(outcome.sites), outcome.functions, outcome.status, outcome.problem
        )
    console = Console(width=200)
    console.print(table)
    for family_goal in goals:
        console.print(
            f"{'met    ' if family_goal['met'] else 'NOT met'}  {family_goal['goal']}: {family_goal['measured']:.1%}"
        )


if __name__ == "__main__":
    main()
