"""Studies: one folder each, and one line in ``STUDIES``."""

from actratio.studies.activation import ActivationStudy
from actratio.studies.base import Study
from actratio.studies.features import FeaturesStudy
from actratio.studies.mlp import MlpStudy
from actratio.studies.transformer import TransformerStudy

STUDIES: dict[str, type[Study]] = {
    study.name: study for study in (MlpStudy, TransformerStudy, ActivationStudy, FeaturesStudy)
}
"""Every study by its name; the commands ``actratio study`` and ``actratio report`` know no others."""

__all__ = ["STUDIES", "ActivationStudy", "FeaturesStudy", "MlpStudy", "Study", "TransformerStudy"]
