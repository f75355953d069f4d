"""Where a model's MLP activations are; see the README beside this file for why it is done this way."""

from actratio.sites.find import call, choose, evaluating, find_sites, force_eager, trace
from actratio.sites.inputs import device_of
from actratio.sites.site import MEASURED, Group, Role, Site

__all__ = [
    "MEASURED",
    "Group",
    "Role",
    "Site",
    "call",
    "choose",
    "device_of",
    "evaluating",
    "find_sites",
    "force_eager",
    "trace",
]
