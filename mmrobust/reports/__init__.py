"""The report of a run: one HTML page that opens from disk alone, and its figures as SVG files."""

from mmrobust.reports.page import report

__all__ = ["report"]
