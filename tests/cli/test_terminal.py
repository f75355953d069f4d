"""Tables in the terminal: they fit its width, and names stay whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from actratio.cli import terminal
from actratio.report.findings import Findings, verdicts_table
from actratio.statistics.estimate import Estimate
from actratio.statistics.verdict import NO, YES, Verdict


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed, at a width that a test sets with ``resize``."""
    text = io.StringIO()
    monkeypatch.setattr(terminal, "out", Console(file=text, width=80))
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
    assert all(f"{number}.mlp" in text for number in range(4))
    assert all(name in text for name in HEADER)  # as a column, or in the note
    assert ("not shown at this width" in text) == (width < 80)


def test_a_shared_prefix_moves_to_the_title(printed: io.StringIO) -> None:
    terminal.print_table("Ratios", HEADER[:2], [row[:2] for row in ROWS])
    assert "Ratios, in model.layers" in printed.getvalue()
    assert "model.layers.0" not in printed.getvalue()


def test_names_without_a_shared_prefix_stay_whole(printed: io.StringIO) -> None:
    terminal.print_table("Ratios", ["site", "ratio"], [["encoder.0", "1%"], ["decoder.0", "2%"], ["head", "3%"]])
    assert "encoder.0" in printed.getvalue()
    assert ", in" not in printed.getvalue()


def test_a_long_table_is_summarised_on_request(printed: io.StringIO) -> None:
    rows = [[f"layers.{number}", str(number)] for number in range(100)]
    terminal.print_table("Ratios", ["site", "n"], rows, every_row=False)
    text = printed.getvalue()
    assert "20 of 100 rows; --all shows every row" in text
    assert "│ 0 " in text
    assert "│ 99" in text
    terminal.print_table("Ratios", ["site", "n"], rows)
    assert "│ 57" in printed.getvalue()


def test_markup_in_a_name_is_text(printed: io.StringIO) -> None:
    terminal.print_table("[bold]x", ["[red]a"], [["[blink]b"]])
    assert "[bold]x" in printed.getvalue()
    assert "[blink]b" in printed.getvalue()


def test_a_summary_keeps_all_rows_of_a_name(printed: io.StringIO) -> None:
    rows = [[f"layers.{number}", tensor] for number in range(50) for tensor in ("activation", "hidden")]
    terminal.print_table("Ratios", ["site", "tensor"], rows, every_row=False)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("│")]
    assert len(lines) == 20
    assert lines[0].split("│")[1].strip() == lines[1].split("│")[1].strip() == "0"


def test_names_that_are_no_sites_keep_their_prefix(printed: io.StringIO) -> None:
    terminal.print_table("Models", ["model", "ratio"], [["Qwen/Qwen2.5-0.5B", "1%"], ["Qwen/Qwen2.5-1.5B", "2%"]])
    assert "Qwen/Qwen2.5-0.5B" in printed.getvalue()


def test_columns_of_text_are_wrapped(printed: io.StringIO) -> None:
    resize(50)
    terminal.print_table("Studies", ["name", "description"], [["mlp", "Train networks and " * 6]], justify="left")
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
