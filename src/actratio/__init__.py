"""actratio: how much of a network's MLP compute is wasted, why, and how to get it back."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actratio.counting.counts import SiteCounts
    from actratio.counting.folder import load
    from actratio.counting.measurement import Measurement
    from actratio.counting.measuring import measure
    from actratio.counting.probe import Probe
    from actratio.errors import ActratioError
    from actratio.laws.fitting import fit
    from actratio.laws.results import Laws
    from actratio.sites import Site, find_sites
    from actratio.sparse import calibrate, densify, predict_speed, prune, sparsify
    from actratio.tracking import Tracker, track

__version__ = "0.1.0"

__all__ = [
    "ActratioError",
    "Laws",
    "Measurement",
    "Probe",
    "Site",
    "SiteCounts",
    "Tracker",
    "__version__",
    "calibrate",
    "densify",
    "find_sites",
    "fit",
    "load",
    "measure",
    "predict_speed",
    "prune",
    "sparsify",
    "track",
]

# A name is imported when it is first used (PEP 562), so that `actratio --help` does not wait for torch.
_MODULES = {
    "ActratioError": "actratio.errors",
    "Laws": "actratio.laws.results",
    "Measurement": "actratio.counting.measurement",
    "Probe": "actratio.counting.probe",
    "Site": "actratio.sites",
    "SiteCounts": "actratio.counting.counts",
    "Tracker": "actratio.tracking",
    "calibrate": "actratio.sparse",
    "densify": "actratio.sparse",
    "find_sites": "actratio.sites",
    "fit": "actratio.laws.fitting",
    "load": "actratio.counting.folder",
    "measure": "actratio.counting.measuring",
    "predict_speed": "actratio.sparse",
    "prune": "actratio.sparse",
    "sparsify": "actratio.sparse",
    "track": "actratio.tracking",
}

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
