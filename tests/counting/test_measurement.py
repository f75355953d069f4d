"""A measurement in a notebook or a script: indexing, summaries, figures, frames, and merging with care."""

from __future__ import annotations

import html
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from actratio import ActratioError, Measurement, Probe, find_sites, load, measure
from tests.conftest import make_tiny_causal_lm as tiny
from tests.report.test_measured import HOSTILE

IDS = torch.arange(1, 19).view(2, 9)
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
SITE = "model.layers.0.mlp"


@pytest.fixture(scope="module")
def llama() -> Measurement:
    return measure(tiny("llama"), [BATCH], criteria=["positive", "above(0.01)"], settings={"text": "a"})


def test_indexing_by_site(llama: Measurement) -> None:
    assert llama[SITE] is llama.counts(SITE)
    assert llama[SITE].tokens == 18
    assert json.loads(json.dumps({"dead": llama[SITE].dead}))["dead"] == llama[SITE].dead
    with pytest.raises(ActratioError, match=r"no site 'model.layer.0.mlp' was measured; nearest: model.layers.0.mlp"):
        llama["model.layer.0.mlp"]
    with pytest.raises(ActratioError, match=r"there is no measurement of model.layers.0.mlp, hidden, nonzero"):
        llama.counts(SITE, "hidden", "nonzero")


def test_criteria_may_be_one_text() -> None:
    for criteria in ("positive", "above(0.5)"):
        assert {row.criterion for row in measure(tiny("gpt2"), [BATCH], criteria=criteria)} == {criteria}
    model = tiny("gpt2")
    probe = Probe(model, find_sites(model), criteria="positive")
    assert [str(criterion) for criterion in probe.criteria] == ["positive"]


def test_sites_is_the_word_for_choosing_them() -> None:
    model = tiny("gpt2")
    chosen = find_sites(model, sites="*.0.mlp")
    assert [site.name for site in chosen] == ["transformer.h.0.mlp"]
    assert [row.site for row in measure(model, [BATCH], sites="*.0.mlp")] == chosen


def test_summary_report_and_repr(llama: Measurement, tmp_path: Path) -> None:
    assert "of the activations are above zero (SiLU, gated)" in llama.summary()
    assert "18 tokens are too few to tell" in llama.summary()
    page = llama.report(tmp_path)
    assert page == tmp_path / "report.html"
    assert (tmp_path / "figures" / "profile.png").is_file()
    shown = repr(llama)
    assert shown.startswith("<Measurement of LlamaForCausalLM: 2 sites, 18 tokens>\n")
    assert len(shown.splitlines()) == 1 + 2 * (2 + 2)  # for each criterion, a title, a header and two sites
    assert "tensor(" not in shown + repr(llama.rows)
    hostile = replace(llama, model=HOSTILE)._repr_html_()
    assert html.escape(HOSTILE) in hostile
    assert HOSTILE not in hostile


def test_a_long_measurement_has_a_short_repr(llama: Measurement) -> None:
    copies = [replace(row.site, name=f"{row.site.name}.{copy}") for copy in range(40) for row in llama.rows]
    long = replace(llama, rows=[replace(row, site=site) for row, site in zip(llama.rows * 40, copies, strict=True)])
    assert len(repr(long).splitlines()) == 1 + 2 * (2 + 13)
    assert long._repr_html_().count("<tr>") == 2 * (1 + 41)


def test_plot_draws_the_figures_of_the_report(llama: Measurement, tmp_path: Path) -> None:
    from actratio.report.measured_charts import measurement_charts

    figures = llama.plot()
    assert list(figures.charts) == measurement_charts(llama)
    assert figures.names == ["profile", "ranks", "thresholds", "unions", "silent"]
    assert repr(figures) == "<Figures: profile, ranks, thresholds, unions, silent>"
    two = llama.plot("unions", "profile")
    assert two.names == ["unions", "profile"]
    shown = two._repr_html_()
    assert shown.count("data:image/svg+xml;base64,") == 2
    assert "Each point is one layer" in shown
    llama.report(tmp_path / "report")
    two.save(tmp_path / "plot")
    for name in two.names:  # the same bytes as in the report
        assert (tmp_path / "plot" / f"{name}.svg").read_bytes() == (
            tmp_path / "report/figures" / f"{name}.svg"
        ).read_bytes()
    title = figures.charts[0].title
    assert title.endswith("% of the SiLU outputs are above zero")
    assert two["profile"].axes[0].get_title("left") == title
    drawn = two.interactive("profile")
    assert len(drawn.data) == len(figures.charts[0].series)
    assert drawn.layout.title.text == title
    with pytest.raises(ActratioError, match="there is no figure 'profil'; there are profile, ranks"):
        llama.plot("profil")


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gpt2"])
def test_a_frame_of_neurons_becomes_the_same_measurement(kind: str) -> None:
    batches = [BATCH, {"input_ids": IDS[:1, :3]}]
    measured = measure(tiny(kind), batches, criteria=["positive", "nonzero"])
    frame = measured.to_frame(neurons=True)
    assert len(frame) == sum(row.counts.width for row in measured)
    back = Measurement.from_frame(frame.sample(frac=1, random_state=0).sort_values("layer", kind="stable"))
    order = [(row.site.name, row.tensor, row.criterion) for row in measured]
    by_key = {(row.site.name, row.tensor, row.criterion): row for row in back}
    back = replace(back, rows=[by_key[key] for key in order])
    assert back.to_frame().equals(measured.to_frame())  # every reading of the tidy table
    assert back.to_frame(neurons=True).equals(frame)
    assert back.fingerprint == measured.fingerprint
    for mine, theirs in zip(measured, back, strict=True):
        assert mine.site == theirs.site
        for name in ("active", "first_active", "decode_active", "squares", "both", "either"):
            a, b = getattr(mine.counts, name), getattr(theirs.counts, name)
            assert (a is None and b is None) or torch.equal(a, b)
        assert theirs.counts.union is None  # is not in the frame
    from_csv = Measurement.from_frame(pd.read_csv(io.StringIO(frame.to_csv(index=False))))
    assert from_csv.to_frame().equals(measured.to_frame())


def test_large_counts_survive_the_frame(llama: Measurement) -> None:
    big = 2**60 + 1
    row = replace(llama.rows[0], counts=replace(llama.rows[0].counts, squares=torch.tensor(big)))
    bare = replace(llama.rows[1], counts=replace(llama.rows[1].counts, squares=None))
    back = Measurement.from_frame(replace(llama, rows=[row, bare]).to_frame(neurons=True))
    assert int(back.rows[0].counts.squares) == big  # type: ignore[arg-type]
    assert back.rows[1].counts.squares is None


def test_frames_that_cannot_become_a_measurement_are_refused(llama: Measurement) -> None:
    with pytest.raises(
        ActratioError, match=r"which has readings only, has no column .*; give the frame of to_frame\(neurons=True\)"
    ):
        Measurement.from_frame(llama.to_frame())
    frame = llama.to_frame(neurons=True)
    with pytest.raises(ActratioError, match=r"has 47 rows for .*, which has 48 neurons; give every neuron once"):
        Measurement.from_frame(frame.drop(index=[5]))
    with pytest.raises(ActratioError, match="has 2 models"):
        Measurement.from_frame(pd.concat([frame, frame.assign(model="b")]))


def test_merging_other_weights_is_refused(llama: Measurement, tmp_path: Path) -> None:
    changed = tiny("llama")
    changed.model.layers[0].mlp.down_proj.weight.data[0, 0] += 1
    other = measure(changed, [BATCH], criteria=["positive", "above(0.01)"])
    with pytest.raises(ActratioError, match="of LlamaForCausalLM with different weights do not merge"):
        llama.merge(other)
    other.save(tmp_path / "other")
    with pytest.raises(ActratioError, match="different weights"):
        llama | load(tmp_path / "other")
    assert (llama | replace(other, fingerprint=None)).fingerprint == llama.fingerprint  # an older file has none
    assert load(tmp_path / "other").fingerprint == other.fingerprint


def test_merging_lists_the_settings_that_differ(llama: Measurement) -> None:
    a, b, c = (replace(llama, settings={"text": text, "length": 8}) for text in "abc")
    assert (a | replace(a)).settings == a.settings
    both = (a | b).settings
    assert both == {"length": 8, "merged": [{"text": "a"}, {"text": "b"}]}
    assert ((a | b) | c).settings == (a | (b | c)).settings
    assert ((a | b) | c).settings["merged"] == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    assert "merged" in a.settings or a.settings == {"text": "a", "length": 8}


def test_probe_of_a_plain_module_has_a_fingerprint_and_a_short_repr() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.rand(3, 4)
    with Probe(model, find_sites(model, x)) as probe:
        model(x)
    assert repr(probe) == "<Probe of Sequential: 1 site, positive, 3 tokens>"
    kept: Any = probe.snapshot()
    measured = Measurement.of(kept, "plain")
    assert measured.fingerprint == measure(model, [x]).fingerprint
    assert isinstance(measured.rows[0].counts.active, Tensor)
