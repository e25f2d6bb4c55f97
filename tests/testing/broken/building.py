"""Components that cannot be built as recipes build them."""

import numpy as np
import torch
from torch import nn

from mmrobust.contracts import Context, Fusion
from mmrobust.errors import OptionError
from tests.testing.broken.good import GoodData, GoodFusion, GoodNoise, caught_by


@caught_by("check_options")
class UntypedOption(GoodFusion):
    """One option has no type.

    Args:
        context: The context.
        depth: How deep.
    """

    def __init__(self, context: Context, *, depth=2) -> None:
        super().__init__(context)


@caught_by("check_options")
class UndocumentedOption(GoodFusion):
    def __init__(self, context: Context, *, depth: int = 2) -> None:
        super().__init__(context)


@caught_by("check_options")
class AnyOptions(GoodFusion):
    def __init__(self, context: Context, **options: int) -> None:
        super().__init__(context)


@caught_by("check_options")
class OptionByPosition(GoodFusion):
    def __init__(self, context: Context, depth: int = 2) -> None:
        super().__init__(context)


@caught_by("check_builds")
class KnowsItsModalities(GoodFusion):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.width = context.generic["text"].width


@caught_by("check_builds")
class RefusesEverything(GoodFusion):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        raise OptionError("use", "this one refuses everything")


@caught_by("check_builds")
class NeverCallsTheBaseClass(Fusion):
    def __init__(self, context: Context) -> None:
        self.linear = nn.Linear(8, 8)


@caught_by("check_builds")
class NoiseWithoutTheBaseClass(GoodNoise):
    def __init__(self, context: Context) -> None:
        self.scale = 2.0


@caught_by("check_builds", kind="fusion")
class NoFusion(nn.Module):
    pass


@caught_by("check_random_state")
class SeedsItself(GoodFusion):
    def __init__(self, context: Context) -> None:
        torch.manual_seed(0)
        super().__init__(context)


@caught_by("check_random_state")
class DrawsWithNumPy(GoodFusion):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        with torch.no_grad():
            next(self.parameters())[0, 0] = float(np.random.rand())  # noqa: NPY002


@caught_by("check_builds")
class CannotBeOpened(GoodData):
    def change(self) -> None:
        raise FileNotFoundError("no such file")
