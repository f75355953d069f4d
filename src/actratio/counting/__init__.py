"""Counting active neurons: criteria, counts, the hooks that feed them, and the measurement that results."""
