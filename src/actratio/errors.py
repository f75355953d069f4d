"""Every error that a user's input can cause.

::

    ActratioError
    ├── ArchitectureError   a specification of widths that cannot be read or does not fit the data
    ├── CriterionError      a criterion that cannot be read
    ├── DataError           a data set that is missing, damaged or not what it should be
    ├── FitError            points through which no law can be fitted
    ├── ModelError          a model that cannot be loaded
    ├── RunError            a results folder that cannot be used: other settings, damaged, none there
    └── SiteError           a model whose MLPs cannot be found, or not those that were asked for

The message is one sentence that names the input, what is wrong with it and what would be right.
The command line prints it and ends with exit status 2.
"""


class ActratioError(Exception):
    """Root of the tree; catch this one."""


class ArchitectureError(ActratioError):
    """A specification of widths that cannot be read or does not fit the data."""


class CriterionError(ActratioError):
    """A criterion that cannot be read."""


class DataError(ActratioError):
    """A data set that is missing, damaged or not what it should be."""


class FitError(ActratioError):
    """Points through which no law can be fitted."""


class ModelError(ActratioError):
    """A model that cannot be loaded."""


class RunError(ActratioError):
    """A results folder that cannot be used."""


class SiteError(ActratioError):
    """A model whose MLPs cannot be found, or not those that were asked for."""


def short(value: object, longest: int = 40) -> str:
    """``value`` as an error repeats it: on one line, and cut where it is long."""
    line = " ".join(str(value).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
