"""Short names of sites, for tables and charts."""

from __future__ import annotations

from collections.abc import Sequence

_NOUNS = {
    "layers": "layer", "layer": "layer", "h": "layer", "blocks": "block", "block": "block", "experts": "expert",
}  # fmt: skip


def short_names(names: Sequence[str]) -> tuple[list[str], str]:
    """Return what tells the names apart, such as ``layer 12``, and the pattern that all names have in common.

    The pattern is a glob, such as ``model.layers.*.mlp``. It is empty if the names are returned unchanged: there is only
    one, or nothing can be left out.

    Examples:
        >>> short_names(["model.layers.0.mlp", "model.layers.1.mlp"])
        (['layer 0', 'layer 1'], 'model.layers.*.mlp')
    """
    different = list(dict.fromkeys(names))
    split = [name.split(".") for name in different]
    if len(different) < 2:
        return list(names), ""
    length = min(map(len, split))
    before = _shared([parts[: length - 1] for parts in split])
    after = _shared([parts[::-1][: length - 1 - before] for parts in split])
    same_length = all(len(parts) == length for parts in split)
    # Of names with equally many parts, the parts between two differences can be left out too.
    constant = {at for at in range(length) if same_length and len({parts[at] for parts in split}) == 1}
    labels = {}
    for name, parts in zip(different, split, strict=True):
        labels[name] = _label(parts, [at for at in range(before, len(parts) - after) if at not in constant])
    if len(set(labels.values())) < len(different) or labels == {name: name for name in different}:
        return list(names), ""
    first = split[0]
    pattern = (
        [part if at in constant else "*" for at, part in enumerate(first)]
        if same_length
        else [*first[:before], "*", *first[len(first) - after :]]
    )
    return [labels[name] for name in names], ".".join(pattern)


def _shared(rows: list[list[str]]) -> int:
    """Return how many first parts all rows share."""
    shared = 0
    for parts in zip(*rows, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    return shared


def _label(parts: list[str], kept: list[int]) -> str:
    label = ""
    for at in kept:
        number = parts[at].isdigit()
        if number and at > 0 and parts[at - 1] in _NOUNS:
            label += f" {_NOUNS[parts[at - 1]]} {parts[at]} "
        elif not (parts[at] in _NOUNS and at + 1 < len(parts) and parts[at + 1].isdigit()):
            label += parts[at] if label.endswith((" ", ".")) or not label else f".{parts[at]}"
    return " ".join(label.split())
