"""actratio: how much of a network's MLP compute is wasted, why, and how to get it back."""

from actratio.counts import SiteCounts
from actratio.errors import ActratioError
from actratio.laws import Laws, fit
from actratio.measure import measure
from actratio.measurement import Measurement, load
from actratio.probe import Probe
from actratio.sites import Site, find_sites
from actratio.sparse import densify, sparsify

__version__ = "0.1.0"

__all__ = [
    "ActratioError",
    "Laws",
    "Measurement",
    "Probe",
    "Site",
    "SiteCounts",
    "__version__",
    "densify",
    "find_sites",
    "fit",
    "load",
    "measure",
    "sparsify",
]
