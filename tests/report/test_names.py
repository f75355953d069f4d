"""Short names of sites."""

from __future__ import annotations

import pytest

from actratio.report.names import short_names


@pytest.mark.parametrize(
    ("names", "short", "pattern"),
    [
        (["model.layers.0.mlp", "model.layers.11.mlp"], ["layer 0", "layer 11"], "model.layers.*.mlp"),
        (["transformer.h.0.mlp.act", "transformer.h.1.mlp.act"], ["layer 0", "layer 1"], "transformer.h.*.mlp.act"),
        (
            ["m.layers.0.mlp.experts.0", "m.layers.0.mlp.experts.1", "m.layers.1.mlp.experts.0"],
            ["layer 0 expert 0", "layer 0 expert 1", "layer 1 expert 0"],
            "m.layers.*.mlp.experts.*",
        ),
        (
            ["m.layers.0.mlp", "m.layers.1.mlp.experts.0", "m.layers.1.mlp.shared_experts"],
            ["layer 0 mlp", "layer 1 mlp expert 0", "layer 1 mlp.shared_experts"],
            "m.layers.*",
        ),
        (
            ["encoder.block.0.layer.1.DenseReluDense", "decoder.block.0.layer.2.DenseReluDense"],
            ["encoder layer 1", "decoder layer 2"],
            "*.block.0.layer.*.DenseReluDense",
        ),
        (["net.1", "net.3"], ["1", "3"], "net.*"),
        (["0", "2"], ["0", "2"], ""),
        (["encoder.0", "head"], ["encoder.0", "head"], ""),
        (["model.layers.0.mlp"], ["model.layers.0.mlp"], ""),
        (["a.b", "a.b"], ["a.b", "a.b"], ""),
        ([], [], ""),
    ],
)
def test_short_names(names: list[str], short: list[str], pattern: str) -> None:
    assert short_names(names) == (short, pattern)


def test_names_that_would_be_alike_stay_whole() -> None:
    names = ["a.layers.0.x", "a.layers.x", "a.layer 0.x"]
    assert short_names(names)[0] == names or len(set(short_names(names)[0])) == 3
