"""Ways of writing MLPs in which a count goes wrong without a word; each is counted here beside plain torch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from actratio import ActratioError, Measurement, Probe, find_sites, measure

D, W, T = 8, 16, 5


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = rand(T, D)


class Model(nn.Module):
    """A model from a function of itself, with the layers that it needs."""

    def __init__(self, forward: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, make in layers.items():
            made = make()
            setattr(self, name, nn.Parameter(made) if isinstance(made, Tensor) else made)
        self._forward = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(self, *args, **kwargs)


def up() -> nn.Module:
    return nn.Linear(D, W)


def down() -> nn.Module:
    return nn.Linear(W, D)


def counted(found: Measurement, tensor: str = "activation") -> list[tuple[int, int]]:
    return [(row.counts.tokens, int(row.counts.active.sum())) for row in found if row.tensor == tensor]


def active(x: Tensor) -> int:
    return int((x > 0).sum())


def test_an_activation_used_by_two_products_is_counted_once() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.f(x))
        return m.mean(h) + m.spread(h)  # type: ignore[no-any-return]

    model = Model(forward, f=up, mean=down, spread=down)
    assert counted(measure(model, [X])) == [(T, active(model.f(X)))]


def test_two_activations_of_one_module_are_two_sites() -> None:
    model = Model(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))), a=up, b=lambda: nn.Linear(W, W), c=down)
    found = measure(model, [X])
    first = F.relu(model.a(X))
    assert [row.site.name for row in found] == ["relu", "relu.2"]
    assert counted(found) == [(T, active(first)), (T, active(model.b(first)))]


def test_an_adapter_on_the_down_projection_is_not_counted_twice() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.f(x))
        return m.base(h) + m.large(m.small(F.dropout(h, 0.5, m.training)))  # type: ignore[no-any-return]

    model = Model(forward, f=up, base=down, small=lambda: nn.Linear(W, 2), large=lambda: nn.Linear(2, D))
    found = measure(model, [X])
    assert [row.site.down for row in found] == ["base.weight"]
    assert counted(found) == [(T, active(model.f(X)))]


@pytest.mark.parametrize(
    "function",
    [
        lambda v: (v + v.abs()) / 2,
        lambda v: F.softplus(v) - math.log(2),
        lambda v: v + torch.sin(v) ** 2,
        lambda v: v / (1 + torch.exp(-v)),
        lambda v: v / (1 + v.abs()),
        lambda v: -F.relu(v),
        lambda v: F.gelu(v).clamp(0.0001, 0.05),
        lambda v: v * (v > 0),
        lambda v: v.masked_fill(v < 0, 0.0),
        lambda v: torch.where(v > 0, v, 0.0),
        torch.atan,
        lambda v: F.relu(v).round(),
    ],
)  # fmt: skip
def test_the_counted_activation_is_the_input_of_the_down_projection(function: Callable[[Tensor], Tensor]) -> None:
    model = Model(lambda m, x: m.g(function(m.f(x))), f=up, g=down)
    assert counted(measure(model, [X])) == [(T, active(function(model.f(X))))]


def test_in_place_writes_into_an_activation_are_counted() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.f(x))
        h[..., W // 2 :] = 0
        return m.g(h)  # type: ignore[no-any-return]

    model = Model(forward, f=up, g=down)
    assert counted(measure(model, [X])) == [(T, active(model.f(X)[:, : W // 2]))]


def test_in_place_dropout_is_not_counted() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.f(x))
        return m.g(F.dropout(h, 0.5, m.training, inplace=True))  # type: ignore[no-any-return]

    model = Model(forward, f=up, g=down)
    sites = find_sites(model, X)
    model.train()
    with torch.no_grad(), Probe(model, sites) as probe:
        model(X)
    (site,) = sites
    (counts,) = probe.counted[site.name, "activation"].counts.values()
    assert int(counts.active.sum()) == active(model.f(X))


class GatedWithDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(D, W), nn.Linear(D, W), nn.Linear(W, D)
        self.act, self.drop = nn.SiLU(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.drop(self.act(self.gate(x)) * self.up(x)))
        return out


def test_dropout_in_training_mode_is_not_counted_in_the_hidden_state() -> None:
    model = GatedWithDropout().eval()
    sites = find_sites(model, X)
    model.drop.train()
    with torch.no_grad(), Probe(model, sites) as probe:
        model(X)
    (counts,) = probe.counted[sites[0].name, "hidden"].counts.values()
    assert int(counts.active.sum()) == active(F.silu(model.gate(X)) * model.up(X))


def test_probe_refuses_training_mode_set_inside_the_block() -> None:
    model = GatedWithDropout().eval()
    with torch.no_grad(), Probe(model, find_sites(model, X)):
        model.train()
        with pytest.raises(ActratioError, match="set to training"):
            model(X)


def test_a_failed_forward_pass_counts_nothing() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D)) for _ in range(2))
            self.fail = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if self.fail:
                raise ValueError("half way")
            out: Tensor = self.second(x)
            return out

    model = Fails()
    with torch.no_grad(), Probe(model, find_sites(model, X)) as probe:
        model.fail = True
        with pytest.raises(ValueError, match="half way"):
            model(X)
        model.fail = False
        model(X)
    tokens = [counts.tokens for counted_site in probe.counted.values() for counts in counted_site.counts.values()]
    assert tokens == [T, T]


def test_views_and_casts_of_one_input_make_one_gated_mlp() -> None:
    x = rand(2, T, D).double()
    model = Model(lambda m, x: m.d(F.silu(m.g(x.view(-1, D).float())) * m.u(x.view(-1, D).float())), g=up, u=up, d=down)
    (site,) = find_sites(model, x)
    assert (site.role, site.gated) == ("mlp", True)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_scale_for_each_example_does_not_change_the_role_of_an_mlp(batch: int) -> None:
    model = Model(lambda m, x, scale: m.d(F.relu(m.f(x)) * scale), f=up, d=down)
    (site,) = find_sites(model, (rand(batch, T, D), rand(batch, 1, W)))
    assert site.role == "mlp"


@pytest.mark.parametrize("equation", ["bti,oi->bto", "bti,io->bto"])
def test_hidden_axis_of_an_einsum_is_the_summed_axis(equation: str) -> None:
    shape = (D, W) if equation.split(",")[1].startswith("oi") else (W, D)
    model = Model(lambda m, x: torch.einsum(equation, F.relu(m.f(x)), m.w), f=up, w=lambda: rand(*shape))
    found = measure(model, [X[None]], criteria=["positive", "contribution(0.5)"])
    norms = model.w.norm(dim=0 if shape[0] == D else 1)
    h = F.relu(model.f(X))
    assert found.rows[0].site.width == W
    assert counted(found) == [(T, active(h)), (T, int((h * norms >= 0.5).sum()))]


def test_hidden_axis_with_as_many_tokens_as_neurons() -> None:
    x = rand(W, D)
    model = Model(lambda m, x: m.d @ F.relu(m.u @ x.T), u=lambda: rand(W, D), d=lambda: rand(D, W))
    (row,) = measure(model, [x])
    assert row.counts.active.tolist() == (x @ model.u.T > 0).sum(0).tolist()


# ---- Experts.


def choices() -> Tensor:
    return torch.tensor([[0, 1], [1, 2], [2, 0], [2, 1], [0, 2]])


def test_experts_several_for_each_token_side_by_side() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        i = choices()
        h = F.relu(x[:, None, None, :] @ m.up[i])
        return (h @ m.down[i]).sum(1)  # type: ignore[no-any-return]

    model = Model(forward, up=lambda: rand(3, D, W), down=lambda: rand(3, W, D))
    expected = []
    for expert in range(3):
        routed = X[(choices() == expert).any(1)]
        expected.append((len(routed), active(routed @ model.up[expert])))
    assert counted(measure(model, [X])) == expected


def test_experts_with_negative_indices() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return sum(F.relu(x @ m.up[i]) @ m.down[i] for i in (-1, 0, 1))  # type: ignore[return-value]

    model = Model(forward, up=lambda: rand(3, D, W), down=lambda: rand(3, W, D))
    assert counted(measure(model, [X])) == [(T, active(X @ model.up[i])) for i in range(3)]


class Listed(nn.Module):
    """Experts in a list; one that no token is routed to does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D)) for _ in range(3))

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = (which == number).nonzero().flatten()
            if len(mine):
                out[mine] = expert(x[mine])
        return out


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_experts_without_tokens_in_the_first_batch_are_counted_in_the_second(order: tuple[int, ...]) -> None:
    batches = [
        {"x": X, "which": torch.tensor([0, 1, 0, 1, 0])},
        {"x": X, "which": torch.tensor([2, 2, 1, 2, 1])},
    ]
    found = measure(Listed(), [batches[number] for number in order])
    assert {row.site.name.split(".")[1]: row.counts.tokens for row in found} == {"0": 3, "1": 4, "2": 3}


# ---- Masks and orders.


class Embedded(nn.Module):
    def __init__(self, tokens_first: bool = False) -> None:
        super().__init__()
        self.embed, self.mlp = nn.Embedding(20, D), nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D))
        self.tokens_first = tokens_first

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        out: Tensor = self.mlp(x.transpose(0, 1)) if self.tokens_first else self.mlp(x)
        return out


@pytest.mark.parametrize("batch", [2, 3, 4, 5])
def test_sequence_first_models(batch: int) -> None:
    model = Embedded(tokens_first=True)
    ids = torch.arange(4 * batch).view(batch, 4) % 20
    mask = torch.ones(batch, 4, dtype=torch.long)
    mask[-1, 2:] = 0
    (row,) = measure(model, [{"input_ids": ids, "attention_mask": mask}])
    h = F.relu(model.mlp[0](model.embed(ids)))
    assert row.counts.active.tolist() == (h[mask.bool()] > 0).sum(0).tolist()
    assert row.counts.first_active is not None
    assert row.counts.first_active.tolist() == (h[:, 0] > 0).sum(0).tolist()


@pytest.mark.parametrize(
    "mask", [torch.tensor([[0.0, 0.0, -1e9, 0.0]] * 2), torch.tensor([[True, True, False, True]] * 2)[:, None]]
)
def test_attention_mask_of_another_kind_is_refused(mask: Tensor) -> None:
    with pytest.raises(ActratioError, match="does not say which tokens are padding"):
        measure(Embedded(), [{"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": mask}])


def test_attention_mask_of_queries_and_keys_without_padding_is_accepted() -> None:
    mask = torch.ones(4, 4).tril().bool().expand(2, 1, 4, 4)
    (row,) = measure(Embedded(), [{"input_ids": torch.ones(2, 4, dtype=torch.long), "attention_mask": mask}])
    assert row.counts.tokens == 8


def test_masks_for_each_kind_of_attention() -> None:
    ids, full = torch.ones(2, 4, dtype=torch.long), torch.ones(4, 4).tril().bool().expand(2, 1, 4, 4)
    sliding = full & ~torch.ones(4, 4).tril(-2).bool()
    for masks in ({"full_attention": full, "sliding_attention": sliding}, {"full_attention": None}, {}):
        (row,) = measure(Embedded(), [{"input_ids": ids, "attention_mask": masks}])
        assert row.counts.tokens == 8
    padded = full.clone()
    padded[1, ..., 0] = False
    with pytest.raises(ActratioError, match="does not say which tokens are padding"):
        measure(Embedded(), [{"input_ids": ids, "attention_mask": {"full_attention": padded}}])
    with pytest.raises(ActratioError, match="attention_mask is a list, so it does not say which tokens are padding"):
        measure(Embedded(), [{"input_ids": ids, "attention_mask": [[1, 1, 1, 1]] * 2}])


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_encoder_of_torch_with_padding(batch_first: bool) -> None:
    """With padding, the encoder packs its sequences for a fast path that no followed layer takes."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(D, 2, W, batch_first=batch_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first).eval()
    padded = torch.zeros(2, T, dtype=torch.bool)
    padded[1, 3:] = True
    x = rand(2, T, D) if batch_first else rand(T, 2, D)
    sites = find_sites(encoder, {"src": x})
    was_fast = torch.backends.mha.get_fastpath_enabled()
    with Probe(encoder, sites) as probe, torch.no_grad():
        encoder(x, src_key_padding_mask=padded)
    assert torch.backends.mha.get_fastpath_enabled() == was_fast
    hidden: list[Tensor] = []
    for layer in encoder.layers:
        layer.linear1.register_forward_hook(lambda *call: hidden.append(call[2]))  # also keeps it from the fast path
    found = measure(encoder, [{"src": x, "src_key_padding_mask": padded}])
    hidden.clear()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        encoder(x, src_key_padding_mask=padded)
    torch.backends.mha.set_fastpath_enabled(was_fast)
    kept = ~padded if batch_first else ~padded.T
    for rows in (Measurement.of(probe, "encoder").rows, found.rows):
        for row, h in zip(rows, hidden, strict=True):
            assert row.counts.tokens == T + 3
            assert row.counts.active.tolist() == (h[kept] > 0).sum(0).tolist()


# ---- Batches.


def test_a_model_that_cuts_its_batch_into_chunks() -> None:
    model = Model(lambda m, x: torch.cat([m.d(F.relu(m.f(chunk))) for chunk in x.split(4)]), f=up, d=down)
    x = rand(16, D)
    (row,) = measure(model, [x])
    assert row.counts.active.tolist() == (F.relu(model.f(x)) > 0).sum(0).tolist()


def test_a_batch_that_is_none_is_refused() -> None:
    model = Embedded()
    ids = torch.ones(2, 4, dtype=torch.long)
    for batches in ([None], [{"input_ids": ids}, None, {"input_ids": ids}]):
        with pytest.raises(ActratioError, match="a batch is a NoneType"):
            measure(model, batches)


def test_a_nested_tensor_is_refused() -> None:
    model = nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D))
    nested = torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged)
    for batches in ([nested], [X, nested]):
        with pytest.raises(ActratioError, match="a batch has a nested tensor, whose tokens can't be told apart"):
            measure(model, batches)


def test_an_exported_program_is_refused() -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D)), (X,)).module()
    with pytest.raises(ActratioError, match="if it's or contains an exported program"):
        measure(exported, [X])
    outer = nn.Sequential(nn.Dropout(), exported)
    with pytest.raises(ActratioError, match="if it's or contains an exported program"):
        measure(outer, [X])
    assert outer.training
    assert outer[0].training


def test_the_caches_of_batches_are_used_once() -> None:
    config = transformers.GPT2Config(n_layer=1, n_embd=D, n_head=2, vocab_size=20, n_positions=16)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.arange(8).view(2, 4)

    def batch() -> dict[str, Any]:
        with torch.no_grad():
            return {"input_ids": ids[:, :1], "past_key_values": model(ids, use_cache=True).past_key_values}

    hidden: list[Tensor] = []
    handle = model.transformer.h[0].mlp.act.register_forward_hook(lambda *call: hidden.append(call[2]))
    with torch.no_grad():
        model(**batch())
    handle.remove()
    measured = batch()
    (row,) = measure(model, [measured])
    assert row.counts.active.tolist() == (hidden[-1] > 0).sum((0, 1)).tolist()
    assert measured["past_key_values"].get_seq_length() == 5


# ---- Others.


def test_torchs_fast_path_is_back_after_the_last_of_some_probes() -> None:
    models = [Model(lambda m, x: m.d(F.relu(m.f(x))), f=up, d=down) for _ in range(2)]
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    try:
        first, second = (Probe(model, find_sites(model, X)) for model in models)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not torch.backends.mha.get_fastpath_enabled()
        second.__exit__(None, None, None)
        assert torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


def test_a_model_is_counted_once_at_a_time() -> None:
    model = nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D)).train()
    with Probe(model, find_sites(model, X)) as probe:
        with pytest.raises(ActratioError, match="a Probe or another thread is counting Sequential"):
            measure(model, [X])
        model(X)
    assert probe.tokens == T
    assert model.training
    measure(model, [X])


def test_a_model_that_another_thread_begins_to_measure_is_refused() -> None:
    """Also before that thread has found the sites, when no hook counts yet."""
    model = nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D))
    waiting, go_on = threading.Event(), threading.Event()
    found: list[Measurement] = []

    def batches() -> Iterator[Tensor]:
        waiting.set()
        assert go_on.wait(60)
        measure(model, [X])  # what makes the batches may measure the model, too
        yield X

    thread = threading.Thread(target=lambda: found.append(measure(model, batches())))
    thread.start()
    try:
        assert waiting.wait(60)
        with pytest.raises(ActratioError, match="a Probe or another thread is counting Sequential"):
            measure(model, [X])
    finally:
        go_on.set()
        thread.join()
    expected = [(T, active(model[0](X)))]
    assert counted(found[0]) == expected
    assert counted(measure(model, [X])) == expected


@pytest.mark.parametrize("traced", [False, True], ids=["direct", "followed"])
def test_looking_for_sites_adds_nothing_to_an_open_probe(traced: bool) -> None:
    model = Model(lambda m, x: m.d(F.relu(m.f(x)) if traced else m.act(m.f(x))), f=up, act=nn.ReLU, d=down)
    sites = find_sites(model, X)
    with Probe(model, sites) as probe:
        model(X)
        assert [site.name for site in find_sites(model, X)] == [site.name for site in sites]
        model(X)
    assert [counted.counts[criterion].tokens for counted in probe.counted.values() for criterion in counted.counts] == [
        2 * T
    ]
    assert probe.passes == 2


@pytest.mark.parametrize("traced", [False, True], ids=["direct", "followed"])
def test_probes_of_one_model_count_the_same(traced: bool) -> None:
    """What one of them computes, such as the outputs of the down projection, isn't a step of the model for the other."""
    model = Model(lambda m, x: m.d(F.relu(m.f(x)) if traced else m.act(m.f(x))), f=up, act=nn.ReLU, d=down)
    sites = find_sites(model, X)
    with Probe(model, sites, check_calls=False) as outer:
        model(X)
        with Probe(model, sites) as inner:
            model(X)
    for probe, passes in ((outer, 2), (inner, 1)):
        assert [made.tokens for one in probe.counted.values() for made in one.counts.values()] == [passes * T]


@pytest.mark.parametrize("traced", [False, True], ids=["direct", "followed"])
def test_looking_for_sites_in_another_thread_adds_nothing_to_a_running_pass(traced: bool) -> None:
    main, found = threading.get_ident(), []

    def forward(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.f(x)) if traced else m.act(m.f(x))
        if threading.get_ident() == main and is_looked_for:
            thread = threading.Thread(target=lambda: found.append(find_sites(m, X)))
            thread.start()
            thread.join()
        out: Tensor = m.d(h)
        return out

    is_looked_for = False
    model = Model(forward, f=up, act=nn.ReLU, d=down)
    sites = find_sites(model, X)
    is_looked_for = True
    with Probe(model, sites) as probe:
        for _ in range(3):
            model(X)
    assert [len(one) for one in found] == [1] * 3
    assert probe.passes == 3
    assert [made.tokens for one in probe.counted.values() for made in one.counts.values()] == [3 * T]


def test_other_threads_are_not_counted() -> None:
    other = nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D), nn.ReLU())
    model = Model(lambda m, x: m.d(F.relu(m.f(x))), f=up, d=down)
    stop = threading.Event()

    def run() -> None:
        with torch.no_grad():
            while not stop.is_set():
                other(X)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(20):
            assert counted(measure(model, [X])) == [(T, active(model.f(X)))]
    finally:
        stop.set()
        thread.join()


def test_merge_drops_magnitudes_that_one_part_did_not_count() -> None:
    model = nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D))
    assert (measure(model, [X]) | measure(model, [X], counts_alone=True)).magnitudes == {}


def test_merge_refuses_measurements_of_other_models() -> None:
    model = nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D))
    with pytest.raises(ActratioError, match="of A and of B do not merge"):
        measure(model, [X], name="A").merge(measure(model, [X], name="B"))


def test_settings_list_the_sites_left_out() -> None:
    from actratio.report.conclusions import measurement_sentences

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D)) for _ in range(2))
            self.head = nn.Sequential(nn.Linear(D, W), nn.Tanh(), nn.Linear(W, 2))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            out: Tensor = self.head(x)
            return out

    assert any(
        "Sites that were not measured: 1 with the role head" in said
        for said in measurement_sentences(measure(Headed(), [X]))
    )


def test_hidden_is_refused_if_no_mlp_is_gated() -> None:
    model = nn.Sequential(nn.Linear(D, W), nn.ReLU(), nn.Linear(W, D))
    with pytest.raises(ActratioError, match="no MLP is gated"):
        measure(model, [X], tensors=["hidden"])
