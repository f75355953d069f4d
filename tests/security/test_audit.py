"""``make audit``: what it asks, what it says, and its exit status."""

from __future__ import annotations

from typing import Any

import pytest

from tests import audit
from tests.conftest import ROOT

CLEAN: dict[str, Any] = {"name": "numpy", "version": "2.0", "vulns": []}
FLAWED: dict[str, Any] = {"name": "pillow", "version": "9", "vulns": [{"id": "PYSEC-1", "fix_versions": ["10", "11"]}]}
UNKNOWN: dict[str, Any] = {"name": "ours", "skip_reason": "not found"}


def test_every_constraint_is_asked_about_without_local_versions() -> None:
    text = "# packages\ntorch==2.13.0+cpu\nnumpy==2.0 ; python_version > '3'\n\nrich==15.0.0  # tables\n"
    assert audit.pins(text) == ["torch==2.13.0", "numpy==2.0", "rich==15.0.0"]
    pinned = audit.pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert len(pinned) > 100
    assert any(line.startswith("torch==") for line in pinned)
    assert not any("+" in line for line in pinned)


@pytest.mark.parametrize(
    ("answers", "said", "status"),
    [
        (
            None,
            "nothing was audited: the database of vulnerabilities can't be reached; run 'make audit' where it can",
            0,
        ),
        (
            [UNKNOWN],
            "nothing was audited: the database of vulnerabilities can't be reached; run 'make audit' where it can",
            0,
        ),
        ([CLEAN], "1 packages were audited: no known vulnerabilities", 0),
        ([CLEAN, UNKNOWN], "1 packages were audited: no known vulnerabilities; the database doesn't have ours", 0),
        ([CLEAN, FLAWED], "pillow 9: PYSEC-1, fixed in 10, 11\n2 packages were audited: 1 known vulnerabilities", 1),
    ],
)
def test_what_is_said(answers: list[dict[str, Any]] | None, said: str, status: int) -> None:
    lines, found = audit.report(answers)
    assert ("\n".join(lines), found) == (said, status)


def test_all_packages_are_asked_about_only_if_the_first_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def ask(answer: Any) -> Any:
        return lambda pinned: asked.append(len(pinned)) or answer

    monkeypatch.setattr(audit, "ask", ask([UNKNOWN]))
    assert audit.main() == 0
    assert asked == [1]
    monkeypatch.setattr(audit, "ask", ask([FLAWED]))
    assert audit.main() == 1
    assert len(asked) == 3
    assert asked[-1] > 100
    assert "PYSEC-1" in capsys.readouterr().out


def test_a_tool_that_is_missing_or_fails_is_no_failure() -> None:
    assert audit.ask(["numpy==2.0"]) is None  # pip-audit is not in the environment of the tests
