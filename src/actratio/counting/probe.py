"""Counting while a model runs: hooks on sites that feed counts, and nothing left behind."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Criterion
from actratio.counting.kernels import count
from actratio.counting.magnitudes import Magnitudes
from actratio.errors import SiteError
from actratio.sites import Group, Site, force_eager
from actratio.sites.flow import Flow
from actratio.sites.tokens import Rows, Tokens, arguments_of, routed_rows, rows_of
from actratio.sites.values import Use

TENSORS = ("activation", "hidden")
"""``activation`` a = σ(x); ``hidden`` h = a ⊙ u, in gated MLPs alone."""

_OTHER_TOWER = re.compile(r"(^|[._])(vision|visual|image|audio|speech)")  # whose rows are no tokens of the text


@dataclass
class Counted:
    """What was counted at one site of one tensor.

    Attributes:
        passed: of an expert: the tokens that came through its layer, routed to it or not.
    """

    counts: dict[Criterion, SiteCounts] = field(default_factory=dict)
    magnitudes: Magnitudes | None = None
    passed: int | None = None


class Probe:
    """Counts at the sites of a model whenever it runs inside the block.

    Examples:
        >>> with Probe(model, find_sites(model, x)) as probe:        # doctest: +SKIP
        ...     model(x)
        >>> probe.counted["layers.0.mlp", "activation"]              # doctest: +SKIP

    Padding (from ``attention_mask``) is not counted. Decoding steps of ``generate`` are counted apart too. Recomputed activations (gradient checkpointing) are not counted
    twice, because only what runs inside the model's own forward pass is (or, when an encoder-decoder generates, its encoder's).
    A forward pass that fails counts nothing. Compiled models run uncompiled inside the block.
    With ``counts_alone`` there are no unions, overlaps, idle blocks and magnitudes.

    Attributes:
        counted: by site's name and tensor.
        criteria: what counts as active.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        *,
        tensors: Iterable[str] = TENSORS,
        criteria: Iterable[Criterion] = (Criterion("positive"),),
        counts_alone: bool = False,
    ) -> None:
        self.sites = list(sites)
        self.counted: dict[tuple[str, str], Counted] = {}
        self._model = getattr(model, "_orig_mod", model)
        self.criteria = tuple(criteria)
        self._tensors = tuple(tensors)
        self._counts_alone = counts_alone
        self._modules = dict(self._model.named_modules())
        self._weights = dict(self._model.named_parameters())
        self._groups: dict[Group, list[Site]] = defaultdict(list)
        for site in self.sites:
            self._groups[site.group].append(site)
            for tensor in self._tensors:
                if tensor == "activation" or site.gated:
                    self.counted[site.name, tensor] = Counted()
        if self.sites and not self.counted:
            raise SiteError(
                "no site has a hidden tensor beside its activation, because no MLP is gated; measure the activation"
            )
        self._norms: dict[str, tuple[int, Tensor]] = {}
        self._calls: Counter[Group] = Counter()
        self._tokens: dict[str, Tokens | None] = {}
        self._rows: dict[tuple[str, torch.Size, int, bool], Rows] = {}
        self._seen: Counter[tuple[str, str]] = Counter()
        self._passes: list[nn.Module] = []
        self._encoder = _encoder_of(self._model)
        self._expected: list[list[Site]] = []
        self._pending: list[tuple[Counted, Criterion, SiteCounts, Magnitudes | None]] = []
        self._following = False
        self._direct: set[Group] = set()
        self._stack = ExitStack()

    @property
    def tokens(self) -> int:
        """Most tokens (or examples) that were counted at any site."""
        every = (counts.tokens for each in self.counted.values() for counts in each.counts.values())
        return max(every, default=0)

    def __enter__(self) -> Probe:
        with ExitStack() as stack:
            stack.enter_context(force_eager())
            for root in self._roots():
                self._hook(stack, root.register_forward_pre_hook(self._begin, with_kwargs=True))
            followed = []
            self._direct.clear()
            for group in self._groups.values():
                site = group[0]
                if site.direct and not (site.gated and self._trains(site)):
                    self._hook_directly(stack, site)
                    self._direct.add(site.group)
                else:
                    followed.append(site.scope)
            for scope in _outermost(followed):
                self._hook_scope(stack, self._modules[scope])
            # Last, so that it runs after the others of the same module.
            for root in self._roots():
                self._hook(stack, root.register_forward_hook(self._end, always_call=True))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._passes.clear()
        self._pending.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Probe:
        return self  # the hooks of a copied model come with it, and must know that it is not theirs

    def _hook(self, stack: ExitStack, handle: Any) -> None:
        stack.callback(handle.remove)

    def _roots(self) -> list[nn.Module]:
        """Modules whose forward passes are counted: the model and, where ``generate`` calls it apart, its encoder."""
        return [self._model] if self._encoder is None else [self._model, self._modules[self._encoder]]

    def _trains(self, site: Site) -> bool:
        """Whether dropout may come between the product and the down projection."""
        return any(module.training for module in self._modules[site.scope].modules())

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module not in self._roots() or (module is not self._model and self._passes):
            return
        for group in self._direct:
            site = self._groups[group][0]
            if site.gated and self._trains(site):
                raise SiteError(
                    f"{site.name} was set to training inside the block; leave the block, and enter it again"
                )
        self._passes.append(module)
        self._calls.clear()
        self._rows.clear()
        self._seen.clear()
        arguments = arguments_of(module, args, kwargs)
        self._tokens = {**{prefix: Tokens.of(arguments, prefix) for prefix in ("", "decoder_")}, "none": None}
        encoded = arguments.get("encoder_outputs") is not None
        self._expected = [
            sites
            for sites in self._groups.values()
            if self._in_encoder(sites[0]) == (module is not self._model) or (module is self._model and not encoded)
        ]

    def _in_encoder(self, site: Site) -> bool:
        return self._encoder is not None and f"{site.owner}.".startswith(f"{self._encoder}.")

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._passes or self._passes[-1] is not module:
            return
        self._passes.pop()
        pending, self._pending = self._pending, []
        if output is None:  # the forward pass failed, and its own error says more
            return
        self._check_calls()
        for counted, criterion, made, magnitudes in pending:
            before, known = counted.counts.get(criterion), counted.magnitudes
            counted.counts[criterion] = made if before is None else before.merge(made)
            if magnitudes is not None:
                counted.magnitudes = magnitudes if known is None else known.merge(magnitudes)
        for sites in self._expected:
            if sites[0].role == "expert":
                self._passed(sites)

    def _check_calls(self) -> None:
        for sites in self._expected:
            ran, site = self._calls[sites[0].group], sites[0]
            if not ran and site.role == "expert" and site.expert is None:
                continue  # one that no token was routed to
            if ran != site.calls and site.down is not None and not self._saw_all(site):
                times = "was not called" if not ran else f"was called {ran} times"
                raise SiteError(
                    f"{site.name} {times} in a forward pass, but {site.calls} times in the one that found it; "
                    "find the sites again with inputs such as these"
                )

    def _saw_all(self, site: Site) -> bool:
        """Whether each token was seen once, in however many pieces a sequence of another length was cut."""
        tokens = self._tokens[self._side(site)]
        return (
            site.calls > 1
            and tokens is not None
            and self._seen[site.name, "activation"] == tokens.batch * tokens.length
        )

    def _passed(self, experts: list[Site]) -> None:
        tokens = self._tokens[self._side(experts[0])]
        if tokens is None:
            return
        kept, names = tokens.kept, {site.name for site in experts}
        for (name, _), counted in self.counted.items():
            if name in names:
                counted.passed = (counted.passed or 0) + kept

    def _hook_directly(self, stack: ExitStack, site: Site) -> None:
        assert site.module is not None  # as a direct site has it
        assert site.down is not None

        def activated(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._passes:
                self._calls[site.group] += 1
                self._record(site, "activation", output, None)

        def entered(module: nn.Module, args: tuple[Any, ...]) -> None:
            if self._passes:
                self._record(site, "hidden", args[0], None)

        self._hook(stack, self._modules[site.module].register_forward_hook(activated))
        if site.gated and "hidden" in self._tensors:
            down = self._modules[site.down.rpartition(".")[0]]
            self._hook(stack, down.register_forward_pre_hook(entered))

    def _hook_scope(self, stack: ExitStack, scope: nn.Module) -> None:
        """Follow the data inside a module, each time that it runs."""
        flow = Flow(self._model, self._used)
        inside = ExitStack()
        entered: list[bool] = []

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            # A module with two names may run inside another scope, whose flow sees all.
            entered.append(bool(self._passes) and not self._following)
            if entered[-1]:
                self._following = True
                inside.enter_context(flow.modules(scope))
                inside.enter_context(flow)

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if entered and entered.pop():
                close()

        def close() -> None:
            self._following = False
            entered.clear()
            inside.close()

        stack.callback(close)
        self._hook(stack, scope.register_forward_pre_hook(enter))
        self._hook(stack, scope.register_forward_hook(leave, always_call=True))

    def _used(self, use: Use) -> None:
        value = use.value
        sites = self._groups.get(use.group)
        if sites is None or sites[0].group in self._direct:  # another scope may hold what is hooked directly
            return
        group = sites[0].group
        if use.weight.expert is None or isinstance(use.weight.expert, Tensor) or not self._calls[group]:
            self._calls[group] += 1
        for tensor, found in (("activation", value.activation), ("hidden", value.hidden)):
            if found is None or tensor not in self._tensors:
                continue
            if sites[0].expert is None:
                self._record(sites[0], tensor, _neurons_last(found, use), value.stream.rows)
                continue
            by_expert = {site.expert: site for site in sites}
            tokens = self._tokens[self._side(sites[0])]
            for expert, x, rows in _by_expert(use, found, None if tokens is None else tokens.batch * tokens.length):
                if expert in by_expert and len(x):
                    self._record(by_expert[expert], tensor, x, rows)

    def _record(self, site: Site, tensor: str, x: Tensor, which: Tensor | None) -> None:
        counted = self.counted.get((site.name, tensor))
        if counted is None:
            return
        x = x.detach()
        rows = self._rows_of(x, site, tensor) if which is None else routed_rows(which, self._tokens[self._side(site)])
        flat = x.reshape(-1, x.shape[-1])
        if rows.index is not None:
            flat = flat[rows.index.to(flat.device)]
        for number, criterion in enumerate(self.criteria):
            norms = self._column_norms(site) if criterion.weighs else None
            made, magnitudes = count(
                flat,
                criterion,
                rows.lengths,
                rows.first,
                norms=norms,
                magnitudes=number == 0 and not self._counts_alone,
                sets=not self._counts_alone,
            )
            tokens = self._tokens[self._side(site)]
            if tokens is not None:
                decoded = made.active if tokens.continued else torch.zeros_like(made.active)
                made = replace(made, decode_tokens=made.tokens * tokens.continued, decode_active=decoded)
            self._pending.append((counted, criterion, made, magnitudes))

    def _side(self, site: Site) -> str:
        """Whose tokens a site sees: the text's of the model or, in an encoder-decoder, its decoder's; or none."""
        if _OTHER_TOWER.search(site.owner):
            return "none"
        return "decoder_" if self._tokens["decoder_"] and "decoder" in site.owner else ""

    def _rows_of(self, x: Tensor, site: Site, tensor: str) -> Rows:
        """The same for all sites of one shape in a forward pass, of which a GPU would be asked each time."""
        side = self._side(site)
        tokens, start = self._tokens[side], 0
        if (
            tokens is not None
            and site.calls > 1
            and x.ndim == 3
            and len(x) == tokens.batch
            and x.shape[1] < tokens.length
        ):
            start = (
                self._seen[site.name, tensor] // tokens.batch
            )  # a piece of each sequence, as in chunked feed-forward
            tokens = tokens.part(start, start + x.shape[1]) if start + x.shape[1] <= tokens.length else tokens
        key = side, x.shape[:-1], start, site.turned
        if key not in self._rows:
            self._rows[key] = rows_of(x.shape, tokens, site.name, site.turned)
        self._seen[site.name, tensor] += x.shape[:-1].numel()
        return self._rows[key]

    def _column_norms(self, site: Site) -> Tensor:
        """‖W_down[:, i]‖₂ in float32, (width,), of the weights as they are now."""
        if site.down is None:
            raise SiteError(f"{site.name} has no down projection, which the criterion contribution(τ) needs")
        weight = self._weights[site.down]
        known = self._norms.get(site.name)
        if known is None or known[0] != weight._version:
            part = (weight if site.expert is None else weight[site.expert]).detach().float()
            # A convolution in groups has, for each group of outputs, the columns of its group of neurons.
            groups = site.width // part.shape[site.hidden_axis]
            columns = (each.movedim(site.hidden_axis, -1).flatten(0, -2) for each in part.chunk(groups))
            known = self._norms[site.name] = (weight._version, torch.cat([each.norm(dim=0) for each in columns]))
        return known[1]


def _outermost(scopes: Iterable[str]) -> list[str]:
    """Scopes that lie in no other."""
    found: list[str] = []
    for scope in sorted(set(scopes), key=lambda each: each.count(".") if each else -1):
        if not any(not outer or scope == outer or scope.startswith(f"{outer}.") for outer in found):
            found.append(scope)
    return found


def _encoder_of(model: nn.Module) -> str | None:
    """Where the encoder of an encoder-decoder of transformers' is."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return None
    get: Any = getattr(model, "get_encoder", None)
    encoder = None if get is None else get()
    return next((name for name, module in model.named_modules() if module is encoder and name), None)


def _neurons_last(x: Tensor, use: Use) -> Tensor:
    """An activation with the neurons on its last axis, wherever they are as it enters the product."""
    entered, width = use.entered, use.entered.shape[use.axis]
    if use.axis == 1:  # a convolution
        return x.movedim(1, -1)
    if x.ndim == entered.ndim and x.stride() != entered.stride() and x.data_ptr() == entered.data_ptr():
        at = next(
            axis for axis in range(x.ndim) if x.stride(axis) == entered.stride(use.axis) and x.shape[axis] == width
        )
    elif x.shape == entered.shape:
        at = use.axis
    else:
        at = -1 if x.shape[-1] == width else next((axis for axis, size in enumerate(x.shape) if size == width), -1)
    return x.movedim(at, -1)


def _by_expert(use: Use, x: Tensor, tokens: int | None) -> Iterable[tuple[int, Tensor, Tensor | None]]:
    """Each expert's number, its rows of the activation, and which of so many tokens these are."""
    expert, rows = use.weight.expert, use.value.stream.rows
    if isinstance(expert, int):
        yield expert, x, rows
    elif isinstance(expert, Tensor):
        if expert.ndim > 1 and rows is None:  # several experts a token, side by side
            rows = torch.arange(len(expert), device=x.device).repeat_interleave(expert[0].numel())
        expert = expert.flatten()
        flat = x.reshape(len(expert), -1)
        for number in torch.unique(expert).tolist():
            mine = (expert == number).nonzero().flatten()
            yield number, flat[mine], None if rows is None else rows[mine]
    elif use.offsets is not None:
        start = 0
        for number, end in enumerate(use.offsets.tolist()):
            yield number, x[start:end], None if rows is None else rows[start:end]
            start = end
    else:  # (experts, tokens, width): all experts see all tokens, those that were not routed scaled by zero
        read_by_all = use.value.stream.data
        if read_by_all.shape[-2] != x.shape[-2]:  # read otherwise: nothing says what was routed
            read_by_all = torch.ones(1, x.shape[-2], 1, device=x.device)
        for number, (mine, read) in enumerate(zip(x, read_by_all.expand(len(x), -1, -1), strict=True)):
            routed = (read != 0).any(-1).nonzero().flatten()
            # A buffer of so many places for each expert does not say which tokens lie in them.
            yield number, mine[routed], routed if tokens in (None, len(mine)) else None
