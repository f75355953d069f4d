"""Inputs of models: without a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from actratio.sites.inputs import without_cache

IDS = torch.tensor([[5, 6, 7]])


def test_without_cache_sets_use_cache_for_models_with_this_option(tiny_gpt2: Callable[..., Any]) -> None:
    model = tiny_gpt2()
    assert without_cache(model, {"input_ids": IDS}) == {"use_cache": False, "input_ids": IDS}
    assert without_cache(model, IDS) == {"use_cache": False, "input_ids": IDS}
    assert model(**without_cache(model, IDS)).past_key_values is None


def test_without_cache_keeps_inputs_that_set_it_and_models_without_it(tiny_gpt2: Callable[..., Any]) -> None:
    asked = {"input_ids": IDS, "use_cache": True}
    assert without_cache(tiny_gpt2(), asked) == asked
    assert without_cache(nn.Linear(3, 2), IDS) is IDS
