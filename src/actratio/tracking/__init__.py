"""Watching the activation ratio while a model trains."""

from actratio.tracking.dead import DeadNeuronsWarning
from actratio.tracking.samplers import warn_of_repeats
from actratio.tracking.tracker import Tracker, track

__all__ = ["DeadNeuronsWarning", "Tracker", "track", "warn_of_repeats"]
