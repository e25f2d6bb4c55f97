"""What a study leaves on disk, and who may write there.

`study.json` holds:

    format        1
    mmrobust      version that made it
    name, summary
    command       what was typed
    reference     the variant that the others are compared with: the first
    seeds         that all variants should have, where they agree, or null
    paper         [{table, dataset, rows: {variant: row}}], as in the recipe
    variants      {name: {
        changes     what the recipe says of it
        state       waiting | running | finished | failed | interrupted
        error       last lines of what went wrong, or null
        missing     seeds that were not trained to their end
        parameters  numbers that the model holds (weights and buffers), or null
    }}
    tables        [{                                        empty before the end
        where       "clean", or the name of a noise, of which the AUILC is given
        compared    how many differences were tested together (Holm, 1979)
        notes       why some could not be compared
        rows        {variant: {measure: {
            mean, std, n    over the seeds
            interval        [low, high], 95 % bootstrap interval of the mean over the seeds, or null
            limit           of what can be known at all, where the data knows it, or null
            paper           {value, dataset, table, row} of the NORM-TR paper, or null
            difference      variant - reference over the seeds that both have
            low, high       ends of its 95 % interval
            p               of `mmrobust.robustness.significance`: other samples and other seeds
            p_holm          the same after Holm's correction over the table
            significant     whether that is under 0.05
            p_permutation   of exchanged predictions: other samples, these trained models
            seeds_needed    how many would tell the two apart, four times in five; null for more than 1000
            relative        MultiBench's relative robustness, the area from rate 0 on; this and what follows are null
                            for clean scores, without rate 0, and where nothing can be compared with the reference
            effective       MultiBench's effective robustness, the reference for its baseline: how far the curve,
                            begun at the reference's clean score, runs above the reference's, summed over the rates
            effective_std   over the seeds, the reference's mean curve held fixed
            relative_normalized, effective_normalized
                            the same from 0 for the worst to 1 for the best of these variants
        }}}
    }]
    ranks         {measure: {                               empty where there are fewer than two noises or variants
        over        noises
        mean        {variant: mean rank of its AUILC, 1 for the best}
        p           Friedman's test: whether the ranks differ at all
        critical_difference     how far two mean ranks lie apart that are told from luck (Nemenyi, 5 %)
    }}

Undefined values are null.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmrobust
from mmrobust import files
from mmrobust import recipe as recipes
from mmrobust.errors import CellsFailedError, MmrobustError, UsageError, nearest
from mmrobust.measures import describe
from mmrobust.robustness.sweep import CLEAN
from mmrobust.training import RunFolder
from mmrobust.training.folder import to_json
from mmrobust.training.processes import share

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["Study", "create", "is_study", "locked", "open_study"]

FORMAT = 1
_LOCK_WAIT = 30.0  # seconds that the children of a killed study may take to end


@dataclass
class Study:
    """A study, or as much of it as is done.

    Attributes:
        path: Its folder.
        told: What stands in `study.json`.
    """

    path: Path
    told: dict[str, Any]

    file = property(lambda self: self.path / "study.json")
    report = property(lambda self: self.path / "report.html")

    def run(self, variant: str) -> RunFolder:
        """The run of one variant."""
        return RunFolder(self.path / "variants" / variant)

    @property
    def failed(self) -> dict[str, str]:
        """What each failed cell said, by its name."""
        cells = {}
        for name, found in self.told["variants"].items():
            if found["state"] == "failed":
                cells[name] = found["error"] or "it left no word"
            elif found["missing"]:
                cells[f"{name}, seed {', '.join(map(str, found['missing']))}"] = found["error"] or "not trained"
        return cells

    def check(self) -> Study:
        """The study, if every cell is there.

        Raises:
            CellsFailedError: Some are not.
        """
        if not self.failed:
            return self
        lines = [f"{len(self.failed)} of {len(self.told['variants'])} variants failed"]
        if len(self.failed) < len(self.told["variants"]):
            lines[0] += f"; the others are in {self.report}"
        for name, error in self.failed.items():
            lines += [f"  {name}:", *(f"    {line}" for line in error.splitlines())]
        lines.append(f"  when the cause is gone, go on with: {self.go_on}")
        raise CellsFailedError("\n".join(lines))

    @property
    def go_on(self) -> str:
        """The command that takes it up again."""
        return f"mmrobust study --resume {shlex.quote(str(self.path))}"

    def save(self) -> None:
        """Writes `study.json`."""
        files.write_atomic(self.file, to_json(self.told, indent=1) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"study": str(self.path), "report": str(self.report), **self.told}

    def __str__(self) -> str:
        lines = [f"study: {self.path}"]
        for table in self.told["tables"]:
            names = list(next(iter(table["rows"].values()), {}))[:4]
            head = ["clean" if table["where"] == CLEAN else f"AUILC {table['where']}"]
            rows = [[variant] for variant in table["rows"]]
            for name in names:
                scores = [row.get(name) for row in table["rows"].values()]
                head.append(describe(name).title)
                for row, score in zip(rows, scores, strict=True):
                    row.append(_cell(name, score))
                if cited := [score["paper"] for score in scores if score and score.get("paper")]:
                    head.append(f"(paper, {', '.join(dict.fromkeys(one['dataset'] for one in cited))})")
                    for row, score in zip(rows, scores, strict=True):
                        row.append(_cited(name, score))
            widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
            lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))]
        if self.told["tables"]:
            lines += ["", f"* differs from {self.told['reference']}, Holm's correction over the table, p < 0.05"]
        return "\n".join([*lines, f"report: {self.report}"])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _cell(name: str, score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    show = describe(name).show
    spread = "" if score["std"] is None else f" ± {show(score['std'])}"
    return f"{show(score['mean'])}{spread}{' *' if score['significant'] else ''}"


def _cited(name: str, score: dict[str, Any] | None) -> str:
    return f"({describe(name).show(score['paper']['value'])})" if score and score.get("paper") else ""


def create(recipe: Recipe, runs: str | os.PathLike[str], threads: int) -> Study:
    """Makes the folder of a study with that of every variant; it appears whole or not at all.

    Args:
        recipe: With its variants.
        runs: The folder of all runs.
        threads: Of each variant's process.

    Raises:
        WriteError: It cannot be made.
    """
    started = f"{datetime.now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
    path = Path(runs) / recipe.name / started
    variants = {name: recipe.variant(name) for name in recipe.variants}
    seeds = {tuple(variant.train.seeds) for variant in variants.values()}
    told: dict[str, Any] = {
        "format": FORMAT,
        "mmrobust": mmrobust.__version__,
        "name": recipe.name,
        "summary": recipe.summary,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "reference": recipe.variants[0],
        "seeds": list(seeds.pop()) if len(seeds) == 1 else None,
        "variants": {
            name: {
                "changes": recipe.changes(name),
                "state": "waiting",
                "error": None,
                "missing": [],
                "parameters": None,
            }
            for name in variants
        },
        "paper": [asdict(cited) for cited in recipe.paper],
        "tables": [],
        "ranks": {},
    }
    with files.staged(path) as part:
        (part / "recipe.yaml").write_text(recipe.source, encoding="utf-8")
        (part / "variants").mkdir()
        for name, variant in variants.items():
            own = f"{recipe.name}.{name}"
            summary = f"Variant {name} of the study {recipe.name}"
            resolved = {**variant.resolved, "name": own, "summary": summary}
            whole = replace(variant, name=own, summary=summary, resolved=resolved)
            each = share(len(whole.train.seeds), threads)[1]  # its process divides what it has among its seeds
            RunFolder.create(whole, out=part / "variants" / name, threads=each)
        (part / "study.json").write_text(to_json(told, indent=1) + "\n", encoding="utf-8")
    return Study(path, told)


def is_study(ref: str | os.PathLike[str], runs: str | os.PathLike[str] = "runs") -> bool:
    """Whether a folder holds a study, or the latest run of that name is one."""
    for folder in (Path(ref), Path(runs) / Path(ref)):
        if (folder / "study.json").is_file():
            return True
        inside = [p.name for p in folder.glob("*/") if not p.name.startswith(".")] if folder.is_dir() else []
        if inside:
            return (folder / max(inside) / "study.json").is_file()
    return False


def open_study(ref: str | os.PathLike[str], runs: str | os.PathLike[str]) -> Study:
    """A study by its folder, or the latest of a folder or name.

    Args:
        ref: The folder, or the name.
        runs: The folder of all runs.

    Raises:
        UsageError: There is none.
        MmrobustError: Its `study.json` is damaged, or of another version.
    """
    for folder in (Path(ref), Path(runs) / Path(ref)):
        found = [folder] if (folder / "study.json").is_file() else [p.parent for p in folder.glob("*/study.json")]
        found = [p for p in found if not p.name.startswith(".")]
        if found:
            path = max(found, key=lambda p: p.name)
            break
    else:
        there = Path(runs)
        names = {p.parents[1].name for p in there.glob("*/*/study.json")} if there.is_dir() else set()
        raise UsageError(f"there is no study '{os.fspath(ref)}'{nearest(str(ref), names) or f' in {there}'}")
    try:
        told = json.loads((path / "study.json").read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise MmrobustError(f"{path / 'study.json'} has format {told['format']}; this version reads {FORMAT}")
        if told["reference"] not in told["variants"] or not all(
            recipes.misnamed(name) is None and {"state", "error", "missing", "parameters"} <= found.keys()
            for name, found in told["variants"].items()
        ):
            raise ValueError
        return Study(path, told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MmrobustError(f"{path / 'study.json'} is damaged; start the study anew") from error


@contextlib.contextmanager
def locked(path: Path, quiet: bool) -> Iterator[int | None]:
    """One process at a time in a study. Children hold the lock with it, so that none outlives it unnoticed.

    Args:
        path: The study's folder.
        quiet: Do not tell that another is waited for.

    Yields:
        The lock, for children to hold too; None where there are no locks.

    Raises:
        MmrobustError: Another process stays in it.
    """
    if fcntl is None:
        yield None
        return
    with files.explained(path / ".lock"):
        handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        begin = time.monotonic()
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - begin > _LOCK_WAIT:
                    raise MmrobustError(
                        f"another process is running the study in {path}; wait for it, or stop it"
                    ) from None
                if not quiet:
                    print("waiting for another process to leave the study", file=sys.stderr, flush=True)
                    quiet = True
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield handle
    finally:
        os.close(handle)
