"""Studies: one folder each, and one line in ``STUDIES``."""

from actratio.studies.activation import ActivationStudy
from actratio.studies.architectures import ArchitecturesStudy
from actratio.studies.base import Study
from actratio.studies.features import FeaturesStudy
from actratio.studies.mlp import MlpStudy
from actratio.studies.tasks import TasksStudy
from actratio.studies.training import TrainingStudy
from actratio.studies.transformer import TransformerStudy

STUDIES: dict[str, type[Study]] = {
    study.name: study
    for study in (
        MlpStudy,
        TransformerStudy,
        ArchitecturesStudy,
        TrainingStudy,
        ActivationStudy,
        FeaturesStudy,
        TasksStudy,
    )
}
"""Every study by its name; the commands ``actratio study`` and ``actratio report`` know no others."""

__all__ = [
    "STUDIES",
    "ActivationStudy",
    "ArchitecturesStudy",
    "FeaturesStudy",
    "MlpStudy",
    "Study",
    "TasksStudy",
    "TrainingStudy",
    "TransformerStudy",
]
