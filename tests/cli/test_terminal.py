"""Tables in the terminal: they fit its width, and names stay whole."""

from __future__ import annotations

import io

import pytest

from actratio.cli import terminal
from actratio.cli.terminal import SafeConsole
from actratio.report.findings import Findings, verdicts_table
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import NO, YES, Verdict


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed, at a width that a test sets with ``resize``."""
    text = io.StringIO()
    monkeypatch.setattr(terminal, "out", SafeConsole(file=text, width=80, force_terminal=True, color_system=None))
    return text


def resize(width: int) -> None:
    terminal.out.width = width


HEADER = ["site", "tokens", "ratio", "first token", "rest", "dead", "always on", "overlap"]
ROWS = [[f"model.layers.{n}.mlp", "1,024", "12.34%", "10.00%", "13.00%", "123", "45", "0.55"] for n in range(4)]


@pytest.mark.parametrize("width", [30, 40, 80, 120])
def test_a_table_fits_the_width_and_names_the_columns_that_it_leaves_out(printed: io.StringIO, width: int) -> None:
    resize(width)
    terminal.print_table("Ratios", HEADER, ROWS)
    lines = printed.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    text = " ".join(printed.getvalue().split())
    assert all(f"layer {number}" in text for number in range(4))
    assert "ratio" in text.split("┡")[0]
    assert all(word in text for name in HEADER for word in name.split())  # as a column, or in the note
    assert ("not shown at this width" in text) == (width < 80)


def test_what_names_share_moves_below_the_table(printed: io.StringIO) -> None:
    terminal.print_table("Ratios", HEADER[:2], [row[:2] for row in ROWS])
    assert "sites: model.layers.*.mlp" in printed.getvalue()
    assert "model.layers.0" not in printed.getvalue()


def test_names_without_a_shared_prefix_stay_whole(printed: io.StringIO) -> None:
    terminal.print_table("Ratios", ["site", "ratio"], [["encoder.0", "1%"], ["decoder.0", "2%"], ["head", "3%"]])
    assert "encoder.0" in printed.getvalue()
    assert "sites:" not in printed.getvalue()


@pytest.mark.parametrize("width", [40, 60])
def test_a_name_that_is_too_long_keeps_both_ends_and_its_ratio(printed: io.StringIO, width: int) -> None:
    resize(width)
    names = [f"{side}.{'deep.' * 12}{last}" for side, last in (("left", "mlp"), ("right", "feed_forward.act"))]
    terminal.print_table("Ratios", ["site", "tokens", "ratio"], [[name, "1,024", "12.34%"] for name in names])
    text = printed.getvalue()
    assert text.count("12.34%") == 2
    assert text.count("…") == 2
    assert "left." in text
    assert "forward.act" in text
    assert all(len(line) <= width for line in text.splitlines())


def test_a_phrase_in_the_first_column_is_wrapped_before_a_column_is_left_out(printed: io.StringIO) -> None:
    resize(50)
    phrase = "no depth effect, spread 0.19 shared and 0.05 by seed"
    terminal.print_table("Rule", ["if the truth is", "yes", "no"], [[phrase, "1.0%", "99.0%"]])
    assert "99.0%" in printed.getvalue()
    assert "not shown" not in printed.getvalue()


def test_the_ratio_stays_when_columns_before_it_are_left_out(printed: io.StringIO) -> None:
    resize(60)
    header = ["data set", "width of the layer", "training accuracy", "validation accuracy", "ratio", "published ratio"]
    terminal.print_table("Widths", header, [["fashion_mnist", "1,024", "99.123456789%", "99.123456789%", "9%", "8%"]])
    heading = printed.getvalue().split("┡")[0]
    assert heading.count("ratio") == 1
    assert "not shown at this width: validation accuracy, published ratio" in " ".join(printed.getvalue().split())


def test_successive_alike_sites_share_a_row(printed: io.StringIO) -> None:
    def rows(widths: list[int]) -> list[list[str]]:
        return [[f"h.{layer}.mlp", str(layer), str(width)] for layer, width in enumerate(widths)]

    terminal.print_table("Sites", ["site", "layer", "width"], rows([8, 8, 8, 16, 8, 8]), every_row=False)
    names = [line.split("│")[1].strip() for line in printed.getvalue().splitlines() if line.startswith("│")]
    assert names == ["layers 0–2", "layer 3", "layers 4–5"]
    terminal.print_table("Sites", ["site", "layer", "width"], rows([8, 8]), every_row=True)
    assert "│ layer 1 │" in printed.getvalue()


def test_a_pipe_gets_lines_with_tabs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "out", SafeConsole(file=text))
    terminal.print_table("Ratios, 1,024 tokens", HEADER[:3], [row[:3] for row in ROWS], every_row=False)
    terminal.print_sentences(["word " * 40])
    lines = text.getvalue().splitlines()
    assert lines[:2] == ["# Ratios, 1,024 tokens", "site\ttokens\tratio"]
    assert lines[2] == "model.layers.0.mlp\t1024\t12.34%"
    assert len(lines) == 2 + len(ROWS) + 1


def test_a_long_table_is_summarised_on_request(printed: io.StringIO) -> None:
    rows = [[f"layers.{number}", str(number)] for number in range(100)]
    terminal.print_table("Ratios", ["site", "n"], rows, every_row=False)
    text = printed.getvalue()
    assert "12 of 100 rows; --full prints every row" in text
    assert "│ layer 0 " in text
    assert "│ layer 99" in text
    terminal.print_table("Ratios", ["site", "n"], rows)
    assert "│ layer 57" in printed.getvalue()


def test_markup_in_a_name_is_text(printed: io.StringIO) -> None:
    terminal.print_table("[bold]x", ["[red]a"], [["[blink]b"]])
    assert "[bold]x" in printed.getvalue()
    assert "[blink]b" in printed.getvalue()


def test_a_summary_keeps_all_rows_of_a_name(printed: io.StringIO) -> None:
    rows = [[f"layers.{number}", tensor] for number in range(50) for tensor in ("activation", "hidden")]
    terminal.print_table("Ratios", ["site", "tensor"], rows, every_row=False)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("│")]
    assert len(lines) == 12
    assert lines[0].split("│")[1].strip() == lines[1].split("│")[1].strip() == "layer 0"


def test_names_that_are_no_sites_keep_their_prefix(printed: io.StringIO) -> None:
    terminal.print_table("Models", ["model", "ratio"], [["Qwen/Qwen2.5-0.5B", "1%"], ["Qwen/Qwen2.5-1.5B", "2%"]])
    assert "Qwen/Qwen2.5-0.5B" in printed.getvalue()


def test_columns_of_text_are_wrapped(printed: io.StringIO) -> None:
    resize(50)
    terminal.print_table(
        "Studies", ["name", "description"], [["mlp", "Train networks and " * 6]], justify="left", wraps=True
    )
    assert printed.getvalue().count("Train") == 6
    assert all(len(line) <= 50 for line in printed.getvalue().splitlines())


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_of_verdicts_wraps_its_claims_and_leaves_nothing_out(printed: io.StringIO, width: int) -> None:
    resize(width)
    claim = "a claim with many words, " * 8
    verdict = Verdict(claim.strip(), "no", Estimate(0.4, 0.3, 0.45), "the rule", figure="α at equal depth")
    terminal.print_findings(Findings("t", "l", tables=[verdicts_table([verdict])]), every_row=False)
    text = printed.getvalue()
    assert "not shown" not in text
    assert text.count("words,") == 8
    assert "0.4 (0.3 … 0.45)" in " ".join(text.split())
    assert all(len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_of_verdicts_shows_predictions_and_what_bounds_are(printed: io.StringIO, width: int) -> None:
    resize(width)
    estimate = Estimate(0.4, 0.3, 0.45)
    verdicts = [
        Verdict("first", NO, estimate, "the rule", figure="α", predicted=NO),
        Verdict("second", NO, estimate, "the rule", figure="α", bounds="98.3% interval", predicted=YES),
        Verdict("third", NO, estimate, "the rule", figure="α", confirmatory=False),
    ]
    table = verdicts_table(verdicts)
    terminal.print_findings(Findings("t", "l", tables=[table], afterwards=["A later look."]), every_row=False)
    text = " ".join(printed.getvalue().split())
    assert "no (met)" in text
    assert "yes (failed)" in text
    assert "not shown" not in text
    assert [row[-1] for row in table.rows] == [
        "0.4 (0.3 … 0.45)",
        "0.4 (98.3% interval: 0.3 … 0.45)",
        "0.4 (0.3 … 0.45)",
    ]
    assert table.rows[2][1] == ""
    assert "Predictions: 1 met, 1 failed, 0 undecided." in table.reading
    assert "Looked at afterwards • A later look." in text
    assert "predicted" not in verdicts_table(verdicts[2:]).header


def test_numbers_in_names_keep_their_leading_zeros(printed: io.StringIO) -> None:
    rows = [[f"{name}", "1%"] for name in ("block.007", "part.0", "part.1", "e0041")]
    terminal.print_table("Ratios", ["site", "ratio"], rows, every_row=False)
    for name in ("007", "part.0–1", "e0041"):
        assert name in printed.getvalue()
