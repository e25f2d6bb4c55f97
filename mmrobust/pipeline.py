"""The main jobs: a recipe, built, trained, evaluated and reported; a trained run, looked into and reported."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from mmrobust import analysis
from mmrobust.errors import InterruptedRun, MmrobustError
from mmrobust.reports import report
from mmrobust.robustness import evaluate
from mmrobust.training import Run, RunFolder, TrainingJob, takes, train_seeds

__all__ = ["Finished", "analyze", "run"]


@dataclass
class Finished:
    """What came of running a recipe.

    Attributes:
        run: The training.
        evaluation: What stands in `evaluation.json`.
        report: The HTML page.
    """

    run: Run
    evaluation: dict[str, Any]
    report: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**self.run.to_dict(), "report": str(self.report), "evaluation": self.evaluation}

    def __str__(self) -> str:
        return f"{self.run}\n\n{self.evaluation}\n\nreport: {self.report}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@takes(TrainingJob)
def run(job: TrainingJob) -> Finished:
    """Builds, trains, evaluates and reports a recipe.

    Raises:
        RecipeError: The recipe is wrong.
        DataError: The data cannot be read.
        DivergedError: Some seeds met a loss that is not finite; the others are trained, evaluated and reported.
        InterruptedRun: Ctrl-C; the message says how to go on.
        WriteError: The disk is full, or the like; the message says how to go on.
    """
    trained = train_seeds(job, verb="run")
    go_on = f"go on with: mmrobust run --resume {shlex.quote(str(trained.folder.path))}"
    try:
        evaluation = evaluate(trained.folder, changed_data=job.changed_data, quiet=job.quiet)
        page = report(trained.folder)
    except KeyboardInterrupt as error:
        raise InterruptedRun(f"interrupted in the evaluation; the training is finished and saved; {go_on}") from error
    except MmrobustError as error:
        error.add(f"the training is finished and saved in {trained.folder.path}; {go_on}")
        raise
    trained.check()
    return Finished(trained, evaluation, page)


def analyze(
    run: str | Path | RunFolder,
    *,
    seed: int | None = None,
    sample: str | None = None,
    rate: float = 0.5,
    against: str | Path | RunFolder | None = None,
    changed_data: bool = False,
    quiet: bool = False,
) -> analysis.Analysis:
    """Looks into a trained model; writes `analysis.json` into its run and adds a section to its report.

    Args:
        run: See `mmrobust.analysis.analyze`, as for all that follow.
        seed: Which of its seeds.
        sample: Whose attention is drawn.
        rate: Of the noise, for what is shown at one rate.
        against: Another run to hold it against.
        changed_data: Go on although a data file is not the one that the run was trained on.
        quiet: Say nothing on stderr.

    Returns:
        What stands in `analysis.json`; its `report` is the page.

    Raises:
        MmrobustError: See `mmrobust.analysis.analyze`.
    """
    folder = RunFolder.open(run)
    result = analysis.analyze(
        folder, seed=seed, sample=sample, rate=rate, against=against, changed_data=changed_data, quiet=quiet
    )
    result.report = report(folder)
    return result
