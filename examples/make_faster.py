"""Make a model faster by skipping the neurons that are zero, if that pays on this machine.

    python examples/make_faster.py

Skipping pays in large layers of which few neurons are active, when one token is decoded at a time. A pretrained model like that would
have to be downloaded, so this example makes a GPT-2 with ReLU and random weights, and lowers the biases until about 3 % of the neurons
are active. Use your own model instead: actratio.models.load_model("owner/name"). Needs the extras hf and fast.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import actratio


def make_model(width: int, layers: int) -> GPT2LMHeadModel:
    """Return a GPT-2 with ReLU MLPs of 4 × ``width`` neurons, few of which are active."""
    config = GPT2Config(
        vocab_size=512,
        n_positions=128,
        n_embd=width,
        n_layer=layers,
        n_head=8,
        activation_function="relu",
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for block in model.transformer.h:
            # What the layer reads is normalized, so x·w has a standard deviation of about ‖w‖; 1.9 of them leave 3 % above.
            block.mlp.c_fc.bias.fill_(-1.9 * float(block.mlp.c_fc.weight.norm(dim=0).mean()))
    return model


def seconds_per_token(model: GPT2LMHeadModel, prompt: torch.Tensor, new_tokens: int) -> float:
    """Return the time of decoding ``new_tokens`` tokens, per token."""
    start = time.perf_counter()
    model.generate(prompt, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    return (time.perf_counter() - start) / new_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=32)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = make_model(arguments.width, arguments.layers)
    batches = [{"input_ids": torch.randint(512, (4, 64))} for _ in range(4)]

    # 1. Measure: how many neurons are not zero?
    m = actratio.measure(model, batches, criteria="nonzero")
    print(m.summary())

    # 2. Predict: is it worth it, at your batch size?
    speed = actratio.predict_speed(model, m, batches=(1, 8))
    print(*speed.verdicts, sep="\n")

    # 3. Convert a copy, and check that its outputs are the same up to the order of summation.
    sparse_model = actratio.sparsify(copy.deepcopy(model), m)
    prompt = batches[0]["input_ids"][:1, :8]
    with torch.no_grad():
        dense, sparse = model(prompt).logits, sparse_model(prompt).logits
    difference = float((sparse - dense).abs().max() / dense.abs().max())
    print(f"largest difference of an output: {difference:.0e} of the largest output")

    # 4. Time both in turn, so that other work on the machine slows them alike. The prediction is an estimate; this counts.
    times = [
        [seconds_per_token(contestant, prompt, arguments.new_tokens) for contestant in (model, sparse_model)]
        for _ in range(5)
    ]
    dense_ms, sparse_ms = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    print(f"dense {dense_ms:.1f} ms per token, sparse {sparse_ms:.1f} ms: {dense_ms / sparse_ms:.2f} times as fast")


if __name__ == "__main__":
    main()
