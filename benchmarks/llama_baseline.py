"""llama.cpp as a baseline: write a Llama as GGUF, and decode it in a process of its own.

    python benchmarks/llama_cpp.py MODEL.gguf --threads 2

The process reads lines with a number of tokens, and answers each with the tokens per second of decoding that llama.cpp reports.
llama.cpp's Llama has a SiLU gate, whatever the model had; it reads the same bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).resolve().parents[1]


def write_model(path: Path, model: Any, kind: str) -> None:
    """Write a Llama with its matrices in a type of llama.cpp, and a tokenizer of made-up words."""
    sys.path.insert(0, str(_ROOT))
    from tests.gguf_files import write_gguf

    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(model.config.vocab_size - 3))]
    write_gguf(path, model, kind, words)


class LlamaCpp:
    """A process that decodes with llama.cpp when it is asked to."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, __file__, str(path), "--threads", str(torch.get_num_threads())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rate(self, tokens: int) -> float:
        """Return tokens per second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("rate "):
                return float(line.split()[1])
        raise RuntimeError("llama.cpp stopped")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(arguments.model)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 256, 1, True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = arguments.threads
    server = xllamacpp.Server(parameters)
    for line in sys.stdin:
        request = {"prompt": [5, 6, 7, 8, 9, 10, 11, 12], "n_predict": int(line), "temperature": 0, "ignore_eos": True, "cache_prompt": False}  # fmt: skip
        answer = server.handle_completions(request)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        print("rate", answer["timings"]["predicted_per_second"], flush=True)


if __name__ == "__main__":
    main()
