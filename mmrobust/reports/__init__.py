"""Reports of runs and studies: one HTML page each that opens from disk alone, and its figures as SVG files."""

from mmrobust.reports.page import report
from mmrobust.reports.study import report_study

__all__ = ["report", "report_study"]
