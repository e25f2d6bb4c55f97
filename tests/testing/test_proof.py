"""Promise: every check of the kit catches a component that is broken in one way, and only its check does.

The broken components stand in `broken/`, a file for each file of `mmrobust/testing/promises`.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from mmrobust import contracts
from mmrobust.registry.spec import KINDS
from mmrobust.testing import Check, Subject, checks_for, run_check, run_checks
from tests.testing.broken import good

HERE = Path(__file__).parent
for file in sorted((HERE / "broken").glob("*.py")):
    importlib.import_module(f"tests.testing.broken.{file.stem}")

CHECKS = {check.name: check for kind in KINDS for check in checks_for(kind)}
GOOD = [cls for name, cls in vars(good).items() if name.startswith("Good")]
#: Whether a component that is broken in another way can be traced takes seconds each, and is tried on demand.
FULL = "MMROBUST_FULL_PROOF" in os.environ


@pytest.mark.parametrize(
    ("kind", "check", "component"), good.BROKEN, ids=[f"{check}-{cls.__name__}" for _, check, cls in good.BROKEN]
)
def test_a_broken_component_fails_its_check_and_no_other(kind: str, check: str, component: type) -> None:
    subject = Subject(kind, component)
    tried = [c for c in checks_for(kind) if FULL or not c.slow or c.name == check]
    failed = [result for result in (run_check(subject, c) for c in tried) if result.state == "failed"]
    assert [result.check.name for result in failed] == [check], "\n\n".join(map(str, failed))
    text = str(failed[0])
    assert failed[0].expected and failed[0].came and failed[0].check.matters and component.__name__ in text, text
    promise = CHECKS[check].promise
    assert promise is None or failed[0].expected.endswith(f"; else declare {promise} = False"), text


@pytest.mark.parametrize("component", GOOD)
def test_what_the_broken_ones_are_derived_from_passes(component: type) -> None:
    kind = next(kind for kind, base in KINDS.items() if issubclass(component, getattr(contracts, base)))
    failed = [str(result) for result in run_checks(kind, component) if result.state in ("failed", "blocked")]
    assert not failed, "\n\n".join(failed)


def test_every_check_has_a_broken_component() -> None:
    assert set(CHECKS) == {check for _, check, _ in good.BROKEN}


def test_every_file_of_promises_has_a_file_of_broken_components() -> None:
    kit = Path(str(contracts.__file__)).parents[1] / "testing" / "promises"
    assert {f.name for f in kit.glob("[!_]*.py")} == {f.name for f in (HERE / "broken").glob("*.py")} - {"good.py"}


def test_every_promise_of_the_contracts_is_checked() -> None:
    """What a component declares as True or False in its class is checked, and so is nothing that it cannot declare."""
    declared = {
        name
        for base in (contracts.Component, contracts.Noise)
        for name, value in vars(base).items()
        if isinstance(value, bool)
    }
    assert declared == {check.promise for check in CHECKS.values() if check.promise is not None}


@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_every_check_says_what_must_hold_and_why_it_matters(check: Check) -> None:
    assert check.what.endswith(".") and len(check.what) < 150
    assert check.matters.endswith((".", ")"))


def test_an_unpromised_check_is_skipped_and_one_that_cannot_run_is_blocked() -> None:
    positionwise, one_sample = CHECKS["check_positionwise"], CHECKS["check_one_sample"]
    skipped = run_check(Subject("encoder", good.GoodEncoder), positionwise)
    assert (skipped.state, skipped.reason) == ("skipped", "it does not promise positionwise")
    refusing = next(cls for _, _, cls in good.BROKEN if cls.__name__ == "RefusesEverything")
    blocked = run_check(Subject("fusion", refusing), one_sample)
    assert (blocked.state, blocked.reason) == ("blocked", "it could not be built, see check_builds")


@pytest.mark.parametrize(
    ("name", "expected", "came"),
    [
        ("NeverCallsTheBaseClass", "super().__init__(context) as the first line of __init__", "AttributeError"),
        ("NoiseWithoutTheBaseClass", "super().__init__(context) as the first line of __init__", "it is never called"),
        ("ReturnsATensor", "'fused' is a Stream", "a Tensor of shape (6, 1, 8); Stream.pooled(x) makes a stream"),
        ("ReturnsTensors", "'speech' is a Stream", "a Tensor of shape (6, 5, 16); Stream.pooled(x) makes a stream"),
        ("DropsAnAxis", "the output has the shape b c", "(6,)"),
    ],
)
def test_common_mistakes_are_explained(name: str, expected: str, came: str) -> None:
    kind, check, cls = next(entry for entry in good.BROKEN if entry[2].__name__ == name)
    result = run_check(Subject(kind, cls), CHECKS[check])
    assert result.expected == expected and result.came.startswith(came), str(result)


def test_an_objective_that_needs_a_note_says_what_to_set_beside_it() -> None:
    class Reader(good.GoodObjective):
        needs = ("attention",)

    result = run_check(Subject("objective", Reader), CHECKS["check_output"])
    assert result.expected == "a part beside it that writes the notes attention: --beside SLOT=NAME, or beside={...}"
