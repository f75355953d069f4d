"""Scaling laws of active neurons against width: estimates, fits, and tables as observations."""
