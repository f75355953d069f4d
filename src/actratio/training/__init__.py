"""Train small MLPs, several seeds at once."""

from actratio.training.architecture import ARTICLE_HIDDEN, Architecture
from actratio.training.recipe import Recipe
from actratio.training.stacked import StackedMLP

__all__ = ["ARTICLE_HIDDEN", "Architecture", "Recipe", "StackedMLP"]
