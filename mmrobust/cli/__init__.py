"""The command line: one file for each family of verbs."""

from __future__ import annotations

from mmrobust.cli.entry import main

__all__ = ["main"]
