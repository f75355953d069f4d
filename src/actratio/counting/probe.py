"""Counting while a model runs: hooks on sites that feed counts, and nothing left behind."""

from __future__ import annotations

import copy
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from traceback import walk_stack
from types import FrameType, TracebackType
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from actratio.compiler import force_eager
from actratio.counting.column_norms import ColumnNorms
from actratio.counting.counts import SiteCounts
from actratio.counting.criteria import Criterion, to_criteria
from actratio.counting.forward_pass import ForwardPass, Pending, Sampled
from actratio.counting.kernels import count
from actratio.counting.magnitudes import Magnitudes
from actratio.counting.routing import neurons_last, rows_by_expert
from actratio.counting.scopes import ScopeFollower, outermost
from actratio.counting.useful import MOST_TOKENS, rows_of_site, useful_outputs
from actratio.errors import SiteError, plural
from actratio.hooks import Unsaved
from actratio.sites import MEASURED, Group, Site
from actratio.sites.followed import is_searching, unfollowed
from actratio.sites.tokens import arguments_of, routed_rows
from actratio.sites.values import Use, Value
from actratio.sites.wrappers import unwrapped

TENSORS = ("activation", "hidden")
"""``activation`` a = σ(x); ``hidden`` h = a ⊙ u, in gated MLPs only."""


@dataclass
class Counted:
    """What was counted at one site of one tensor.

    Attributes:
        passed: for an expert, the tokens that passed through its layer, routed to it or not.
    """

    counts: dict[Criterion, SiteCounts] = field(default_factory=dict)
    magnitudes: Magnitudes | None = None
    passed: int | None = None

    def add(self, pending: Pending) -> None:
        """Add the counts of one call of the site."""
        counts, magnitudes = self.counts.get(pending.criterion), self.magnitudes
        self.counts[pending.criterion] = pending.counts if counts is None else counts.merge(pending.counts)
        if pending.magnitudes is not None:
            self.magnitudes = pending.magnitudes if magnitudes is None else magnitudes.merge(pending.magnitudes)


class Probe:
    """Count at the sites of a model whenever the model runs inside the block.

    The hooks are registered when the block is entered, and removed when it ends; the block can be entered again.

    Examples:
        >>> with Probe(model, find_sites(model, x)) as probe:        # doctest: +SKIP
        ...     model(x)
        >>> probe.counted["layers.0.mlp", "activation"]              # doctest: +SKIP

    Padding (from ``attention_mask``) is not counted. Decoding steps of ``generate`` are also counted apart.
    Activations that gradient checkpointing recomputes are not counted twice, because only the forward passes of the
    model itself are counted (and those of its encoder, which ``generate`` calls by itself). A forward pass that fails
    or returns ``None`` counts nothing, and neither does one of ``find_sites``. Compiled models run uncompiled inside the block.

    Args:
        model: the model that was passed to ``find_sites``.
        sites: where to count.
        tensors: which of ``TENSORS`` to count: one or several.
        criteria: what counts as active: one criterion or several, as text or as ``Criterion``.
        counts_alone: leave out unions, overlaps, idle blocks, magnitudes and useful outputs.
        sampled_before: tokens of each site, by name, whose useful outputs were counted before.
        ignored_label: tokens with this label (in ``labels``) are not counted, as padding isn't.
        check_calls: whether it is an error if a site runs another number of times than when it was found.

    Attributes:
        counted: counts by the site's name and the tensor.
        sampled: useful outputs by the site's name.
        passes: number of forward passes that were counted.
        enabled: whether forward passes are counted; set it to ``False`` to run the model without counting.

    Raises:
        SiteError: only ``hidden`` is asked for, and no site is gated.
        CriterionError: a criterion is unknown or given twice, or has no thresholds for a site.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        *,
        tensors: str | Iterable[str] = TENSORS,
        criteria: str | Criterion | Iterable[str | Criterion] = ("positive",),
        counts_alone: bool = False,
        sampled_before: Mapping[str, int] | None = None,
        ignored_label: int | None = None,
        check_calls: bool = True,
    ) -> None:
        self.sites = list(sites)
        self.criteria = to_criteria(criteria)
        self.counted: dict[tuple[str, str], Counted] = {}
        self.passes = 0
        self.enabled = True
        self._model = unwrapped(model)
        self._tensors = (tensors,) if isinstance(tensors, str) else tuple(tensors)
        self._counts_alone = counts_alone
        self._ignored_label = ignored_label
        self._check_calls = check_calls
        self._modules = dict(self._model.named_modules())
        self._encoder = _encoder_path(self._model)
        self._groups: dict[Group, list[Site]] = defaultdict(list)
        for site in self.sites:
            self._groups[site.group].append(site)
            for tensor in self._tensors:
                if tensor == "activation" or site.gated:
                    self.counted[site.name, tensor] = Counted()
        self._criteria = {
            site.name: [(criterion, criterion.for_site(site.name)) for criterion in self.criteria]
            for site in self.sites
        }
        if self.sites and not self.counted:
            raise SiteError(
                "no site has a hidden tensor beside its activation, because no MLP is gated; measure the activation"
            )
        self._weights = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        self._norms = ColumnNorms(self._weights)
        self._sampled_before = sampled_before or {}
        sampled = [] if counts_alone else [site.name for site in self.sites if self._shows_outputs(site)]
        self.sampled = dict.fromkeys(sampled, Sampled(0, 0))
        self._passes: list[ForwardPass] = []  # the last one is running, inside the others
        self._followed = ScopeFollower(self._model, self._used, self._unused, lambda: bool(self._passes))
        self._direct: set[Group] = set()
        self._stack = ExitStack()
        self._entered = False

    @property
    def tokens(self) -> int:
        """Most tokens (or examples) counted at any site."""
        tokens = (counts.tokens for counted in self.counted.values() for counts in counted.counts.values())
        return max(tokens, default=0)

    @property
    def model(self) -> nn.Module:
        """The model; of a compiled one, its original."""
        return self._model

    def snapshot(self) -> Probe:
        """Return a probe with the counts so far, which later forward passes don't change."""
        copied = copy.copy(self)
        # Counts never change, they are replaced by new ones.
        copied.counted = {
            key: Counted(dict(counted.counts), counted.magnitudes, counted.passed)
            for key, counted in self.counted.items()
        }
        return copied

    def __enter__(self) -> Probe:
        """Register the hooks.

        Raises:
            SiteError: the probe's block was entered and not left.
        """
        if self._entered:
            raise SiteError(
                "the probe is counting already; leave its block before you enter it again, or make another one"
            )
        with ExitStack() as stack:
            stack.enter_context(force_eager())
            for root in self._roots():
                self._hook(stack, root.register_forward_pre_hook(Unsaved(self._begin), with_kwargs=True))
            followed = []
            self._direct.clear()
            for group in self._groups.values():
                site = group[0]
                if site.direct and not (site.gated and self._trains(site)):
                    self._hook_directly(stack, site)
                    self._direct.add(site.group)
                else:
                    followed.append(site.scope)
            self._followed.register([self._modules[scope] for scope in outermost(followed)], stack)
            # Last, so that it runs after the other hooks of the same module.
            for root in self._roots():
                self._hook(stack, root.register_forward_hook(Unsaved(self._end), always_call=True))
            self._stack = stack.pop_all()
        self._entered = True
        _open.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        _open.discard(self)
        self._passes.clear()
        self._stack.close()

    def __repr__(self) -> str:
        criteria = ", ".join(map(str, self.criteria))
        return f"<Probe of {type(self._model).__name__}: {plural(len(self.sites), 'site')}, {criteria}, {plural(self.tokens, 'token')}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Probe:
        return self  # a copied model has copies of the hooks, and this tells them that they aren't the probe's

    def _hook(self, stack: ExitStack, handle: Any) -> None:
        stack.callback(handle.remove)

    def _roots(self) -> list[nn.Module]:
        """Modules whose forward passes are counted: the model, and an encoder that ``generate`` calls by itself."""
        return [self._model] if self._encoder is None else [self._model, self._modules[self._encoder]]

    def _shows_outputs(self, site: Site) -> bool:
        """Whether a site's useful outputs can be counted. An expert's tokens are too few, and experts too many."""
        return (
            site.role in MEASURED
            and site.role != "expert"
            and rows_of_site(site, self._weights.get(site.down or "")) is not None
        )

    def _trains(self, site: Site) -> bool:
        """Whether dropout may come between the product and the down projection."""
        return any(module.training for module in self._modules[site.scope].modules())

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_searching():  # maybe in another thread than the pass that runs
            return
        frame = sys._getframe(2)  # of the module's call, which called the hook, which called this
        self._drop_interrupted(frame)
        if not self.enabled or module not in self._roots() or (module is not self._model and self._passes):
            return
        for group in self._direct:
            site = self._groups[group][0]
            if site.gated and self._trains(site):
                raise SiteError(
                    f"{site.name} was set to training inside the block; leave the block, and enter it again"
                )
        arguments = arguments_of(module, args, kwargs)
        encoder_only, encoded = module is not self._model, arguments.get("encoder_outputs") is not None
        expected = [
            sites
            for sites in self._groups.values()
            if self._in_encoder(sites[0]) == encoder_only or not (encoder_only or encoded)
        ]
        self._passes.append(
            ForwardPass(
                module,
                frame,
                arguments,
                expected,
                has_decoder=self._encoder is not None,
                ignored_label=self._ignored_label,
            )
        )

    def _drop_interrupted(self, frame: FrameType) -> None:
        """Drop passes that no longer run: after an exception such as KeyboardInterrupt, torch calls no hooks."""
        if not self._passes:
            return
        running = {id(caller) for caller, _ in walk_stack(frame)}
        if any(id(forward_pass.frame) not in running for forward_pass in self._passes):
            self._passes = [forward_pass for forward_pass in self._passes if id(forward_pass.frame) in running]
            self._followed.stop()

    def _in_encoder(self, site: Site) -> bool:
        return self._encoder is not None and f"{site.owner}.".startswith(f"{self._encoder}.")

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_searching() or not self._passes or self._passes[-1].module is not module:
            return
        forward_pass = self._passes.pop()
        if output is None:  # the forward pass failed, and its own error says more
            return
        if self._check_calls:
            forward_pass.check_calls()
        self.passes += 1
        for pending in forward_pass.pending:
            self.counted[pending.site, pending.tensor].add(pending)
        # A new dictionary, because a snapshot has the old one.
        self.sampled = self.sampled | {
            name: self.sampled[name].merge(more) for name, more in forward_pass.sampled.items()
        }
        for sites in forward_pass.expected:
            tokens = forward_pass.tokens(sites[0])
            if sites[0].role == "expert" and tokens is not None:
                self._add_passed(sites, tokens.kept)

    def _add_passed(self, experts: Sequence[Site], tokens: int) -> None:
        names = {site.name for site in experts}
        for (name, _), counted in self.counted.items():
            if name in names:
                counted.passed = (counted.passed or 0) + tokens

    def _hook_directly(self, stack: ExitStack, site: Site) -> None:
        assert site.module is not None  # a direct site has both
        assert site.down is not None

        down = self._modules[site.down.rpartition(".")[0]]

        def columns() -> Tensor | None:
            weight = getattr(down, "weight", None)  # pruning and weight norm compute it, so it is no parameter
            return weight if isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter) else None

        def activated(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._passes and not is_searching():
                self._passes[-1].calls[site.group] += 1
                self._record(site, "activation", output, None, columns())

        counts_hidden = site.gated and "hidden" in self._tensors

        def entered(module: nn.Module, args: tuple[Any, ...]) -> None:
            if self._passes and not is_searching():
                if counts_hidden:
                    self._record(site, "hidden", args[0], None, columns())
                self._sample(site, args[0], columns())

        self._hook(stack, self._modules[site.module].register_forward_hook(Unsaved(activated)))
        if counts_hidden or site.name in self.sampled:
            self._hook(stack, down.register_forward_pre_hook(Unsaved(entered)))

    @unfollowed
    def _used(self, use: Use) -> None:
        value, forward_pass = use.value, self._passes[-1]
        sites = self._groups.get(use.group)
        if sites is None or sites[0].group in self._direct:  # a followed scope may contain a direct site
            return
        group, tokens = sites[0].group, forward_pass.tokens(sites[0])
        self._sample(sites[0], neurons_last(use.entered, use), use.columns if use.weight.is_computed else None)
        if not isinstance(use.weight.expert, int) or not forward_pass.calls[group]:
            forward_pass.calls[group] += 1
        for tensor, data in (("activation", value.activation), ("hidden", value.hidden)):
            if data is None or tensor not in self._tensors:
                continue
            if sites[0].expert is None:
                columns = use.columns if use.weight.is_computed else None
                self._record(sites[0], tensor, neurons_last(data, use), value.stream.rows, columns)
                continue
            by_expert = {site.expert: site for site in sites}
            length = None if tokens is None else tokens.batch * tokens.length
            for expert, x, rows in rows_by_expert(use, data, length):
                if expert in by_expert and len(x):
                    self._record(by_expert[expert], tensor, x, rows)

    @unfollowed
    def _unused(self, value: Value) -> None:
        """Count an activation that entered no down projection, if that was asked for."""
        sites = self._groups.get((value.owner, value.module, value.stream.weight, None))
        if sites is not None and value.activation is not None:
            self._passes[-1].calls[sites[0].group] += 1
            self._record(sites[0], "activation", value.activation.movedim(value.stream.axis, -1), value.stream.rows)

    @unfollowed
    def _record(self, site: Site, tensor: str, x: Tensor, routed: Tensor | None, columns: Tensor | None = None) -> None:
        """Count an activation.

        Args:
            routed: which token each row is, where rows were selected.
            columns: the down projection as it was multiplied, if the model computed it.
        """
        if (site.name, tensor) not in self.counted:
            return
        forward_pass, x = self._passes[-1], x.detach()
        tokens = forward_pass.tokens(site)
        rows = forward_pass.rows(x, site, tensor) if routed is None else routed_rows(routed, tokens)
        x = x.reshape(-1, x.shape[-1])
        if rows.index is not None:
            x = x[rows.index.to(x.device)]
        for number, (criterion, at_site) in enumerate(self._criteria[site.name]):
            counts, magnitudes = count(
                x,
                at_site,
                rows.lengths,
                rows.first,
                norms=self._norms.at(site, columns) if at_site.needs_norms else None,
                magnitudes=number == 0 and not self._counts_alone,
                co_activation=not self._counts_alone,
            )
            if tokens is not None:
                decoded = counts.active if tokens.continued else torch.zeros_like(counts.active)
                counts = replace(counts, decode_tokens=counts.tokens * tokens.continued, decode_active=decoded)
            forward_pass.pending.append(Pending(site.name, tensor, criterion, counts, magnitudes))

    @unfollowed
    def _sample(self, site: Site, x: Tensor, columns: Tensor | None) -> None:
        """Count the useful outputs of the first tokens, if they can be counted at this site.

        Args:
            x: what enters the down projection.
            columns: the down projection as it was multiplied, if the model computed it.
        """
        if site.name not in self.sampled:
            return
        forward_pass = self._passes[-1]
        tokens, so_far = forward_pass.tokens(site), forward_pass.sampled.get(site.name, Sampled(0, 0))
        left = MOST_TOKENS - self._sampled_before.get(site.name, 0) - self.sampled[site.name].tokens - so_far.tokens
        # In decoding, few tokens run at a time, with one threshold for each of them.
        if left <= 0 or (tokens is not None and tokens.continued):
            return
        x = x.detach()
        index = forward_pass.rows(x, site, "useful").index
        x = x.reshape(-1, x.shape[-1])
        x = x[:left] if index is None else x[index[:left].to(x.device)]
        rows = None if columns is not None else rows_of_site(site, self._weights.get(site.down or ""))
        # What enters may still be on another device, where a model is spread over several.
        useful = None if rows is None else useful_outputs(x, rows.to(x.device))
        forward_pass.sampled[site.name] = so_far.merge(Sampled(useful, len(x)))


_open: WeakSet[Probe] = WeakSet()


def is_probed(model: nn.Module) -> bool:
    """Return whether a probe would count a model if it ran now, in any thread."""
    return any(probe.model is model and probe.enabled for probe in list(_open))


def _encoder_path(model: nn.Module) -> str | None:
    """Return the path of the encoder in an encoder-decoder from transformers."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return None
    get: Any = getattr(model, "get_encoder", None)
    encoder = None if get is None else get()
    return next((name for name, module in model.named_modules() if module is encoder and name), None)
