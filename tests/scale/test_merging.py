"""Shards whose texts reach different parts of a model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actratio import Measurement, measure
from actratio.errors import RunError
from actratio.scale import Corpus, ShardSettings, ShardWorker
from actratio.scale.merging import merge_shards
from actratio.sites.late import UncountedWarning
from tests.scale.conftest import WORDS


class Branching(nn.Module):
    """Its first MLP is for sequences with an odd token in the second place, and its third for even ones, or for all."""

    def __init__(self, third_is_for_all: bool = False) -> None:
        super().__init__()
        self.third_is_for_all = third_is_for_all
        torch.manual_seed(0)
        self.embedding = nn.Embedding(30522, 4)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(3))

    def forward(self, input_ids: Tensor, **options: Any) -> Any:
        x = self.embedding(input_ids)
        is_odd = int(input_ids[0, 1]) % 2
        x = self.layers[1](self.layers[0](x) if is_odd else x)
        return x if is_odd and not self.third_is_for_all else self.layers[2](x)


ODD, EVEN = torch.tensor([[4, 1, 2]]), torch.tensor([[4, 2]])


def tokens(measurement: Measurement | None) -> list[tuple[str, int, int]]:
    assert measurement is not None
    return [(row.site.name, row.site.layer, row.counts.tokens) for row in measurement]


@pytest.mark.parametrize("order", [(ODD, EVEN), (EVEN, ODD)])
def test_sites_of_either_are_kept_in_the_order_of_execution(order: tuple[Tensor, Tensor]) -> None:
    model = Branching()
    first, second = (measure(model, [batch]) for batch in order)
    together = merge_shards(first, second)
    assert tokens(together) == [("layers.0", 0, 3), ("layers.1", 1, 5), ("layers.2", 2, 2)]
    for part in (first, second):
        for row in part:
            if row.site.name != "layers.1":
                assert torch.equal(together[row.site.name].active, row.counts.active)
    assert tokens(merge_shards(together, first))[1] == ("layers.1", 1, 5 + first["layers.1"].tokens)


class Chosen(nn.Module):
    """Runs the MLPs that are chosen."""

    def __init__(self, *chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for number in self.chosen:
            x = self.layers[number](x)
        return x


@pytest.mark.parametrize("order", list(itertools.permutations([(0, 3), (1, 10), (0, 1, 2, 3, 10), (2,)]))[::3], ids=str)
def test_any_parts_in_any_order(order: tuple[tuple[int, ...], ...]) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    together, *others = (measure(Chosen(*layers), [x]) for layers in order)
    for other in others:
        together = merge_shards(together, other)
    found = [(row.site.name, row.site.layer, row.counts.tokens) for row in together]
    assert found == [(f"layers.{number}", layer, 10) for layer, number in enumerate((0, 1, 2, 3, 10))]


@pytest.mark.parametrize("order", [((0,), (0, 0)), ((0, 0), (0,))])
def test_a_layer_that_runs_more_often_in_one_shard(order: tuple[tuple[int, ...], ...]) -> None:
    x = torch.randn(5, 4)
    together = merge_shards(*(measure(Chosen(*layers), [x]) for layers in order))
    assert [(row.site.calls, row.counts.tokens) for row in together] == [(2, 15)]


def test_sites_that_differ_otherwise_do_not_merge() -> None:
    model = Branching()
    first = measure(model, [ODD])
    model.layers[1][1] = nn.GELU()
    with pytest.raises(RunError, match=r"different (sites|weights) do not merge"):
        merge_shards(first, measure(model, [EVEN]))


def test_a_corpus_names_what_ran_too_late(tmp_path: Path, minilm: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    words = {int(tokenizer(word)["input_ids"][1]) % 2: word for word in WORDS}
    rows = [words[number] for number in (0, 0, 1, 1, 0, 1)]
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"text": "{word}"}}\n' for word in rows))
    how = ShardSettings(batch_size=1, packed=False, tensors=("activation",))
    corpus = Corpus.open(tmp_path / "out", [str(tmp_path / "corpus.jsonl")], 2, how.as_json())
    corpus.measure(ShardWorker(lambda: (Branching(True), tokenizer), "branching", corpus.results, how, corpus.settings))
    with pytest.warns(UncountedWarning, match="layers.0.* ran for the first time"):
        merged = corpus.merged()
    # Each sequence has three tokens with those at its ends; in the last shard, layers.0 ran too late.
    assert tokens(merged.measurement) == [("layers.0", 0, 6), ("layers.1", 1, 18), ("layers.2", 2, 18)]
