"""Rule: a component is built from its context and its typed, documented options, and from nothing else."""

from __future__ import annotations

import random

import numpy as np
import torch

from mmrobust import contracts, registry
from mmrobust.contracts import Component, Noise
from mmrobust.errors import MmrobustError, PluginError
from mmrobust.registry.spec import KINDS
from mmrobust.testing.check import check
from mmrobust.testing.comparing import quiet_random
from mmrobust.testing.failures import Failed
from mmrobust.testing.subject import Subject


@check(object)
def check_options(subject: Subject) -> None:
    """Options are keyword-only arguments of `__init__`, typed, and described in the docstring; there is no **kwargs.

    Recipes are checked against them before anything is imported, and `plugins show` prints them; an option without a
    type is one whose misspelt value fails hours into a run.
    """
    try:
        options = registry.options_of(subject.spec)
    except PluginError as error:
        raise Failed("options that can be read from the source", str(error)) from error
    for name, option in options.items():
        if option.form.kind == "any":
            came = f"'{name}: {option.type}'" if option.type else f"'{name}' without a type"
            raise Failed(
                "a type that recipes understand for each option: int, float, bool, str, Path, Literal, list, tuple, "
                "dict, Part, or a union of them",
                came,
            )
        if not option.doc:
            raise Failed("each option described under `Args:` of the docstring", f"'{name}' is not")
    for name in subject.options:
        if name not in options:
            raise Failed(f"the options of the test among {', '.join(options) or 'none'}", f"'{name}'")


@check(object)
def check_builds(subject: Subject) -> None:
    """It can be built from its context and options alone, and is of its kind.

    Whatever else a component looks for is not there in somebody else's recipe.
    """
    try:
        cls = subject.cls
    except MmrobustError as error:
        raise Failed("a class that can be imported", str(error)) from error
    base = getattr(contracts, KINDS[subject.kind])
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise Failed(f"a subclass of mmrobust.contracts.{base.__name__}", repr(cls))
    subject.build(subject.settled)


@check(Component, Noise)
def check_random_state(subject: Subject) -> None:
    """Building it draws from torch's global random state alone and seeds nothing.

    That state is seeded for each part, so that weights depend on the recipe's seed and on nothing else: a component
    with a seed of its own has the same weights for every seed, and five runs are one. NumPy's and Python's own random
    numbers are not the recipe's.
    """
    first = subject.build(seed=5)
    before = random.getstate(), _numpy_state()
    with quiet_random(5):
        second = subject.cls(subject.context(subject.base), **subject.options)
        if torch.initial_seed() != 5:
            raise Failed("no torch.manual_seed in __init__", f"the global seed is {torch.initial_seed()} afterwards")
    for name, old, new in zip(("Python's", "NumPy's global"), before, (random.getstate(), _numpy_state()), strict=True):
        if old != new:
            raise Failed(f"{name} random state as it was", "it has moved on; draw with torch")
    weights = {} if isinstance(second, Noise) else second.state_dict()
    for name, value in weights.items():
        if not torch.equal(value, first.state_dict()[name]):
            raise Failed("the same weights from the same seed", f"'{name}' differs")


def _numpy_state() -> str:
    return str(np.random.get_state(legacy=False)["state"])  # noqa: NPY002 (it is this very state that is watched)
