"""Finding the places where a model computes MLP activations; the README in this folder says how and why."""

from actratio.sites.find import call, checked_call, evaluating, find_sites, trace
from actratio.sites.inputs import device_of
from actratio.sites.selection import Select, check_select, choose
from actratio.sites.site import MEASURED, Group, Role, Site

__all__ = [
    "MEASURED",
    "Group",
    "Role",
    "Select",
    "Site",
    "call",
    "check_select",
    "checked_call",
    "choose",
    "device_of",
    "evaluating",
    "find_sites",
    "trace",
]
