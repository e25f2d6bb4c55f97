"""What a check is, and which ones a component gets: derived from its kind and from the promises that it makes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from mmrobust import contracts
from mmrobust.errors import UsageError, nearest
from mmrobust.registry.spec import KINDS
from mmrobust.testing.subject import Failed, NotApplicable, Subject


@dataclass(frozen=True)
class Check:
    """One rule that components hold. The function's docstring says what must hold, and then why it matters.

    Attributes:
        function: Takes a `Subject`, and raises `Failed`, or `NotApplicable`.
        bases: Base classes of the kinds that it is for.
        promise: The promise that it checks, a class attribute of the component; None for a rule without exceptions.
        slow: It traces the component, which takes seconds.
    """

    function: Callable[[Subject], None]
    bases: tuple[type, ...]
    promise: str | None = None
    slow: bool = False

    @property
    def name(self) -> str:
        """The function's name, which begins with `check_`."""
        return self.function.__name__

    @property
    def what(self) -> str:
        """What must hold."""
        return " ".join((self.function.__doc__ or "").partition("\n\n")[0].split())

    @property
    def matters(self) -> str:
        """Why it matters to a user."""
        return " ".join((self.function.__doc__ or "").partition("\n\n")[2].split())

    def __call__(self, subject: Subject) -> None:
        """Runs the check.

        Raises:
            Failed: The rule does not hold.
            NotApplicable: The component does not make the promise, or there is nothing to check.
        """
        if self.promise is not None and not subject.promises(self.promise):
            raise NotApplicable(f"it does not promise {self.promise}")
        try:
            self.function(subject)
        except Failed as failed:
            if self.promise is None:
                raise
            raise Failed(f"{failed.expected}; else declare {self.promise} = False", failed.came) from failed.__cause__


_CHECKS: list[Check] = []


def check(*bases: type, promise: str | None = None, slow: bool = False) -> Callable[[Callable[[Subject], None]], Check]:
    """Registers a function as a check of every kind whose base class is one of `bases` or below it.

    Args:
        *bases: Classes of `mmrobust.contracts`; `object` for every kind.
        promise: The promise that it checks, if any.
        slow: It traces the component, which takes seconds.
    """

    def register(function: Callable[[Subject], None]) -> Check:
        _CHECKS.append(Check(function, bases, promise, slow))
        return _CHECKS[-1]

    return register


@cache
def checks_for(kind: str) -> tuple[Check, ...]:
    """The checks of a kind of component: the rules first, then the promises that it may make.

    Raises:
        UsageError: There is no such kind.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
    promises = importlib.import_module("mmrobust.testing.promises")
    for module in pkgutil.iter_modules(promises.__path__, f"{promises.__name__}."):
        importlib.import_module(module.name)  # registers what it defines
    base = getattr(contracts, KINDS[kind])
    chosen = [check for check in _CHECKS if issubclass(base, check.bases)]
    return tuple(sorted(chosen, key=lambda check: (check.promise is not None, check.slow)))
