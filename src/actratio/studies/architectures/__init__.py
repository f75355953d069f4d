"""The study of architectures: does the article's profile carry over to other pretrained models?"""

from actratio.studies.architectures.study import ArchitecturesStudy

__all__ = ["ArchitecturesStudy"]
