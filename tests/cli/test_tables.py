"""What the tables of a measurement look like at 80 and 120 columns and in a pipe, compared as a whole with files.

After changing them on purpose, run ``python -m tests.cli.test_tables``, which writes the files again, and look at the
difference.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from actratio import Measurement, Site, find_sites
from actratio.cli import models, speed, terminal
from actratio.cli.terminal import SafeConsole
from actratio.counting.kernels import reference
from actratio.counting.magnitudes import Magnitudes
from actratio.counting.measurement import Row
from actratio.report import page
from tests.conftest import ROOT, make_tiny_causal_lm

KINDS = ("llama-30", "mixtral", "torch")
PLACES = (80, 120, "pipe")
TOKENS = 64


@contextmanager
def printing(place: int | str) -> Iterator[io.StringIO]:
    """Print to a terminal with so many columns, or to a pipe."""
    text = io.StringIO()
    width = place if isinstance(place, int) else None
    console = SafeConsole(file=text, width=width, force_terminal=width is not None, color_system=None)
    with mock.patch.object(terminal, "out", console):
        yield text


def make_model(kind: str) -> nn.Module:
    if kind == "torch":
        layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2)]
        return nn.Sequential(*layers)
    if kind == "mixtral":
        return make_tiny_causal_lm("mixtral")  # type: ignore[no-any-return]
    return make_llama(30)


def make_llama(layers: int) -> Any:
    import transformers

    size = {"vocab_size": 30522, "hidden_size": 16, "intermediate_size": 24, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": layers}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**size, **heads))


def make_measurement(kind: str) -> Measurement:
    """Measure made-up activity, which is the same on every machine, at the sites of a model."""
    model = make_model(kind)
    inputs = torch.zeros(1, 4) if kind == "torch" else None
    sites = [site for site in find_sites(model, inputs) if site.role in ("mlp", "expert")]
    measured = [
        (site, tensor, active_of(site, shift))
        for site in sites
        for shift, tensor in enumerate(("activation", "hidden") if site.gated else ("activation",))
    ]
    rows = [Row(site, tensor, "positive", counts_of(site, active)) for site, tensor, active in measured]
    below = 0.0 if kind == "torch" else -0.1  # ReLU or SiLU
    magnitudes = {
        (site.name, tensor): Magnitudes.of(torch.where(active, 1.0, below)) for site, tensor, active in measured
    }
    return Measurement(kind, rows, magnitudes, {}, {})


def active_of(site: Site, shift: int) -> torch.Tensor:
    tokens = TOKENS if site.expert is None else TOKENS // (site.expert + 2)
    token, neuron = torch.arange(tokens)[:, None], torch.arange(site.width)[None]
    return (3 * token + 5 * neuron + site.layer + shift) % 11 < 2 + (site.layer + 3 * shift) % 7


def counts_of(site: Site, active: torch.Tensor) -> Any:
    tokens = len(active)
    counts = reference.count(active, [tokens], torch.arange(tokens) == 0)
    if site.expert is not None:
        return replace(counts, passed=TOKENS)
    return replace(counts, useful=tokens * site.width * (site.layer % 7 + 2) // 10, useful_tokens=tokens)


def shown(measurement: Measurement, place: int | str, *, every_row: bool = False) -> str:
    report = mock.patch.object(page, "write_report", lambda findings, folder: folder / "report.html")
    with printing(place) as text, report:
        models.show_measurement(measurement, Path("runs/m"), every_row=every_row, as_json=False)
    return text.getvalue()


def golden(kind: str, place: int | str) -> Path:
    return ROOT / "tests" / "golden" / f"measure-{kind}-{place}.txt"


@pytest.fixture(scope="module")
def measurements() -> dict[str, Measurement]:
    return {kind: make_measurement(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_tables_of_a_measurement_are_as_in_the_file(
    measurements: dict[str, Measurement], kind: str, place: int | str
) -> None:
    assert shown(measurements[kind], place) == golden(kind, place).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_line_fits_and_the_ratio_is_always_there(
    measurements: dict[str, Measurement], kind: str, width: int
) -> None:
    text = shown(measurements[kind], width)
    assert all(len(line) <= width for line in text.splitlines())
    heading = text.partition("┏")[2].partition("┡")[0]
    assert heading.count("ratio") == 1
    assert heading.count("useful") == (0 if kind == "mixtral" else 1)


def test_thirty_layers_fit_a_screen(measurements: dict[str, Measurement]) -> None:
    text = shown(measurements["llama-30"], 80)
    assert len(text.splitlines()) <= 40
    assert "12 of 30 rows; --full prints every row" in text
    assert "│ layer 0 " in text
    assert "│ layer 29 " in text


def test_full_prints_every_layer_and_every_expert(measurements: dict[str, Measurement]) -> None:
    text = shown(measurements["llama-30"], 80, every_row=True)
    assert all(f"│ layer {layer} " in text for layer in range(30))
    assert "rows; --full" not in text
    assert "│ layer 1 expert 3 │" in shown(measurements["mixtral"], 80, every_row=True)


def test_a_pipe_gets_all_rows_and_columns_with_full_names(measurements: dict[str, Measurement]) -> None:
    title, header, *rest = shown(measurements["mixtral"], "pipe").splitlines()
    assert title == "# Activation ratios of mixtral, positive"
    names = header.split("\t")
    rows = [dict(zip(names, line.split("\t"), strict=True)) for line in rest if "\t" in line]
    assert [row["site"] for row in rows] == [f"model.layers.{m}.mlp.experts.{n}" for m in range(2) for n in range(4)]
    assert [row["tokens"] for row in rows[:4]] == ["32", "21", "16", "12"]
    assert all("│" not in line for line in rest)
    assert rest[len(rows)].endswith(".")  # a sentence on one line


def test_thirty_alike_sites_share_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: Callable[..., int]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_llama(30).save_pretrained("llama")
    with printing(80) as text:
        assert run_command("sites", "llama") == 0
    assert text.getvalue() == (ROOT / "tests" / "golden" / "sites-llama-30-80.txt").read_text(encoding="utf-8")
    with printing("pipe") as text:
        assert run_command("sites", "llama") == 0
    _, header, *rows = text.getvalue().splitlines()
    assert header.split("\t") == ["site", "role", "layer", "width", "function", "gated", "calls"]
    assert rows[29].split("\t") == ["model.layers.29.mlp", "mlp", "29", "24", "silu", "yes", "1"]
    assert len(rows) == 30


@pytest.mark.parametrize("width", [60, 80, 120])
def test_layers_of_a_speed_fit_and_keep_what_is_needed(width: int) -> None:
    layers = [
        SimpleNamespace(
            plan=SimpleNamespace(site=SimpleNamespace(name=f"model.layers.{layer}.mlp"), kind="down"),
            needed=layer / 30, dense_bytes=1e6, sparse_bytes=layer * 1e4, dense_flops=1e6, sparse_flops=layer * 1e4,
            dense_seconds=1e-4, sparse_seconds=layer * 1e-6,
        )
        for layer in range(30)
    ]  # fmt: skip
    for every_row, rows in ((False, 12), (True, 30)):
        with printing(width) as text:
            speed._show_layers(SimpleNamespace(batch=1, layers=layers), every_row=every_row)  # type: ignore[arg-type]
        lines = text.getvalue().splitlines()
        assert all(len(line) <= width for line in lines)
        assert sum(line.startswith("│ layer") for line in lines) == rows
        assert "needed" in text.getvalue()
        assert "96.7%" in text.getvalue()


if __name__ == "__main__":
    for kind in KINDS:
        for place in PLACES:
            golden(kind, place).write_text(shown(make_measurement(kind), place), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, chdir(folder), printing(80) as text:
        make_llama(30).save_pretrained("llama")
        models.list_sites("llama")
    (ROOT / "tests" / "golden" / "sites-llama-30-80.txt").write_text(text.getvalue(), encoding="utf-8")
