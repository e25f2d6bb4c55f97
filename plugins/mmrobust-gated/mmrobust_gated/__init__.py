"""A fusion for mmrobust: gated."""
