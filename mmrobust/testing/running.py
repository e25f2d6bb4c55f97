"""Running checks: as pytest cases, and all at once for the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmrobust.contracts import Part
from mmrobust.errors import UsageError, nearest
from mmrobust.registry.spec import KINDS
from mmrobust.testing import datasets, general, noises, parts
from mmrobust.testing.subject import Blocked, Failed, NotApplicable, Subject, told

Check = Callable[[Subject], None]

_GENERAL: list[Check] = [general.check_options, general.check_builds, general.check_random_state]
_TRAINED: list[Check] = [
    parts.check_output,
    parts.check_gradients,
    parts.check_one_sample,
    parts.check_eval_deterministic,
    parts.check_pure,
    parts.check_state,
    parts.check_padding,
    parts.check_missing_modality,
    parts.check_vmappable,
    parts.check_attention,
    parts.check_autocast,
    parts.check_compile,
]
_PART: list[Check] = [*_TRAINED, parts.check_samplewise]
_MODALITIES: list[Check] = [
    parts.check_modality_order,
    parts.check_modality_counts,
    parts.check_unequal_lengths,
    parts.check_unequal_widths,
]
_STEPS: list[Check] = [*_PART, *_MODALITIES, parts.check_positionwise, parts.check_erased_token, parts.check_export]
_SIDES: list[Check] = [parts.check_one_side, parts.check_other_keys, parts.check_pooled]

_CHECKS: dict[str, list[Check]] = {
    "dataset": [
        datasets.check_dataset_splits,
        datasets.check_dataset_shapes,
        datasets.check_dataset_values,
        datasets.check_dataset_labels,
        datasets.check_dataset_ids,
        datasets.check_dataset_repeatable,
        datasets.check_dataset_batches,
        datasets.check_dataset_posterior,
    ],
    "noise": [
        noises.check_noise_batch,
        noises.check_noise_rate_zero,
        noises.check_noise_rate_one,
        noises.check_noise_rate,
        noises.check_noise_rate_range,
        noises.check_noise_input,
        noises.check_noise_generator,
        noises.check_noise_padding,
        noises.check_noise_monotone,
        noises.check_noise_marks,
        noises.check_noise_flags,
        noises.check_noise_scope,
        noises.check_noise_snr,
        noises.check_noise_odd_input,
        noises.check_noise_composition,
        noises.check_modality_order,
        noises.check_modality_counts,
        noises.check_unequal_lengths,
        noises.check_missing_modality,
    ],
    "encoder": _STEPS,
    "generic_extractor": [*_STEPS, parts.check_pooled],
    "specific_extractor": [*_STEPS, parts.check_pooled],
    "fusion": [*_PART, *_MODALITIES, *_SIDES, parts.check_prepared, parts.check_mean_alone, parts.check_export],
    "head": [*_PART, parts.check_mean_alone, parts.check_pooled, parts.check_tasks, parts.check_export],
    "discriminator": [*_PART, parts.check_pooled],
    "objective": [
        *_TRAINED,
        parts.check_objective_loss,
        parts.check_objective_reaches,
        parts.check_objective_update,
        parts.check_objective_lean,
        parts.check_gradient_reversal,
        *_MODALITIES,
        *_SIDES,
        parts.check_tasks,
    ],
}


def checks_for(kind: str) -> list[Check]:
    """The checks of a kind of component, in the order in which they are best read.

    Each is a function that takes a `Subject` and raises `Failed`, or `NotApplicable`; its docstring says what must
    hold and why it matters.

    Raises:
        UsageError: There is no such kind.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
    first = [check for check in _GENERAL if (kind, check) != ("dataset", general.check_random_state)]
    return [*first, *_CHECKS[kind]]


def meaning(check: Check) -> tuple[str, str]:
    """What a check holds, and why it matters to a user."""
    what, _, why = (check.__doc__ or "").partition("\n\n")
    return " ".join(what.split()), " ".join(why.split())


@dataclass(frozen=True)
class Result:
    """What came of one check.

    Attributes:
        component: Kind and name, for people.
        check: Name of the check.
        state: `passed`; `failed`; `expected` to fail, and did; `skipped` where it has nothing to say.
        what: What must hold.
        matters: Why it matters to a user.
        expected: If it failed, what should have been.
        came: If it failed, what was.
        reason: Why it was skipped, or was expected to fail.
        seconds: How long it took.
        error: What was raised, if anything.
    """

    component: str
    check: str
    state: Literal["passed", "failed", "expected", "skipped"]
    what: str
    matters: str
    expected: str = ""
    came: str = ""
    reason: str = ""
    seconds: float = 0.0
    error: BaseException | None = None

    def __str__(self) -> str:
        if self.state != "failed":
            return f"{self.check} {self.state}" + (f": {self.reason}" if self.reason else "")
        return (
            f"{self.check} failed for {self.component}: {self.what}\n"
            f"  expected: {self.expected}\n"
            f"  came:     {self.came}\n"
            f"  matters:  {self.matters}"
        )


def run_check(subject: Subject, check: Check) -> Result:
    """Runs one check; whatever goes wrong is in the result."""
    name = getattr(check, "__name__", str(check))
    what, matters = meaning(check)
    began = time.perf_counter()
    told_of: dict[str, Any] = {}
    try:
        declared = subject.expected_failures.get(name)
    except Exception:  # it cannot be imported, which check_builds tells
        declared = None
    try:
        check(subject)
    except NotApplicable as error:
        told_of = {"state": "skipped", "reason": str(error)}
        if declared is not None and not isinstance(error, Blocked):
            told_of = {"state": "failed", "expected": f"a failure: {declared}", "came": f"it does not apply: {error}"}
    except Exception as error:
        expected, came = (error.expected, error.came) if isinstance(error, Failed) else (what, told(error))
        told_of = {"state": "failed", "expected": expected, "came": came, "error": error}
        if declared is not None:
            told_of |= {"state": "expected", "reason": declared}
    else:
        told_of = {"state": "passed"}
        if declared is not None:
            came = "it passes; take it out of expected_failures"
            told_of = {"state": "failed", "expected": f"a failure: {declared}", "came": came}
    return Result(str(subject), name, what=what, matters=matters, seconds=time.perf_counter() - began, **told_of)


def run_checks(
    kind: str,
    component: str | type,
    /,
    *,
    expected_failures: Mapping[str, str] | None = None,
    beside: Mapping[str, Part[Any]] | None = None,
    told: Callable[[Result], None] | None = None,
    **options: Any,
) -> list[Result]:
    """Runs every check of a component.

    Args:
        kind: Its kind, e.g. `fusion`.
        component: The name it is registered under, or its class.
        expected_failures: Checks that are known to fail, and why; one that passes is a failure.
        beside: For an objective that reads `notes`: the components of other slots that write them.
        told: Called with each result as soon as it is there.
        **options: Its options.

    Raises:
        UsageError: There is no such kind, or no such check among `expected_failures`.
        PluginError: There is no such component.
    """
    subject = Subject(kind, component, expected_failures=expected_failures, beside=beside, options=options)
    assert subject.spec
    check_expected(subject)
    results = []
    for check in checks_for(kind):
        results.append(run_check(subject, check))
        if told is not None:
            told(results[-1])
    return results


def check_expected(subject: Subject) -> None:
    """Refuses expected failures of checks that do not exist.

    Raises:
        UsageError: There is no such check.
    """
    names = [check.__name__ for check in checks_for(subject.kind)]
    try:
        declared = subject.expected_failures
    except Exception:
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
        return f"{self.subject.kind}-{self.subject.name}-{self.check.__name__}"

    def __call__(self, **options: Any) -> None:
        """Runs the check under pytest.

        Raises:
            AssertionError: It failed, or was expected to and did not.
        """
        __tracebackhide__ = True
        import pytest

        subject = self.subject.having(options) if options else self.subject
        check_expected(subject)
        result = run_check(subject, self.check)
        if result.state == "skipped":
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
