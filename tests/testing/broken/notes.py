"""A part that does not write the notes that it declares."""

from __future__ import annotations

from tests.testing.broken.good import GoodFusion, caught_by


@caught_by("check_notes")
class DeclaresANote(GoodFusion):
    writes = ("attention",)
