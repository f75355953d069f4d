"""The study of activation functions: are GELU's outputs below zero inactive, and does GELU change the activation ratio?"""

from actratio.studies.activation.study import ActivationStudy

__all__ = ["ActivationStudy"]
