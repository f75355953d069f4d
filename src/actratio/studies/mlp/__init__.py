"""The study of MLPs: active neurons against width, over training."""
