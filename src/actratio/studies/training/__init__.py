"""The study of training: how the activation ratio changes from the first step on, and what makes it fall."""

from actratio.studies.training.study import TrainingStudy

__all__ = ["TrainingStudy"]
