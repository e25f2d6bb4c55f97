"""Checks of every kind of component.

The first sentence of each docstring is what must hold; the rest is why it matters to a user.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from mmrobust import contracts, registry
from mmrobust.errors import MmrobustError, PluginError
from mmrobust.registry.spec import KINDS
from mmrobust.testing.subject import Failed, NotApplicable, Subject, quiet_random, told


def check_options(subject: Subject) -> None:
    """Options are keyword-only arguments of `__init__`, each with a type that recipes understand; no **kwargs.

    Recipes are checked against them before anything is imported; an option without a type is one whose misspelt value
    fails hours into a run.
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
    for name in subject.options:
        if name not in options:
            raise Failed(f"the options of the test among {', '.join(options) or 'none'}", f"'{name}'")


def check_builds(subject: Subject) -> None:
    """It can be built from what the house provides, and is of its kind.

    What a component needs arrives through the context and its options; whatever else it looks for is not there in
    somebody else's recipe.
    """
    try:
        cls = subject.cls
    except MmrobustError as error:
        raise Failed("a class that can be imported", str(error)) from error
    base = getattr(contracts, KINDS[subject.kind])
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise Failed(f"a subclass of mmrobust.contracts.{base.__name__}", repr(cls))
    if subject.kind == "dataset":
        try:
            subject.dataset  # noqa: B018
        except Exception as error:
            raise Failed("a dataset that can be opened", told(error)) from error
        return
    built = subject.build(subject.settled)
    if subject.kind == "noise":
        names = getattr(built, "modalities", None)
        if names is None:
            raise Failed("a noise whose __init__ calls super().__init__(context)", "it has no `modalities`")


def check_random_state(subject: Subject) -> None:
    """Building it draws from torch's global state alone and seeds nothing.

    The house seeds that state for each part, so that weights depend on the recipe's seed and on nothing else: a
    component with a seed of its own has the same weights for every seed, and five runs are one. NumPy's and Python's
    own random numbers are not the recipe's.
    """
    if subject.kind == "dataset":
        raise NotApplicable("datasets are told in check_dataset_repeatable")
    module = subject.build(seed=5)
    before = random.getstate(), _numpy_state()
    with quiet_random(5):
        again = subject.cls(subject.context(subject.base), **subject.options)
        if torch.initial_seed() != 5:
            raise Failed("no torch.manual_seed in __init__", f"the global seed is {torch.initial_seed()} afterwards")
    if random.getstate() != before[0]:
        raise Failed("Python's random state as it was", "it has moved on; draw with torch")
    if _numpy_state() != before[1]:
        raise Failed("NumPy's global random state as it was", "it has moved on; draw with torch")
    if subject.kind == "noise":
        return
    one, two = module.state_dict(), again.state_dict()
    for name, value in one.items():
        if name not in two or not torch.equal(value, two[name]):
            raise Failed("the same weights from the same seed", f"'{name}' differs")


def _numpy_state() -> str:
    return str(np.random.get_state(legacy=False)["state"])  # noqa: NPY002 (it is this very state that is watched)
