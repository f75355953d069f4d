"""The article's networks: plain MLPs, many seeds stacked into one."""

from actratio.nets.architecture import ARTICLE_HIDDEN, Architecture
from actratio.nets.mlp import StackedMLP

__all__ = ["ARTICLE_HIDDEN", "Architecture", "StackedMLP"]
