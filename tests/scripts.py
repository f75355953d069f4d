"""Scripts of users, each in a process of its own that has imported PyTorch and transformers already."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

from tests.blank import blank_figure
from tests.faults.processes import Command


def printed_by(
    script: str, *arguments: object, folder: Path, place: Path, file: str = "script", draws: bool = False
) -> str:
    """Run a script, and return what it prints on stdout; it must end well. Layers are timed for a moment only.

    Args:
        script: Python code.
        arguments: of the command line.
        folder: where it runs.
        place: a folder for the output.
        file: the path of the script, if it is a file; it can import what lies beside it.
        draws: draw the figures that ``actratio`` saves; else they are empty.
    """
    out = place / "stdout"
    ran = Command(partial(_run, script, [file, *map(str, arguments)], folder, out, draws), place / "stderr")
    assert ran.finish() == 0, ran.output
    return out.read_text(encoding="utf-8")


def _run(script: str, arguments: list[str], folder: Path, out: Path, draws: bool) -> None:
    from tests.conftest import SHORT_TIMING

    for name, value in SHORT_TIMING.items():
        place, _, constant = name.rpartition(".")
        setattr(resolve_name(place), constant, value)
    if not draws:
        from actratio.report import static

        static.draw_chart = blank_figure
    sys.path.insert(0, str(Path(arguments[0]).parent))
    os.chdir(folder)
    sys.argv = arguments
    with out.open("w", encoding="utf-8") as opened, contextlib.redirect_stdout(opened):
        exec(compile(script, arguments[0], "exec"), {"__name__": "__main__", "__file__": arguments[0]})
