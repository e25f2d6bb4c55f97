"""A study from beginning to end: created, run, compared, reported; and rendered anew from what it left."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from mmrobust.errors import InterruptedRun, RecipeError, UsageError, WriteError
from mmrobust.studies.cells import run_cells, threads_of
from mmrobust.studies.comparing import conclude
from mmrobust.studies.folder import Study, create, locked, open_study
from mmrobust.studies.foresight import foresee, foresight_text
from mmrobust.studies.paper import check_cited
from mmrobust.training import Job, RunFolder, takes

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["loaded_study", "render", "run_study", "study"]

SEEDS = 5  # of each variant, where neither the study nor its caller says how many


@takes(Job)
def study(job: Job) -> Study:
    """Trains, evaluates and reports every variant of a recipe, some at a time, and compares them in one report.

    Each variant runs in a process of its own, which knows installed plugins and those that the recipe names, but
    nothing that was registered in this session only. Overrides are current before the variants' own.

    Raises:
        RecipeError: The recipe is wrong, or has no variants.
        UsageError: There is no such study to go on with.
        CellsFailedError: Some variants failed; the others are finished and reported.
        InterruptedRun: Ctrl-C; the message says how to go on.
        WriteError: The disk is full, or the like; the message says how to go on.
    """
    return run_study(job).check()


def run_study(job: Job) -> Study:
    """As `study`, but failed variants are named in the result instead of raised."""
    jobs, quiet = job.jobs, job.quiet
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one variant has to run at a time")
    cores = _cores()
    if job.resume is not None:
        if job.recipe is not None or job.overrides or job.seeds is not None:
            raise UsageError("a resumed study has its recipe and seeds already: give --resume STUDY alone")
        current = open_study(job.resume.path if isinstance(job.resume, RunFolder) else job.resume, job.runs)
        jobs = min(jobs or cores, len(current.record["variants"]))
    elif job.recipe is None:
        raise UsageError("name a recipe with variants, or a study to go on with: --resume STUDY")
    else:
        loaded = loaded_study(job)
        check_cited(loaded)
        jobs = min(jobs or cores, len(loaded.variants))
        foresight = foresee(loaded, job.runs)
        if not quiet:
            print(foresight_text(foresight), file=sys.stderr, flush=True)
        current = create(loaded, job.runs, threads_of(cores, jobs), foresight)
    try:
        with locked(current.path, quiet) as lock:
            run_cells(current, jobs, threads_of(cores, jobs), lock, quiet)
            _conclude(current, quiet)
    except WriteError as error:
        raise WriteError(f"{error}\n  what is finished is saved; go on with: {current.go_on}") from error
    return current


def render(
    ref: str | os.PathLike[str], runs: str | os.PathLike[str] = "runs", *, quiet: bool = False, latex: bool = False
) -> Study:
    """Makes the tables and every page of a study anew, from what its variants predicted; nothing is trained.

    Args:
        ref: Its folder, or its name for the latest.
        runs: The folder of all runs.
        quiet: Show no progress.
        latex: Write the figures as PDF too, for a paper.

    Raises:
        UsageError: There is no such study, or none of its variants is finished.
        WriteError: The disk is full, or the like.
    """
    current = open_study(ref, runs)
    with locked(current.path, quiet):
        _conclude(current, quiet, anew=True, latex=latex)
    if not current.record["tables"]:
        raise UsageError(f"no variant of {current.path} is finished yet; go on with: {current.go_on}")
    return current


def _conclude(current: Study, quiet: bool, anew: bool = False, latex: bool = False) -> None:
    try:
        conclude(current, quiet, anew=anew, latex=latex)
    except KeyboardInterrupt as error:
        raise InterruptedRun(
            f"interrupted in the comparison; what was trained is saved; go on with: {current.go_on}"
        ) from error


def loaded_study(job: Job) -> Recipe:
    """The recipe of a job, with variants, and with the seeds of a study.

    Raises:
        RecipeError: The recipe is wrong, or has no variants.
    """
    recipe = job.load()
    if recipe.variants and job.seeds is None and not recipe.own("train", "seeds"):
        recipe = replace(job, seeds=SEEDS).load()
    if not recipe.variants:
        raise RecipeError(
            f"recipe '{recipe.name}' has no variants, and a study compares variants; add a section 'variants', or "
            f"run it alone: mmrobust run"
        )
    folded: dict[str, str] = {}
    for name in recipe.variants:  # each is a folder, and some file systems know no case
        if folded.setdefault(name.lower(), name) != name:
            raise RecipeError(f"variants '{folded[name.lower()]}' and '{name}' differ in case only; rename one")
    return recipe


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
