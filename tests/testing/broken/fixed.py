"""A noise that promises `fixed` and breaks it."""

from tests.testing.broken.good import GoodNoise, caught_by


@caught_by("check_fixed")
class SaysThatItIsFixed(GoodNoise):
    fixed = True
