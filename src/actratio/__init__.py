"""actratio: how much of a network's MLP compute is wasted, why, and how to get it back."""

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

__version__ = "0.1.0"

__all__ = [
    "ActratioError",
    "Laws",
    "Measurement",
    "Probe",
    "Site",
    "SiteCounts",
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
]
