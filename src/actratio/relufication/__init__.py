"""Get exact zeros from models that have none: replace the activation function, and fine-tune with a penalty."""

from actratio.relufication.finetuning import relufy
from actratio.relufication.results import Relufied
from actratio.relufication.schedule import Evaluation, FineTuning

__all__ = ["Evaluation", "FineTuning", "Relufied", "relufy"]
