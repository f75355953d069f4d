"""Track the activation ratio while the transformers Trainer fine-tunes a model.

    python examples/track_trainer.py

The model is a tiny BERT, made here so that nothing is downloaded. Use your own instead: AutoModelFor….from_pretrained(…). It learns
whether a sequence of numbers contains a 7. The sequences have different lengths, and padding is not counted.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

from actratio.tracking.transformers import TrainerTracker

PADDING = 0


def make_examples(count: int) -> list[dict[str, object]]:
    """Return sequences of 4 to 16 numbers from 1 to 31, half of them with a 7."""
    examples: list[dict[str, object]] = []
    for number in range(count):
        tokens = random.choices([token for token in range(1, 32) if token != 7], k=random.randint(4, 16))
        if number % 2:
            tokens[random.randrange(len(tokens))] = 7
        examples.append({"input_ids": tokens, "label": number % 2})
    return examples


def collate(examples: list[dict[str, object]]) -> dict[str, Tensor]:
    """Pad the sequences of a batch to the same length."""
    sequences = [torch.tensor(example["input_ids"]) for example in examples]
    tokens = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=PADDING)
    labels = torch.tensor([example["label"] for example in examples])
    return {"input_ids": tokens, "attention_mask": (tokens != PADDING).long(), "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/track-trainer"))
    arguments = parser.parse_args()
    set_seed(0)
    random.seed(0)

    config = BertConfig(
        vocab_size=32,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_act="relu",
    )
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=str(arguments.out),
            max_steps=arguments.steps,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            logging_steps=50,
            save_strategy="no",
            report_to="none",  # or "tensorboard", "wandb", "mlflow": the values go wherever the Trainer reports to
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=make_examples(2000),
        data_collator=collate,
    )

    # The only line for actratio: a reading every 50 steps.
    callback = TrainerTracker(trainer, every=50)
    trainer.train()

    frame = callback.tracker.to_frame()
    print(frame[["step", "site", "width", "tokens", "activation_ratio", "dead", "drift"]].to_string(index=False))
    callback.tracker.plot().save(arguments.out / "figures")
    print(f"figures in {arguments.out / 'figures'}")


if __name__ == "__main__":
    main()
