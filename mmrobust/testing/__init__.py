"""The conformance kit: what every component has to hold, as checks that a third party runs on its own.

In a test:

    from mmrobust.testing import parametrize_with_checks

    @parametrize_with_checks("fusion", "gated")
    def test_gated(check):
        check()

On the command line: `mmrobust plugins check fusion gated`. Each failure says what was expected, what came, and why it
matters. pytest is needed by `parametrize_with_checks` alone.
"""

from mmrobust.testing.check import Check, checks_for
from mmrobust.testing.failures import Failed, NotApplicable
from mmrobust.testing.running import Case, Result, parametrize_with_checks, run_check, run_checks
from mmrobust.testing.subject import Subject
from mmrobust.testing.surroundings import Surroundings

__all__ = [
    "Case",
    "Check",
    "Failed",
    "NotApplicable",
    "Result",
    "Subject",
    "Surroundings",
    "checks_for",
    "parametrize_with_checks",
    "run_check",
    "run_checks",
]
