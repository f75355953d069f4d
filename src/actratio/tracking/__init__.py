"""Watching the activation ratio while a model trains."""

from actratio.tracking.tracker import DeadNeuronsWarning, Tracker, track

__all__ = ["DeadNeuronsWarning", "Tracker", "track"]
