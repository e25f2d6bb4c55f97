"""Running checks: as pytest cases, and all at once for the command line."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmrobust.contracts import Part
from mmrobust.errors import UsageError, nearest
from mmrobust.testing.check import Check, checks_for
from mmrobust.testing.failures import Blocked, Failed, NotApplicable, explained
from mmrobust.testing.subject import Subject

State = Literal["passed", "failed", "expected", "skipped", "blocked"]


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes:
        component: Kind and name, for people.
        check: The check.
        state: `passed`; `failed`; `expected` to fail, and did; `skipped` where it does not apply; `blocked` where it
            cannot run because a more basic check fails.
        expected: If it failed, what should have been.
        came: If it failed, what was.
        reason: Why it was skipped or blocked, or was expected to fail.
        seconds: How long it took.
        error: What was raised, if anything.
    """

    component: str
    check: Check
    state: State
    expected: str = ""
    came: str = ""
    reason: str = ""
    seconds: float = 0.0
    error: BaseException | None = None

    def __str__(self) -> str:
        if self.state != "failed":
            return f"{self.check.name} {self.state}" + (f": {self.reason}" if self.reason else "")
        return (
            f"{self.check.name} failed for {self.component}: {self.check.what}\n"
            f"  expected: {self.expected}\n"
            f"  came:     {self.came}\n"
            f"  matters:  {self.check.matters}"
        )


def run_check(subject: Subject, check: Check) -> Result:
    """Runs one check; whatever goes wrong is in the result."""
    began = time.perf_counter()
    try:
        declared = subject.expected_failures.get(check.name)
    except Exception:  # it cannot be imported, which check_builds reports
        declared = None
    state: State = "passed"
    expected = came = reason = ""
    error: BaseException | None = None
    try:
        check(subject)
    except Blocked as blocked:
        state, reason = "blocked", str(blocked)
    except NotApplicable as skipped:
        state, reason = "skipped", str(skipped)
    except Exception as failure:
        state, error = "failed", failure
        expected, came = check.what, explained(failure)
        if isinstance(failure, Failed):
            expected, came = failure.expected, failure.came
    if declared is not None and state == "failed":
        state, reason = "expected", declared
    elif declared is not None and state != "blocked":
        came = f"it does not apply: {reason}" if state == "skipped" else "it passes; take it out of expected_failures"
        state, expected = "failed", f"a failure: {declared}"
    return Result(str(subject), check, state, expected, came, reason, time.perf_counter() - began, error)


def run_checks(
    kind: str,
    component: str | type,
    /,
    *,
    expected_failures: Mapping[str, str] | None = None,
    beside: Mapping[str, Part[Any]] | None = None,
    **options: Any,
) -> list[Result]:
    """Runs every check of a component.

    Args:
        kind: Its kind, e.g. `fusion`.
        component: The name it is registered under, or its class.
        expected_failures: Checks that are known to fail, and why; one that passes is a failure.
        beside: For an objective that reads `notes`: the components of other slots that write them.
        **options: Its options.

    Raises:
        UsageError: There is no such kind, or no such check among `expected_failures`.
        PluginError: There is no such component.
    """
    subject = Subject(kind, component, expected_failures=expected_failures, beside=beside, options=options)
    assert subject.spec
    refuse_unknown(subject)
    return [run_check(subject, check) for check in checks_for(kind)]


def refuse_unknown(subject: Subject) -> None:
    """Refuses expected failures of checks that do not exist.

    Raises:
        UsageError: There is no such check.
    """
    names = [check.name for check in checks_for(subject.kind)]
    try:
        declared = subject.expected_failures
    except Exception:  # it cannot be imported, which check_builds reports
        return
    for name in declared:
        if name not in names:
            raise UsageError(f"expected_failures of {subject}: there is no check '{name}'{nearest(name, names)}")


class Case:
    """One check of one component, as a test calls it.

    Call it, with further options where they are known only inside the test: `check(path=tmp_path / "data.npz")`.
    """

    def __init__(self, subject: Subject, check: Check) -> None:
        self.subject = subject
        self.check = check

    def __repr__(self) -> str:
        return f"{self.subject.kind}-{self.subject.name}-{self.check.name}"

    def __call__(self, **options: Any) -> None:
        """Runs the check under pytest.

        Raises:
            AssertionError: It failed, or was expected to and did not.
        """
        __tracebackhide__ = True
        import pytest

        subject = self.subject.having(options) if options else self.subject
        refuse_unknown(subject)
        result = run_check(subject, self.check)
        if result.state in ("skipped", "blocked"):
            pytest.skip(result.reason)
        if result.state == "expected":
            pytest.xfail(result.reason)
        if result.state == "failed":
            # What the component raised, if it did; not how the kit went about it.
            raise AssertionError(str(result)) from (
                result.error.__cause__ if isinstance(result.error, Failed) else result.error
            )


def parametrize_with_checks(
    kind: str | Iterable[Subject],
    component: str | type | None = None,
    /,
    *,
    expected_failures: Mapping[str, str] | None = None,
    beside: Mapping[str, Part[Any]] | None = None,
    **options: Any,
) -> Any:
    """Decorates a test so that it runs once for each check.

    Example:
        >>> @parametrize_with_checks("fusion", "gated", hidden=8)
        ... def test_gated(check):
        ...     check()

    Args:
        kind: The component's kind, e.g. `fusion`; or several `Subject`s.
        component: The name it is registered under, or its class.
        expected_failures: Checks that are known to fail, and why; one that passes is a failure, so that the list stays
            true. A component can carry it itself, as a class attribute `expected_failures`.
        beside: For an objective that reads `notes`: the components of other slots that write them, e.g.
            `{"fusion": Part("translation_chain")}`.
        **options: Its options.
    """
    import pytest

    if isinstance(kind, str):
        if component is None:
            raise UsageError(f"parametrize_with_checks('{kind}', ...) needs the name of a component, or its class")
        subjects = [Subject(kind, component, expected_failures=expected_failures, beside=beside, options=options)]
    else:
        subjects = list(kind)
    cases = [Case(subject, check) for subject in subjects for check in checks_for(subject.kind)]
    return pytest.mark.parametrize("check", cases, ids=[repr(case) for case in cases])
