"""Write docs/results/questions.md, what the article asked and what was found, from the results pages of the studies.

    python docs/results_overview.py

Each question gets the answer of its page (the bold sentence) and the page's first figure. Run it after the results pages.
"""

from __future__ import annotations

import re

from pages import RESULTS, fill_block

QUESTIONS = (
    ("mlp", "Do active neurons grow as F·√N, as the article concluded?"),
    ("architectures", "Does the profile of the GPT models carry over to other architectures, such as Llama?"),
    ("training", "How does the ratio change over training? It starts at 50%."),
    ("activation", "What is the impact of GELU?"),
    ("features", "Does the ratio fall in wide layers because they run out of features to learn?"),
    ("tasks", "Does A = F·√N hold for all classification tasks?"),
)
"""The article's questions by the study that answers each, in the order of the page."""


def page_answer(name: str) -> tuple[str, str]:
    """Return the answer and the first figure of a results page, in Markdown; without a figure if the study was not run yet."""
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- begin: answer -->(.*?)<!-- end: answer -->", text, re.DOTALL)
    answer = block and re.search(r"^\*\*(.+?)\*\*", block[1], re.MULTILINE | re.DOTALL)
    figure = re.search(r"^!\[[^\]]*\]\([^)]*\)", text, re.MULTILINE)
    if answer is None or figure is None:
        return "Not answered yet: the study waits for its run.", ""
    return " ".join(answer[1].split()), figure[0]


def main() -> None:
    sections = []
    for name, question in QUESTIONS:
        answer, figure = page_answer(name)
        links = f"[Results]({name}.md) · [prediction and rules](../studies/{name}.md) · `actratio study {name}`"
        sections.append("\n\n".join(part for part in (f"## {question}", f"**{answer}**", figure, links) if part))
    fill_block(RESULTS / "questions.md", "questions", "\n\n".join(sections))


if __name__ == "__main__":
    main()
