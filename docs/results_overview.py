"""Write docs/results/questions.md, what the article asked and what was found, from the results pages of the studies.

    python docs/results_overview.py

Each question gets the answer of its page (the bold sentence) and the page's first figure. The paragraph on why the exponents of two studies
differ goes to the block ``exponents`` of this page and of both studies' pages. Run it after the results pages.
"""

from __future__ import annotations

import csv
import re

from actratio.studies.mlp.naming import dataset_title
from pages import RESULTS, fill_block, markdown_table

QUESTIONS = (
    ("mlp", "Do active neurons grow as F·√N, as the article concluded?"),
    ("architectures", "Does the profile of the GPT models carry over to other architectures, such as Llama?"),
    ("training", "How does the ratio change over training? It starts at 50%."),
    ("activation", "What is the impact of GELU?"),
    ("features", "Does the ratio fall in wide layers because they run out of features to learn?"),
    ("tasks", "Does A = F·√N hold for all classification tasks?"),
)
"""The article's questions by the study that answers each, in the order of the page."""


DATA = RESULTS / "data"

_EXPONENTS = (
    "**Why α is 0.39 in one study and 0.67 in another.** An exponent belongs to its networks and to the length of their training. These are all exponents of A = F·N^α, "
    "at equal depth, on held-out examples (looked at afterwards, exploratory):"
)
_REASONS = (
    "Two things move α. *Training:* it falls while training goes on, from above 0.7 after the first epoch. After about as many steps as B0, the article's networks have an α that is higher by 0.1. They have also seen three times as many "
    "different examples; the two were not separated. With 20,000 examples and two equal layers, α hardly falls after 6,260 steps. *The next layer:* a layer before a wider one has fewer active neurons. In the article's networks wide layers come before "
    "wide ones, so that leaving this out makes α look smaller. With the width of the next layer in the fit, and after as many steps, the intervals of the article's networks and of B0 overlap on both data sets, and those of the article's networks "
    "contain ½. With one hidden layer and 10,000 examples, about half of the neurons are still active after 6,000 steps at every width, so that α is near 1. No exponent here is a constant of MLPs."
)


def page_answer(name: str) -> tuple[str, str]:
    """Return the answer and the first figure of a results page, in Markdown; without a figure if the study was not run yet."""
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- begin: answer -->(.*?)<!-- end: answer -->", text, re.DOTALL)
    answer = block and re.search(r"^\*\*(.+?)\*\*", block[1], re.MULTILINE | re.DOTALL)
    figure = re.search(r"^!\[[^\]]*\]\([^)]*\)", text, re.MULTILINE)
    if answer is None or figure is None:
        return "Not answered yet: the study waits for its run.", ""
    return " ".join(answer[1].split()), figure[0]


def exponents_section() -> str:
    """Return why α differs between the studies, with their figures."""
    rows = read_rows("mlp-fan-out")
    course = {
        row["at"]: row["α"]
        for path in DATA.glob("training-*.csv")
        for row in read_rows(path.stem)
        if "at" in row and "α" in row
    }
    table = [
        [dataset_title(row["dataset"]), f"{row['networks']} networks", row["steps"], row["α"], row["α, with fan-out"]]
        for row in rows
    ]
    ends = (("end of epoch 20", "6,260"), ("end of epoch 100", "31,300"))
    table += [
        [dataset_title("mnist"), "two equal layers", steps, rounded(course[at]), ""]
        for at, steps in ends
        if at in course
    ]
    table += [
        [dataset_title(row["task"]), "one hidden layer", "6,000", rounded(row["α"]), ""]
        for row in read_rows("tasks-1")
        if row["task"] in ("mnist", "fashion_mnist")
    ]
    header = ["data", "networks", "training steps", "α", "α, with fan-out"]
    return f"{_EXPONENTS}\n\n{markdown_table(header, table)}\n\n{_REASONS}"


def read_rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a data file of the results pages."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rounded(estimate: str) -> str:
    """Return an estimate with its interval to two digits.

    >>> rounded("0.639 (0.571 … 0.707)")
    '0.64 (0.57 … 0.71)'
    """
    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.2f}", estimate)


def main() -> None:
    sections = []
    for name, question in QUESTIONS:
        answer, figure = page_answer(name)
        links = f"[Results]({name}.md) · [prediction and rules](../studies/{name}.md) · `actratio study {name}`"
        sections.append("\n\n".join(part for part in (f"## {question}", f"**{answer}**", figure, links) if part))
    fill_block(RESULTS / "questions.md", "questions", "\n\n".join(sections))
    for page in ("questions", "mlp", "training"):
        fill_block(RESULTS / f"{page}.md", "exponents", exponents_section())


if __name__ == "__main__":
    main()
