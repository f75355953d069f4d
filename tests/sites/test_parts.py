"""Small parts of a batch: what is cut, what is not, and that the sites found are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio import measure
from actratio.sites import trace
from actratio.sites.parts import TOKENS, shrink_inputs
from tests.test_models import tiny

IDS = torch.randint(3, 60, (4, 32), generator=torch.Generator().manual_seed(0))


def shapes(model: Any, inputs: Any) -> list[Any]:
    """Shapes of the tensors in each part, the smallest part first."""
    found = []
    for part in shrink_inputs(model, inputs, few_tokens=True):
        named = part if isinstance(part, dict) else {"x": part}
        found.append({name: tuple(value.shape) for name, value in named.items() if isinstance(value, Tensor)})
    return found


class Reads(nn.Module):
    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any: ...


class ReadsPixels(nn.Module):
    def forward(self, pixel_values: Any) -> Any: ...


def test_sequences_and_tokens_are_cut() -> None:
    mask = torch.ones_like(IDS)
    assert shapes(Reads(), {"input_ids": IDS, "attention_mask": mask, "use_cache": False}) == [
        {"input_ids": (2, TOKENS), "attention_mask": (2, TOKENS)},
        {"input_ids": (2, 32), "attention_mask": (2, 32)},
        {"input_ids": (4, 32), "attention_mask": (4, 32)},
    ]
    assert shapes(Reads(), IDS)[0] == {"input_ids": (2, TOKENS)}
    assert shapes(Reads(), {"input_ids": IDS, "labels": torch.zeros(4)})[0] == {
        "input_ids": (2, TOKENS),
        "labels": (2,),
    }


def test_the_decoder_s_tokens_are_cut_too() -> None:
    batch = {"input_ids": IDS, "decoder_input_ids": IDS[:, :20], "labels": IDS[:, :20]}
    short = {"input_ids": (2, TOKENS), "decoder_input_ids": (2, TOKENS), "labels": (2, TOKENS)}
    assert shapes(Reads(), batch)[0] == short


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": IDS[:, :TOKENS]},  # short already
        {"input_ids": IDS, "pixel_values": torch.rand(4, 3, 32, 32)},
        {"input_ids": IDS, "attention_mask": torch.ones(4, 1, 32, 32)},
        {"input_ids": IDS, "unknown": IDS},
        {"input_ids": IDS, "attention_mask": torch.ones(4, 40)},
        {"input_features": torch.rand(4, 32, 8)},
    ],
)
def test_tokens_are_not_cut(batch: dict[str, Tensor]) -> None:
    first, *_ = shapes(Reads(), batch)
    assert first == {name: (2, *value.shape[1:]) for name, value in batch.items()}


def test_pixels_are_not_cut() -> None:
    assert shapes(ReadsPixels(), torch.rand(4, 3, 32, 32)) == [{"x": (2, 3, 32, 32)}, {"x": (4, 3, 32, 32)}]


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_that_are_not_padding_are_kept(side: str) -> None:
    mask = torch.ones_like(IDS)
    mask[1, :12] = 0
    mask = mask if side == "left" else mask.flip(1)
    part = next(shrink_inputs(Reads(), {"input_ids": IDS, "attention_mask": mask}, few_tokens=True))
    assert part["attention_mask"].all()
    assert torch.equal(part["input_ids"], IDS[:2, -TOKENS:] if side == "left" else IDS[:2, :TOKENS])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral", "bert", "lfm2"])
def test_few_tokens_show_the_same_sites(kind: str) -> None:
    model, lengths = tiny(kind), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    assert trace(model, {"input_ids": IDS}, few_tokens=True) == trace(model, {"input_ids": IDS})
    assert lengths == [(2, TOKENS), (2, 32)]


class Chunks(nn.Module):
    """An MLP that runs on chunks of 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.up, self.down = nn.Embedding(64, 4), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return torch.cat([self.down(F.relu(self.up(part))) for part in self.embed(input_ids).split(16, 1)], 1)


@pytest.mark.parametrize("padded", [False, True])
def test_a_model_that_cuts_sequences_into_chunks_is_followed_through_a_longer_part(padded: bool) -> None:
    model, mask = Chunks(), torch.ones_like(IDS)
    mask[1, 20:] = 1 - padded
    counts = measure(model, [{"input_ids": IDS, "attention_mask": mask}]).rows[0].counts
    active = F.relu(model.up(model.embed(IDS))) > 0
    assert counts.tokens == int(mask.sum())
    assert torch.equal(counts.active, active[mask.bool()].sum(0))
    assert counts.first_tokens == 4


class Branches(nn.Module):
    """Two MLPs, of which one reads tokens that come late in a sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(64, 4)
        self.often, self.late = (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2))

    def forward(self, input_ids: Tensor) -> Tensor:
        x: Tensor = self.often(self.embed(input_ids))
        late = x[:, 20:]
        return torch.cat([x[:, :20], self.late(late)], 1) if late.numel() else x


def test_an_mlp_that_few_tokens_do_not_reach_is_found_in_a_longer_part() -> None:
    measured = measure(Branches(), [{"input_ids": IDS}])
    assert {row.site.up for row in measured} == {"often.0.weight", "late.0.weight"}


def test_a_model_that_needs_its_full_length_is_followed_through_a_longer_part() -> None:
    class Fixed(Branches):
        def forward(self, input_ids: Tensor) -> Tensor:
            if input_ids.shape[1] != 32:
                raise ValueError("32 tokens are needed")
            return super().forward(input_ids)

    assert len(trace(Fixed(), {"input_ids": IDS}, few_tokens=True)) == 2
