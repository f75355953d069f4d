"""Findings, and how they are rendered: as figures, as tables and as a self-contained page."""
