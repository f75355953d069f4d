"""The study of transformers: activation ratio over depth."""

from actratio.studies.transformer.study import TransformerStudy

__all__ = ["TransformerStudy"]
