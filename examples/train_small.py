"""Train a small GPT-2 or Llama model on a text file, and save it with its tokenizer.

    python examples/train_small.py corpus.txt --type llama --out runs/small-llama
    actratio measure runs/small-llama --text corpus.txt --packed --limit-tokens 20000

The last tenth of the text is held out, and its loss is printed. The defaults take a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(text: str, size: int) -> transformers.PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, as in GPT-2, on the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def build_model(
    model_type: str, vocabulary: int, width: int, layers: int, length: int, activation: str | None
) -> torch.nn.Module:
    """Build a model with random weights. Its MLPs have 4 × ``width`` neurons for GPT-2, and 8/3 × ``width`` for Llama."""
    if model_type == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=width // 32, n_positions=length,
            activation_function=activation or "gelu_new", bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)
    llama = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=length,
        hidden_act=activation or "silu", bos_token_id=0, eos_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(llama)


def draw_batch(tokens: Tensor, length: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw ``size`` random sequences of ``length`` tokens."""
    starts = torch.randint(len(tokens) - length, (size,), generator=generator)
    return torch.stack([tokens[start : start + length] for start in starts.tolist()])


@torch.no_grad()
def evaluate(model: torch.nn.Module, tokens: Tensor, length: int) -> float:
    """Return the mean loss over all sequences of ``length`` tokens, in nats per token."""
    model.eval()
    sequences = tokens[: len(tokens) // length * length].view(-1, length)
    losses = [float(model(input_ids=batch, labels=batch).loss) for batch in sequences.split(8)]
    model.train()
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--type", choices=["gpt2", "llama"], default="gpt2")
    parser.add_argument(
        "--activation", help="activation function, such as relu; default: gelu_new for gpt2, silu for llama"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    text = arguments.text.read_text(encoding="utf-8")
    tokenizer = train_tokenizer(text[: len(text) * 9 // 10], arguments.vocabulary)
    tokens = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    cut = len(tokens) * 9 // 10
    if min(cut, len(tokens) - cut) <= arguments.length:
        parser.error(
            f"{arguments.text} has {len(tokens)} tokens, but --length {arguments.length} needs more than {10 * arguments.length}; "
            "use a longer text or a smaller --length"
        )
    model = build_model(
        arguments.type, len(tokenizer), arguments.width, arguments.layers, arguments.length, arguments.activation
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=arguments.steps)
    generator = torch.Generator().manual_seed(arguments.seed)
    model.train()
    start = time.monotonic()
    for step in range(1, arguments.steps + 1):
        batch = draw_batch(tokens[:cut], arguments.length, arguments.batch_size, generator)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(1, arguments.steps // 10) == 0:
            print(f"step {step}: loss {float(loss):.3f}, {time.monotonic() - start:.0f} s", flush=True)
    held_out_loss = evaluate(model, tokens[cut:], arguments.length)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    print(f"held-out loss {held_out_loss:.3f} nats per token; saved in {arguments.out}")


if __name__ == "__main__":
    main()
