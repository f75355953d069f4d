"""Scaling laws of active neurons against width.

``law`` defines the laws, ``cells`` groups and resamples observations, ``least_squares`` and ``depth`` fit them, ``fitting``
combines these into ``fit``, ``results`` holds what ``fit`` returns, and ``observations`` reads tables.
"""
