"""Read tables of observations and fit the laws to them; tables with errors are refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from actratio import ActratioError
from actratio.laws.observations import fit_observations, read_observations, read_published


def test_fit_observations_of_the_article_s_csv(published: Path) -> None:
    datasets = {fitted.dataset: fitted for fitted in fit_observations(read_observations(published))}
    assert set(datasets) == {"mnist", "fashion_mnist"}
    for fitted in datasets.values():
        assert fitted.laws.architectures == 6
        assert fitted.laws.cells == 16  # hidden layers only
        assert fitted.left_out == "the output layer (logits)"
        assert 2 < fitted.laws.fits["sqrt"].parameters["F"].value < 5
        assert set(fitted.by_layer) == {0, 1}  # deeper layers have fewer than three widths


def test_f_of_the_article_s_csv_equals_its_formula(published: Path) -> None:
    """F of √N is the geometric mean of A/√N over the hidden layers."""
    import pandas as pd

    table = pd.read_csv(published)
    table = table[(table["Epoch"] == 20) & (table["Dataset"] == "MNIST")]
    hidden = table[table["Layer"] < table.groupby("Model")["Layer"].transform("max")]
    expected = math.exp((np.log(hidden["Active Count"]) - 0.5 * np.log(hidden["Neuron Count"])).mean())
    datasets = {fitted.dataset: fitted for fitted in fit_observations(read_observations(published))}
    assert datasets["mnist"].laws.fits["sqrt"].parameters["F"].value == pytest.approx(expected)


def test_read_observations_keeps_the_seeds_of_a_table_in_the_article_s_format(tmp_path: Path) -> None:
    frame = read_observations(_table(tmp_path, "Seed", [0, 0, 1, 1]))
    assert frame["seed"].tolist() == [0, 0, 1, 1]


def _table(tmp_path: Path, column: str, values: list[object]) -> Path:
    import pandas as pd

    path = tmp_path / "article.csv"
    layers, widths = [1, 2, 1, 2], [64, 32, 64, 32]
    pd.DataFrame(
        {
            "Dataset": "MNIST", "Model": "784=>64=>32=>10", "Epoch": 20, "Train Accuracy": 1.0, "Val Accuracy": 0.9, "Train Loss": 0.0,
            "Val Loss": 0.1, "Layer": layers, "Activation Ratio": 0.5, "Neuron Count": widths, "Active Count": [30, 16, 31, 17],
            column: values,
        }
    ).to_csv(path, index=False)  # fmt: skip
    return path


def test_fit_observations_takes_the_last_epoch_of_each_architecture() -> None:
    import pandas as pd

    # F is 2 at the last epoch of each architecture (5 and 3), and 9 before it.
    rows = [("a", w, e, (2 if e == 5 else 9) * math.sqrt(w)) for w in (256, 1024) for e in (1, 3, 5)]
    rows += [("b", w, e, (2 if e == 3 else 9) * math.sqrt(w)) for w in (256, 512) for e in (1, 3)]
    frame = pd.DataFrame(rows, columns=["architecture", "width", "epoch", "active_mean"]).assign(logits=False)
    (fitted,) = fit_observations(frame)
    assert fitted.laws.cells == 4
    assert fitted.laws.fits["sqrt"].parameters["F"].value == pytest.approx(2)


BAD_TABLES = {
    "no rows": ("width,active_mean\n", "a header but no rows"),
    "negative": ("width,active_mean\n64,-3\n32,4\n", "contains -3 in row 1; give numbers that are not negative"),
    "text": ("width,active_mean\n64,many\n32,4\n", "contains 'many'"),
    "more active than neurons": ("width,active_mean\n64,65\n32,4\n", "65 active neurons but only 64 neurons"),
    "empty dataset": ("width,active_mean,dataset\n64,6,\n32,4,a\n", "the column dataset has empty cells"),
    "layer": ("width,active_mean,layer\n64,6,first\n32,4,second\n", "contains 'first'"),
    "fractional layer": ("width,active_mean,layer\n64,6,0.5\n32,4,1\n", "contains 0.5 in row 1; give whole numbers"),
    "logits": ("width,active_mean,logits\n64,6,maybe\n32,4,no\n", "contains 'maybe'"),
    "missing split": ("width,active_mean,split\n64,6,val\n32,4,val\n", "no rows with split train; choose from val"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_fit_observations_refuses_invalid_tables(name: str, tmp_path: Path) -> None:
    text, words = BAD_TABLES[name]
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ActratioError, match=words):
        fit_observations(read_observations(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("Layer", "first", "the column Layer contains 'first'"),
        ("Layer", "", "the column Layer contains an empty cell"),
        ("Neuron Count", "many", "the column width contains 'many'"),
        ("Active Count", "-3", "the column active_mean contains -3"),
        ("Epoch", "1.5", "the column epoch contains 1.5"),
        (
            "Neuron Count",
            "1e308",
            r"the column width contains 1e\+308 in row 4; give numbers up to 9,007,199,254,740,992",
        ),
        ("Activation Ratio", "much", "the column activation_ratio contains 'much' in row 4; give numbers"),
        ("Activation Ratio", "1.5", "the column activation_ratio contains 1.5 in row 4; give numbers up to 1"),
        ("Val Accuracy", "", "the column val_accuracy contains an empty cell in row 4"),
    ],
)
def test_read_observations_refuses_a_damaged_table_in_the_article_s_format(
    column: str, value: str, words: str, published: Path, tmp_path: Path
) -> None:
    import pandas as pd

    frame = pd.read_csv(published, dtype=str)
    frame.loc[3, column] = value
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ActratioError, match=words):
        read_published(tmp_path / "t.csv")


def test_fit_observations_refuses_a_split_or_epoch_that_the_table_lacks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("width,active_mean\n64,6\n32,4\n")
    frame = read_observations(tmp_path / "t.csv")
    with pytest.raises(ActratioError, match="no column split"):
        fit_observations(frame, split="val")
    with pytest.raises(ActratioError, match="no column epoch"):
        fit_observations(frame, epoch=3)
