"""One decision about a model: keep it dense, or run it in a way that is faster here, with what that costs."""

from actratio.auditing.results import Audit, Gain, Way, Work
from actratio.auditing.trials import audit

__all__ = ["Audit", "Gain", "Way", "Work", "audit"]
