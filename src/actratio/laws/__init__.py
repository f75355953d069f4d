"""Scaling laws of active neurons against width.

``law`` defines the laws, ``cells`` groups observations, ``least_squares`` fits the laws, ``exponent`` fits α at equal depth,
``fitting`` combines these into ``fit``, ``results`` holds what ``fit`` returns, ``root_rule`` judges √N, and ``observations``
reads tables.
"""
