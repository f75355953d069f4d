"""The errors that a user's input can cause.

::

    ActratioError
    ├── ArchitectureError   the layer widths are invalid or do not match the data
    ├── CriterionError      the criterion is invalid
    ├── DataError           the data set is missing, damaged or invalid
    ├── FitError            no law can be fitted to the points
    ├── ModelError          the model cannot be loaded
    ├── RunError            the results folder is missing, damaged or has other settings
    ├── SiteError           the model's MLPs, or the ones that were asked for, cannot be found
    └── TrackerError        a training cannot be tracked as asked for

Each message is one sentence: what was given, what is wrong with it, and what to do. The command line prints it and exits
with status 2.
"""

import re

from actratio.unseen import visible


def printable_line(text: str) -> str:
    """Return a text on one line, with what can't be printed escaped."""
    return visible(" ".join(line.strip() for line in text.splitlines()))


class ActratioError(Exception):
    """Base class of all errors of this package. Catch it to catch all of them."""

    def __str__(self) -> str:
        """Return the message on one line, with what can't be printed escaped, whatever names and messages it quotes."""
        return printable_line(super().__str__())


class ArchitectureError(ActratioError):
    """The layer widths are invalid or do not match the data."""


class CriterionError(ActratioError):
    """The criterion is invalid."""


class DataError(ActratioError):
    """The data set is missing, damaged or invalid."""


class FitError(ActratioError):
    """No law can be fitted to the points."""


class ModelError(ActratioError):
    """The model cannot be loaded."""


class RunError(ActratioError):
    """The results folder is missing, damaged or has other settings."""


class SiteError(ActratioError):
    """The model's MLPs, or the ones that were asked for, cannot be found."""


class TrackerError(ActratioError):
    """A training cannot be tracked as asked for."""


def plural(number: int, noun: str) -> str:
    """Return ``1 seed``, ``2 seeds``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def short(value: object, longest: int = 40) -> str:
    """Return ``value`` as text on one line, cut to ``longest`` characters, for an error message."""
    line = " ".join(str(value).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def pip_install(extra: str) -> str:
    """Return the shell command that installs an extra of this package, for an error message."""
    return f'pip install "actratio[{extra}]"'


def short_message(error: BaseException) -> str:
    """Return the first sentence of another library's message, uncut and without its full stop.

    >>> short_message(OSError("No such file. Please check your connection."))
    'No such file'
    """
    line = " ".join(str(error).split())
    return re.split(r"[.!?]+ (?=[A-Z])", line)[0].rstrip(". ") or "no reason given"


def is_panic(error: BaseException) -> bool:
    """Return whether an error is the panic of a library in Rust, which isn't an ``Exception``."""
    return type(error).__name__ == "PanicException"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports missing memory; torch raises a ``RuntimeError`` for a failed allocation."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))
