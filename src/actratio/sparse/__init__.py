"""Skip or remove inactive neurons of a model; the README beside this file says how, and why it is done this way."""

from actratio.sparse.calibration import calibrate
from actratio.sparse.conversion import plans, sparsify
from actratio.sparse.converted import densify
from actratio.sparse.layer_times import ModelTimes
from actratio.sparse.planning import Plan
from actratio.sparse.prediction import check_speed, measure_and_predict_speed, predict_speed
from actratio.sparse.pruning import PrunedMLP, Pruning, measure_and_prune, prune
from actratio.sparse.saved import load_sparse, read_thresholds
from actratio.sparse.speed import LayerSpeed, OtherLayers, Speed, SpeedCheck, SpeedPrediction
from actratio.sparse.thresholds import Calibration, LayerThresholds, SignComparison

__all__ = [
    "Calibration",
    "LayerSpeed",
    "LayerThresholds",
    "ModelTimes",
    "OtherLayers",
    "Plan",
    "PrunedMLP",
    "Pruning",
    "SignComparison",
    "Speed",
    "SpeedCheck",
    "SpeedPrediction",
    "calibrate",
    "check_speed",
    "densify",
    "load_sparse",
    "measure_and_predict_speed",
    "measure_and_prune",
    "plans",
    "predict_speed",
    "prune",
    "read_thresholds",
    "sparsify",
]
