"""What a trained model has learned: similar features, attention, linear probes, worst samples, the gap to the limit."""

from mmrobust.analysis.analysis import Analysis, analyze

__all__ = ["Analysis", "analyze"]
