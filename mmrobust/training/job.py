"""What is asked for: the arguments that training, running and studying a recipe have in common, held once."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from mmrobust import recipe as recipes
from mmrobust.training.folder import RunFolder

if TYPE_CHECKING:
    from mmrobust.recipe import Overrides, Recipe, RecipeLike

__all__ = ["Job", "TrainingJob", "takes"]

P = ParamSpec("P")
J = TypeVar("J", bound="Job")
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """A recipe, or what there is of it already, and how to go about it.

    Attributes:
        recipe: A loaded recipe, a path, the bare name of a shipped one, or a dict; None with `resume`.
        overrides: Changes of it: texts `a.b.c=value` and `~a.b.c`, or a dict `{"a.b.c": value}`; `extends=other` puts
            it on another recipe.
        runs: The folder of all runs.
        seeds: Instead of the recipe's: a number n for 1 to n, or the seeds themselves.
        resume: What to go on with: a run or study, its folder, or a recipe's name for its latest. It ends with the bits
            it would have had; what is finished is left as it is.
        jobs: How many processes work at a time: seeds of a training, variants of a study. None for one for each thread
            that this process has (one on a GPU). The threads are divided among them.
        quiet: Show no progress.
    """

    recipe: RecipeLike | None = None
    overrides: Overrides = ()
    _: KW_ONLY
    runs: str | os.PathLike[str] = "runs"
    seeds: int | Iterable[int] | None = None
    resume: RunFolder | str | os.PathLike[str] | None = None
    jobs: int | None = None
    quiet: bool = False

    def load(self) -> Recipe:
        """The recipe, with its overrides and seeds.

        Raises:
            RecipeError: It is wrong.
            UsageError: It is of a type that cannot be a recipe.
        """
        assert self.recipe is not None
        return recipes.as_recipe(self.recipe, self.overrides, self.seeds)


@dataclass(frozen=True)
class TrainingJob(Job):
    """A job that leaves one run.

    Attributes:
        out: The run's own folder, instead of a new one in `runs`.
        changed_data: Resume although a data file is not the one that the run began on; the run notes it.
    """

    _: KW_ONLY
    out: str | os.PathLike[str] | None = None
    changed_data: bool = False

    def load(self) -> Recipe:
        """See `Job.load`; a study is refused."""
        assert self.recipe is not None
        return recipes.as_single(self.recipe, self.overrides, self.seeds)


def takes(job: Callable[P, J]) -> Callable[[Callable[[J], R]], Callable[P, R]]:
    """Lets a function of a job be called with the job's own arguments: `train("normtr", ["train.lr=1e-3"], seeds=3)`.

    Args:
        job: The class of the job; its arguments are added to the function's docstring.
    """

    def wrap(function: Callable[[J], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                asked = job(*args, **kwargs)
            except TypeError as error:
                name = getattr(job, "__qualname__", "job")
                raise TypeError(str(error).replace(f"{name}.__init__", function.__name__)) from None
            return function(asked)

        del call.__wrapped__  # type: ignore[attr-defined]
        call.__signature__ = inspect.signature(job).replace(  # type: ignore[attr-defined]
            return_annotation=inspect.signature(function).return_annotation
        )
        call.__doc__ = _documented(function.__doc__, job)
        return call

    return wrap


def _documented(doc: str | None, job: Any) -> str | None:
    """A function's docstring with the arguments of its job in it."""
    if doc is None or job.__doc__ is None:  # Python leaves them out with -OO
        return doc
    parts = [inspect.cleandoc(cls.__doc__ or "") for cls in job.__mro__ if issubclass(cls, Job)]
    arguments = "\n".join(part.partition("Attributes:\n")[2].rstrip() for part in reversed(parts))
    before, raises, after = inspect.cleandoc(doc).partition("Raises:\n")
    return f"{before.rstrip()}\n\nArgs:\n{arguments}\n\n{raises}{after}"
