"""Make zeros where there are none: another activation function, and a fine-tuning with a penalty."""

from actratio.relufication.finetuning import relufy
from actratio.relufication.results import Relufied
from actratio.relufication.schedule import Evaluation, FineTuning

__all__ = ["Evaluation", "FineTuning", "Relufied", "relufy"]
