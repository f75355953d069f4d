"""Counting active neurons in each layer and block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from actratio.counting.probe import TENSORS, Probe
from actratio.models import with_decoder_inputs
from actratio.sites import checked_call, choose, device_of, trace
from actratio.sites.inputs import without_cache
from actratio.studies.architectures.sequences import Block, batch_of
from actratio.studies.base import Arrays


class BlockCounter:
    """Count the outputs above zero of a model's MLPs, block by block.

    The experts of a layer are counted together.

    Args:
        model: in evaluation mode.
        first: a block, to find the model's MLPs with.
    """

    def __init__(self, model: nn.Module, first: Block) -> None:
        self._model = model
        sites = choose(trace(model, self._inputs(first)), None)
        self._sites = sites
        layers = sorted({site.layer for site in sites})
        self._place = {site.name: layers.index(site.layer) for site in sites}
        self.layers = torch.tensor(layers)
        self.widths = torch.zeros(len(layers), dtype=torch.int64)
        for site in sites:
            self.widths[self._place[site.name]] += site.width

    def _inputs(self, block: Block) -> dict[str, Tensor]:
        (batch,) = with_decoder_inputs(self._model, [batch_of(block)])
        device = device_of(self._model)
        inputs: dict[str, Tensor] = without_cache(self._model, {key: value.to(device) for key, value in batch.items()})
        return inputs

    def count(self, block: Block) -> tuple[Tensor, Tensor]:
        """Return how many outputs are above zero and how many there are, (tensors, layers) each."""
        active = torch.zeros(len(TENSORS), len(self.layers), dtype=torch.int64)
        outputs = torch.zeros_like(active)
        with torch.no_grad(), Probe(self._model, self._sites, tensors=TENSORS, counts_alone=True) as probe:
            checked_call(self._model, self._inputs(block), "the forward pass of a block")
        for (name, tensor), counted in probe.counted.items():
            row, column = TENSORS.index(tensor), self._place[name]
            for counts in counted.counts.values():
                active[row, column] += int(counts.active.sum())
                outputs[row, column] += counts.tokens * counts.active.shape[-1]
        return active, outputs


def count_blocks(
    counter_of: Callable[[int], BlockCounter],
    blocks: Sequence[Block],
    done: Arrays | None,
    after_each: Callable[[Arrays], None],
) -> Arrays:
    """Return the counts of all blocks.

    Args:
        counter_of: returns the counter of the block with this index; all count a model of the same shape.
        blocks: what the model reads.
        done: the arrays of the blocks that were counted before, or ``None``.
        after_each: called after each block with the arrays so far.

    Returns:
        ``active`` and ``outputs``, (tensors, layers, blocks); ``layers`` and ``widths``, (layers,); ``tokens``, (blocks,).
        A tensor that a layer doesn't have has no outputs.
    """
    first = counter_of(0 if done is None else min(len(done["tokens"]), len(blocks) - 1))
    shape = (len(TENSORS), len(first.layers), 0)
    arrays: Arrays = done or {
        "active": torch.zeros(shape, dtype=torch.int64),
        "outputs": torch.zeros(shape, dtype=torch.int64),
        "tokens": torch.zeros(0, dtype=torch.int64),
        "layers": first.layers,
        "widths": first.widths,
    }
    for number in range(len(arrays["tokens"]), len(blocks)):
        block = blocks[number]
        active, outputs = counter_of(number).count(block)
        tokens = torch.tensor([sum(len(sequence.ids) for sequence in block)])
        arrays = arrays | {
            "active": torch.cat([arrays["active"], active.unsqueeze(2)], 2),
            "outputs": torch.cat([arrays["outputs"], outputs.unsqueeze(2)], 2),
            "tokens": torch.cat([arrays["tokens"], tokens]),
        }
        after_each(arrays)
    return arrays
