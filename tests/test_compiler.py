"""Settings of ``torch.compile`` that blocks share."""

from __future__ import annotations

import contextvars
from typing import Any

import torch

from actratio.compiler import guard_hooks


def test_guards_of_hooks_are_restored_by_the_last_block() -> None:
    config: Any = torch._dynamo.config
    before = config.skip_nnmodule_hook_guards
    first, second = guard_hooks(), guard_hooks()
    first.__enter__()
    second.__enter__()
    assert config.skip_nnmodule_hook_guards is False
    first.__exit__(None, None, None)
    assert config.skip_nnmodule_hook_guards is False
    second.__exit__(None, None, None)
    assert config.skip_nnmodule_hook_guards is before


def test_blocks_leave_no_context_variables_behind() -> None:
    with guard_hooks():
        pass
    before = len(contextvars.copy_context())
    for _ in range(5):
        with guard_hooks():
            pass
    assert len(contextvars.copy_context()) == before
