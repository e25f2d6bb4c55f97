"""What a study leaves on disk, and who may write there.

`study.json` holds:

    format        1
    mmrobust      version that wrote it
    name, summary
    command       what was typed
    reference     the variant that the others are compared with: the first
    primary       the one measure that conclusions rest on; null before the first comparison
    foresight     what difference the seeds can show (see `mmrobust.studies.foresight`)
    seeds         that all variants should have, where they agree, or null
    paper         [{table, dataset, rows: {variant: row}}], as in the recipe
    variants      {name: {
        label       what tables and figures call it, or null for its name
        changes     what the recipe says of it
        state       waiting | running | finished | failed | interrupted
        error       last lines of what went wrong, or null
        missing     seeds that were not trained to their end
        parameters  numbers that the model learns, or null
        macs        multiplications and additions of one sample's forward pass, or null
    }}
    compared      how many differences of the primary measure were corrected together (Holm, 1979), in all tables
    tables        [{                                        empty before the end
        where       "clean", or the name of a noise, of which the AUILC is given
        notes       why some could not be compared
        rows        {variant: {measure: {
            mean, std, n    over the seeds
            interval        [low, high], Student's 95 % interval of the mean over the seeds, or null
            limit           of the best possible prediction, where the data knows it, or null
            paper           {value, dataset, table, row} of the NORM-TR paper, or null
            at_chance       clean scores only: whether it is not better than the constant prediction; null if unknown
            best            whether it is the best of the table, or cannot be told from the best (all pairs, Holm)
            difference      variant - reference over the seeds that both have
            low, high       ends of its 95 % interval
            p               of `mmrobust.robustness.significance`: other samples and other seeds
            p_holm          the same after Holm's correction; null for all but the primary measure
            significant     whether that is under 0.05; never of an exploratory measure
            p_permutation   of exchanged predictions: other samples, these trained models
            seeds_needed    how many would tell the two apart, four times in five; null for more than 1000
            relative        MultiBench's relative robustness, the area from rate 0 on; this and what follows are null
                            for clean scores, without rate 0, for models at chance, and where nothing can be compared
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
        critical_difference     how far two mean ranks have to lie apart to differ by more than luck (Nemenyi, 5 %)
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
from mmrobust.studies.text import tables_text
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
        record: What stands in `study.json`.
    """

    path: Path
    record: dict[str, Any]

    file = property(lambda self: self.path / "study.json")
    report = property(lambda self: self.path / "report.html")

    def run(self, variant: str) -> RunFolder:
        """The run of one variant."""
        return RunFolder(self.path / "variants" / variant)

    @property
    def failed(self) -> dict[str, str]:
        """What each failed cell said, by its name."""
        cells = {}
        for name, variant in self.record["variants"].items():
            if variant["state"] == "failed":
                cells[name] = variant["error"] or "it left no message"
            elif variant["missing"]:
                cells[f"{name}, seed {', '.join(map(str, variant['missing']))}"] = variant["error"] or "not trained"
        return cells

    def check(self) -> Study:
        """The study, if every cell is there.

        Raises:
            CellsFailedError: Some are not.
        """
        if not self.failed:
            return self
        lines = [f"{len(self.failed)} of {len(self.record['variants'])} variants failed"]
        if len(self.failed) < len(self.record["variants"]):
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
        files.write_atomic(self.file, to_json(self.record, indent=1) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"study": str(self.path), "report": str(self.report), **self.record}

    def __str__(self) -> str:
        return "\n".join([f"study: {self.path}", *tables_text(self.record), f"report: {self.report}"])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def create(recipe: Recipe, runs: str | os.PathLike[str], threads: int, foresight: dict[str, Any]) -> Study:
    """Makes the folder of a study with that of every variant; it appears whole or not at all.

    Args:
        recipe: With its variants.
        runs: The folder of all runs.
        threads: Of each variant's process.
        foresight: What difference the study can show (see `mmrobust.studies.foresight`).

    Raises:
        WriteError: It cannot be made.
    """
    started = f"{datetime.now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
    path = Path(runs) / recipe.name / started
    variants = {name: recipe.variant(name) for name in recipe.variants}
    seeds = {tuple(variant.train.seeds) for variant in variants.values()}
    record: dict[str, Any] = {
        "format": FORMAT,
        "mmrobust": mmrobust.__version__,
        "name": recipe.name,
        "summary": recipe.summary,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "reference": recipe.variants[0],
        "primary": None,
        "foresight": foresight,
        "seeds": list(seeds.pop()) if len(seeds) == 1 else None,
        "variants": {
            name: {
                "label": recipe.labels.get(name),
                "changes": recipe.changes(name),
                "state": "waiting",
                "error": None,
                "missing": [],
                "parameters": None,
                "macs": None,
            }
            for name in variants
        },
        "paper": [asdict(cited) for cited in recipe.paper],
        "compared": 0,
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
        (part / "study.json").write_text(to_json(record, indent=1) + "\n", encoding="utf-8")
    return Study(path, record)


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
        paths = [folder] if (folder / "study.json").is_file() else [p.parent for p in folder.glob("*/study.json")]
        paths = [p for p in paths if not p.name.startswith(".")]
        if paths:
            path = max(paths, key=lambda p: p.name)
            break
    else:
        there = Path(runs)
        names = {p.parents[1].name for p in there.glob("*/*/study.json")} if there.is_dir() else set()
        raise UsageError(f"there is no study '{os.fspath(ref)}'{nearest(str(ref), names) or f' in {there}'}")
    try:
        record = json.loads((path / "study.json").read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise MmrobustError(f"{path / 'study.json'} has format {record['format']}; this version reads {FORMAT}")
        if record["reference"] not in record["variants"] or not all(
            recipes.misnamed(name) is None and {"state", "error", "missing", "parameters"} <= variant.keys()
            for name, variant in record["variants"].items()
        ):
            raise ValueError
        return Study(path, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MmrobustError(f"{path / 'study.json'} is damaged; start the study anew") from error


@contextlib.contextmanager
def locked(path: Path, quiet: bool) -> Iterator[int | None]:
    """One process at a time in a study. Children hold the lock with it, so that none outlives it unnoticed.

    Args:
        path: The study's folder.
        quiet: Do not say that another process is waited for.

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
