"""Statistics that the laws and the studies share.

``estimate`` holds numbers with intervals, ``verdict`` what an interval says about a claim, ``rules`` how often a rule says so
when the truth is known, ``seeds`` one figure a seed and then Student's t, ``linear_model`` least squares with errors over seeds
and over cells, ``multiple`` Holm's correction, ``meta_analysis`` random effects over tasks, and ``trajectories`` what changes
over training.
"""
