"""The words in which a check fails."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Failed(AssertionError):
    """A component breaks a rule.

    Args:
        expected: What should have been.
        came: What was.
    """

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected: {expected}\ncame: {came}")
        self.expected = expected
        self.came = came


class NotApplicable(Exception):
    """A check has nothing to say of this component; the message says why."""


class Blocked(NotApplicable):
    """A check cannot run because a more basic one fails."""


def explained(error: BaseException) -> str:
    """An exception in one line, with the place in the component that it came from."""
    kit = Path(__file__).parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if kit not in Path(frame.filename).parents
        and not any(f"/{package}/" in frame.filename for package in ("torch", "_pytest", "einops"))
    ]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    text = " ".join(str(error).split())
    text = text if len(text) <= 400 else text[:397] + "..."
    return f"{type(error).__name__}: {text}{place}"


@contextmanager
def expecting(expected: str) -> Iterator[None]:
    """Turns whatever is raised inside the block into a failure of what was expected."""
    try:
        yield
    except NotApplicable:
        raise
    except Failed as failed:
        raise Failed(f"{expected}: {failed.expected}", failed.came) from failed
    except Exception as error:
        raise Failed(expected, explained(error)) from error


@contextmanager
def torch_is_quiet() -> Iterator[None]:
    """Keeps torch's log of a failure that the check itself reports off the screen (and out of pytest's report)."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
