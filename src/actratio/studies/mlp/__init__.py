"""The study of MLPs: active neurons against width, over training."""

from actratio.studies.mlp.study import MlpStudy

__all__ = ["MlpStudy"]
