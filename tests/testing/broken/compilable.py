"""A component that promises `compilable` and breaks it."""

from torch import Tensor

from tests.testing.broken.good import GoodFusion, caught_by


@caught_by("check_compile")
class Prints(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        print(end="")
        return x
