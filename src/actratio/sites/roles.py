"""What a site is part of, by the names around it, and the experts that no token reached."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from actratio.sites.site import Role, Site


def role_of(owner: str, module: str | None, down: str | None, *, experts: bool, foreign: bool, repeated: bool) -> Role:
    """Return a site's role.

    Args:
        owner, module, down: as ``Site`` has them.
        experts: whether its weights belong to several experts.
        foreign: whether it belongs to a state-space scan or the like.
        repeated: whether the model has numbered blocks.
    """
    words = set(re.split(r"[._]", owner.lower()))
    if down is None:
        return "router" if words & {"router", "gate", "gating"} else "other"
    if _in_attention(owner):
        return "attention"
    if foreign:
        return "state-space"
    if words & {"router", "gating"} or owner.rpartition(".")[2] == "gate":
        return "router"
    if "shared" in words:
        return "shared expert"
    if experts or words & {"experts", "expert"}:
        return "expert"
    if repeated and not block_of(owner or module or ""):
        return "head"
    return "mlp"


def _in_attention(owner: str) -> bool:
    """Return whether the last telling name in a path is attention's: ``cross_attention.mlp`` is an MLP."""
    for part in reversed(owner.lower().split(".")):
        if re.fullmatch(r"mlp|ffn?|feed_?forward|\w*hyper_?connection", part):
            return False
        words = part.split("_")
        if words[-1] in ("block", "blocks", "layer", "layers"):  # contains attention, and more
            continue
        if any(word.startswith(("attn", "attention", "selfattn", "selfattention")) for word in words):
            return True
    return False


def block_of(path: str) -> str:
    """Return the path up to and including its first number: ``model.layers.3`` of ``model.layers.3.mlp``."""
    match = re.match(r"(?:.*?\.)?\d+(?=\.|$)", path)
    return match[0] if match else ""


def with_sleeping_experts(sites: list[Site], modules: Mapping[str, nn.Module]) -> list[Site]:
    """Add the experts in lists of modules that no token reached, copied from an expert that was reached."""
    known = {site.owner for site in sites}
    found: list[Site] = []
    for site in sites:
        found.append(site)
        match = re.fullmatch(r"(.*experts\.)(\d+)((?:\..+)?)", site.owner)
        if site.role != "expert" or site.expert is not None or match is None:
            continue
        before, number, after = match.groups()
        following = int(number) + 1
        while f"{before}{following}{after}" in modules and f"{before}{following}{after}" not in known:
            found.append(_moved(site, f"{before}{number}", f"{before}{following}"))
            following += 1
        preceding = int(number) - 1
        while (
            preceding >= 0 and f"{before}{preceding}{after}" not in known and f"{before}{preceding}{after}" in modules
        ):
            found.insert(-1, _moved(site, f"{before}{number}", f"{before}{preceding}"))
            known.add(f"{before}{preceding}{after}")
            preceding -= 1
        known |= {expert.owner for expert in found}
    return found


def _moved(site: Site, old: str, new: str) -> Site:
    """Return the site with its paths moved to another expert."""

    def moved(path: str) -> str:
        return re.sub(rf"^{re.escape(old)}(?=\.|$)", new, path)

    return replace(
        site,
        name=moved(site.name),
        up=moved(site.up),
        down=site.down and moved(site.down),
        owner=moved(site.owner),
        module=site.module and moved(site.module),
        scope=moved(site.scope),
    )


def unique(sites: list[Site]) -> list[Site]:
    """Number the names of several activations of one module: the second name ends with 2."""
    seen: Counter[str] = Counter()
    found = []
    for site in sites:
        seen[site.name] += 1
        times = seen[site.name]
        found.append(site if times == 1 else replace(site, name=f"{site.name}.{times}"))
    return found
