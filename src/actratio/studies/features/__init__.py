"""The study of features: whether wide layers run out of features to learn."""

from actratio.studies.features.study import FeaturesStudy

__all__ = ["FeaturesStudy"]
