"""`actratio sparsify`: the folder that it writes, how often it reads the model, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import actratio.sparse.conversion
import actratio.sparse.modules
from actratio import ActratioError
from actratio.sites.flow import Flow
from actratio.sparse import densify, load_sparse, plans, read_thresholds, sparsify
from actratio.sparse.autotune import LayerTimer
from actratio.sparse.crossover import ALWAYS, ShapeSpeeds
from actratio.sparse.linears import FastLinear
from actratio.sparse.saved_int8 import save_int8
from tests.sparse.calibration_text import token_batches

Run = Callable[..., int]
TinyGPT2 = Callable[..., Any]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed on stderr, on one line."""
    return " ".join(capsys.readouterr().err.split())


def test_sparsify_writes_a_model_that_transformers_and_load_sparse_read(
    tmp_path: Path, text: Path, tiny_gpt2: TinyGPT2, minilm: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    folder, out = tmp_path / "gelu", tmp_path / "sparse"
    tiny_gpt2().save_pretrained(folder)
    options = ["--text", text, "--length", 16, "--target", "ratio=0.4", "--out", out]
    command = ["sparsify", folder, "--tokenizer", minilm, *options]
    assert run_command(*command, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["dropped"] for row in printed["rows"]] == pytest.approx([0.6, 0.6], abs=0.01)
    assert any("Dropping every output that is not above zero" in verdict for verdict in printed["verdicts"])
    assert set(printed) == {"settings", "rows", "path", "speeds", "verdicts"}
    assert set(printed["rows"][0]) == {"site", "threshold", "dropped", "cett"}
    assert set(printed["speeds"][0]) == {"batch", "expected", "measured", "reason", "waited"}
    dense = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    sparse = load_sparse(out, device="cpu", crossover=ALWAYS)
    (batch,) = token_batches(1)
    with torch.no_grad():
        assert torch.equal(dense(**batch).logits, tiny_gpt2()(**batch).logits)
        assert not torch.equal(sparse(**batch).logits, dense(**batch).logits)
    assert [plan.kind for plan in plans(sparse)] == ["down", "down"]
    saved = json.loads((out / "thresholds.json").read_text())
    assert set(saved) == {"format", "by", "tau", "cett", "dropped", "settings"}
    assert set(saved["tau"]) == {"transformer.h.0.mlp", "transformer.h.1.mlp"}
    assert run_command(*command) == 2  # again
    assert f"{out} holds an earlier result; choose another folder with --out, or replace it with --force" in said(
        capsys
    )
    assert run_command(*command, "--force") == 0
    assert "CETT" in capsys.readouterr().out
    assert (out / "model.safetensors").stat().st_mode & 0o777 == (out / "thresholds.json").stat().st_mode & 0o777
    assert run_command("speed", out, "--tokenizer", minilm, "--json") == 0  # with its thresholds
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert 0.2 < row["needed"] < 0.6


def test_sparsify_writes_int8_weights_and_says_what_they_cost(
    tmp_path: Path,
    text: Path,
    tiny_gpt2: TinyGPT2,
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actratio.sparse.conversion, "_SMALLEST", 1)
    folder, out = tmp_path / "gelu", tmp_path / "int8"
    tiny_gpt2().save_pretrained(folder)
    options = ["--text", text, "--length", 16, "--target", "ratio=0.4", "--weights", "int8", "--out", out]
    assert run_command("sparsify", folder, "--tokenizer", minilm, *options, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    losses = [printed["settings"][name] for name in ("loss_dense", "loss_sparse", "loss_int8")]
    assert losses[2] != losses[1]
    assert losses[2] == pytest.approx(losses[1], rel=0.01)
    change = losses[2] / losses[0] - 1
    assert printed["verdicts"][1].startswith(
        f"With int8 weights too, the loss on the same text is {losses[2]:.4f} ({100 * change:+.2f}%, 95% interval "
    )
    assert not (out / "model.safetensors").exists()
    assert (out / "int8.safetensors").stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
    loaded = load_sparse(out, device="cpu", crossover=ALWAYS)
    assert type(loaded.get_submodule("transformer.h.0.mlp.c_proj")).__name__ == "Int8Conv1D"
    assert run_command("speed", out, "--tokenizer", minilm) == 2
    assert "has 8-bit weights, which actratio.sparse.load_sparse reads; give the model" in said(capsys)
    assert run_command("speed", folder, "--tokenizer", minilm, "--weights", "int8", "--dense", "--json") == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["weights"], settings["dense"]) == ("int8", True)


def relu_model(model_type: str, activation: str = "relu") -> Any:
    """Return a Llama or an OPT with two layers, random weights and MiniLM's vocabulary."""
    import transformers

    torch.manual_seed(0)
    size = {"vocab_size": 30522, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "eos_token_id": 2}
    if model_type == "llama":
        config = transformers.LlamaConfig(**size, intermediate_size=48, hidden_act=activation)
        return transformers.LlamaForCausalLM(config).eval()
    config = transformers.OPTConfig(
        **size, ffn_dim=48, word_embed_proj_dim=16, max_position_embeddings=512, activation_function=activation
    )
    return transformers.OPTForCausalLM(config).eval()


@pytest.mark.parametrize(("model_type", "kind"), [("llama", "gated"), ("opt", "down")])
@pytest.mark.parametrize("weights", [None, "int8"])
def test_sparsify_skips_zeros_only(
    model_type: str,
    kind: str,
    weights: str | None,
    tmp_path: Path,
    text: Path,
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actratio.sparse.conversion, "_SMALLEST", 1)
    monkeypatch.setattr(ShapeSpeeds, "pays_off", lambda self, ratio: True)  # small layers wouldn't be converted
    model, folder, out = relu_model(model_type), tmp_path / "relu", tmp_path / "zeros"
    model.save_pretrained(folder)
    command = ["sparsify", folder, "--tokenizer", minilm, "--text", text, "--length", 16, "--target", "zeros"]
    options = ["--out", out] if weights is None else ["--out", out, "--weights", weights]
    assert run_command(*command, *options, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    settings, rows = printed["settings"], printed["rows"]
    assert (settings["target"], settings["by"], "loss_sparse" in settings) == ("zeros", "zeros", False)
    assert len(rows) == 2
    assert all(row["threshold"] == row["cett"] == 0 and 0.1 < row["dropped"] < 0.9 for row in rows)
    assert "of the neuron outputs are zero. Skipping zeros, in 2 of 2 MLPs, changes" in printed["verdicts"][0]
    if weights is not None:
        change = settings["loss_int8"] / settings["loss_dense"] - 1
        assert 0 < abs(change) < 0.01
        assert printed["verdicts"][1].startswith(
            f"With int8 weights too, the loss on the same text is {settings['loss_int8']:.4f} ({100 * change:+z.2f}%, "
        )

    loaded = load_sparse(out, device="cpu", crossover=ALWAYS)
    assert [plan.kind for plan in plans(loaded)] == [kind, kind]
    assert [plan.ratio for plan in plans(loaded)] == pytest.approx([1 - row["dropped"] for row in rows])
    assert all(getattr(module, "_thresholds", None) is None for module in loaded.modules())
    (batch,) = token_batches(1)
    expected = sparsify(model, weights=weights, crossover=ALWAYS)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, expected(**batch).logits)
        rounded = densify(expected)(**batch).logits
    torch.testing.assert_close(loaded(**batch).logits, rounded, rtol=1e-5, atol=1e-5)

    if weights is None:
        fast = load_sparse(out, device="cpu", crossover=ALWAYS, dense=True)
        assert any(isinstance(module, FastLinear) for module in fast.modules())
        assert run_command("speed", out, "--tokenizer", minilm, "--json") == 0  # by nonzero, like the dense model
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert 0.1 < row["needed"] < 0.9
        assert (
            run_command("measure", out, "--tokenizer", minilm, "--text", text, "--out", tmp_path / "m", "--json") == 0
        )
        assert "are not applied" not in said(capsys)
        assert run_command(*command, "--out", out) == 2
        assert "holds an earlier result" in said(capsys)
        assert run_command(*command, "--out", out, "--force") == 0
        shown = capsys.readouterr().out
        assert "Zeros of" in shown
        assert "CETT" not in shown


@pytest.mark.parametrize(("model_type", "activation"), [("llama", "silu"), ("opt", "gelu")])
def test_sparsify_has_no_zeros_to_skip(
    model_type: str,
    activation: str,
    tmp_path: Path,
    text: Path,
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = relu_model(model_type, activation)
    model.save_pretrained(tmp_path / "smooth")
    options = ["--text", text, "--length", 16, "--target", "zeros", "--out", tmp_path / "out"]
    assert run_command("sparsify", tmp_path / "smooth", "--tokenizer", minilm, *options) == 2
    assert (
        f"no MLP of {type(model).__name__} can skip zeros: {activation} has no true zeros; choose thresholds with --target loss=1"
        in said(capsys)
    )
    assert not (tmp_path / "out").exists()


def test_sparsify_stores_8_bit_weights_of_a_model_without_zeros(
    tmp_path: Path,
    text: Path,
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actratio.sparse.conversion, "_SMALLEST", 1)
    model, out = relu_model("llama", "silu"), tmp_path / "out"
    model.save_pretrained(tmp_path / "smooth")
    command = ["sparsify", tmp_path / "smooth", "--tokenizer", minilm, "--text", text, "--length", 16, "--out", out]
    assert run_command(*command, "--target", "zeros", "--weights", "int8") == 0
    assert "No MLP has zeros to skip" in " ".join(capsys.readouterr().out.split())
    (batch,) = token_batches(1)
    loaded, expected = load_sparse(out, device="cpu"), sparsify(model, weights="int8")
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, expected(**batch).logits)


@pytest.mark.parametrize(("options", "message"), [(["--weights", "int4"], "weights='int4' is not known; use 'int8'")])
def test_sparsify_refuses_unknown_weights(
    options: list[str],
    message: str,
    tmp_path: Path,
    text: Path,
    tiny_gpt2: TinyGPT2,
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_gpt2().save_pretrained(tmp_path / "gelu")
    command = ["sparsify", tmp_path / "gelu", "--tokenizer", minilm, "--text", text, "--out", tmp_path / "out"]
    assert run_command(*command, *options) == 2
    assert message in said(capsys)
    assert not (tmp_path / "out").exists()


def test_sparsify_traces_at_most_twice_and_lays_weights_out_once(
    tmp_path: Path, text: Path, minilm: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default target. Layers that are built to be timed don't count."""
    import transformers

    traces: list[nn.Module] = []
    moved: list[float] = []
    new_flow, in_large_pages, new_layers = Flow.__init__, actratio.sparse.modules.in_large_pages, LayerTimer.layers
    is_timing = False

    def count_trace(self: Flow, model: nn.Module, *arguments: Any) -> None:
        traces.append(model)
        new_flow(self, model, *arguments)

    def count_layout(rows: torch.Tensor) -> torch.Tensor:
        if len(rows) == 64 and not is_timing:
            moved.append(rows[0, 0].item())
        return in_large_pages(rows)

    def layers(self: LayerTimer, form: str) -> list[nn.Module]:
        nonlocal is_timing
        is_timing = True
        made = new_layers(self, form)
        is_timing = False
        return made

    monkeypatch.setattr(LayerTimer, "layers", layers)
    monkeypatch.setattr(Flow, "__init__", count_trace)
    monkeypatch.setattr(actratio.sparse.modules, "in_large_pages", count_layout)
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, ffn_dim=64, word_embed_proj_dim=16,
        activation_function="gelu", max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.OPTForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "gelu")
    options = ["--text", text, "--length", 16, "--batch", "1,2", "--out", tmp_path / "out"]
    assert run_command("sparsify", tmp_path / "gelu", "--tokenizer", minilm, *options) == 0
    assert 1 <= len(traces) <= 2
    assert moved == [layer.fc2.weight[0, 0].item() for layer in model.model.decoder.layers]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "speed=2"], "there is no target 'speed=2'"),
        (["--target", "zero"], "write loss=1 (per cent), cett=0.1, ratio=0.3 or zeros"),
        (["--target", "ratio=1.5"], "there is no target 'ratio=1.5'"),
        (["--by", "luck"], "cannot be dropped by 'luck'"),
        (["--batch", "0"], "not a list of sizes"),
        (["--length", "500"], "too few batches (1 of 4)"),
    ],
)
def test_sparsify_refuses_wrong_options_in_one_sentence(
    options: list[str],
    message: str,
    tmp_path: Path,
    text: Path,
    tiny_gpt2: TinyGPT2,
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, out = tmp_path / "gelu", tmp_path / "sparse"
    tiny_gpt2().save_pretrained(folder)
    command = ["sparsify", folder, "--tokenizer", minilm, "--text", text, "--length", 16, "--out", out]
    assert run_command(*command, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "message"), [("bert", "cannot be timed while it decodes"), ("long", "does not predict the next tokens"), ("nan", "not finite")]
)  # fmt: skip
def test_sparsify_refuses_models_that_cannot_be_calibrated(
    kind: str,
    message: str,
    tmp_path: Path,
    text: Path,
    tiny_gpt2: TinyGPT2,
    minilm: Path,
    run_command: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import transformers

    folder, out = tmp_path / "model", tmp_path / "sparse"
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=30522, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        model: Any = transformers.BertModel(config)
    else:
        model = tiny_gpt2(n_positions=12 if kind == "long" else 64)
        if kind == "nan":
            model.transformer.h[0].mlp.c_fc.bias.data.fill_(math.nan)
    model.save_pretrained(folder)
    command = ["sparsify", folder, "--tokenizer", minilm, "--text", text, "--length", 16, "--out", out]
    assert run_command(*command) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_load_sparse_refuses_a_folder_without_valid_thresholds(tmp_path: Path, tiny_gpt2: TinyGPT2) -> None:
    with pytest.raises(ActratioError, match=r"has no thresholds\.json"):
        load_sparse(tmp_path)
    valid: dict[str, Any] = {"format": 1, "by": "magnitude", "tau": {"a": 0.1}, "cett": {"a": 0.0}, "dropped": {"a": 0}}
    damaged = [
        "{", "[]", {**valid, "by": "luck"}, {**valid, "tau": {}}, {**valid, "tau": {"a": None}}, {**valid, "tau": {"a": math.nan}},
        {**valid, "tau": {"a": "0.1"}}, {**valid, "format": 2}, {**valid, "by": "zeros"}, {**valid, "dropped": {"a": 1.5}},
        {**valid, "tau": {"a": 10**400}}, {**valid, "tau": {"a": 1e39}}, {**valid, "dropped": {}}, {**valid, "cett": {"a": True}}, "[" * 100_000,
    ]  # fmt: skip
    for content in damaged:
        (tmp_path / "thresholds.json").write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(ActratioError, match="is damaged"):
            load_sparse(tmp_path)
    tiny_gpt2().save_pretrained(tmp_path)
    (tmp_path / "thresholds.json").write_text(json.dumps(valid))
    with pytest.raises(ActratioError, match="has a threshold for a, which is not an MLP of the model"):
        load_sparse(tmp_path)
    save_int8(tmp_path, sparsify(tiny_gpt2("relu"), weights="int8", crossover=ALWAYS))
    (tmp_path / "thresholds.json").write_text(json.dumps({**valid, "by": "zeros", "tau": {"a": 0}}))
    with pytest.raises(ActratioError, match="the model has no site 'a'"):
        load_sparse(tmp_path, device="cpu")


def test_thresholds_alone_do_the_same_as_the_folder_with_the_model(
    tmp_path: Path, text: Path, tiny_gpt2: TinyGPT2, minilm: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_gpt2().save_pretrained(tmp_path / "gelu")
    command = [
        "sparsify",
        tmp_path / "gelu",
        "--tokenizer",
        minilm,
        "--text",
        text,
        "--length",
        16,
        "--target",
        "ratio=0.4",
    ]
    assert run_command(*command, "--out", tmp_path / "model") == 0
    capsys.readouterr()
    assert run_command(*command, "--out", tmp_path / "alone", "--thresholds-only") == 0
    assert "thresholds.json" in capsys.readouterr().out
    (alone,) = (tmp_path / "alone").iterdir()
    assert alone.stat().st_size < 5000
    chosen = read_thresholds(alone)
    assert chosen == read_thresholds(tmp_path / "alone") == read_thresholds(tmp_path / "model")
    sparse = sparsify(tiny_gpt2(), chosen, crossover=ALWAYS)
    saved = load_sparse(tmp_path / "model", device="cpu", crossover=ALWAYS)
    (batch,) = token_batches(1)
    with torch.no_grad():
        assert torch.equal(sparse(**batch).logits, saved(**batch).logits)
    with pytest.raises(ActratioError, match=r"transformer\.h\.1\.mlp"):  # of another model
        sparsify(tiny_gpt2(n_layer=1), chosen)
    with pytest.raises(ActratioError, match=r"nothing has no thresholds\.json"):
        read_thresholds(tmp_path / "nothing")
