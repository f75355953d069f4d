"""Watching the activation ratio while a model trains."""

from actratio.tracking.samplers import warn_of_repeats
from actratio.tracking.tracker import DeadNeuronsWarning, Tracker, track

__all__ = ["DeadNeuronsWarning", "Tracker", "track", "warn_of_repeats"]
