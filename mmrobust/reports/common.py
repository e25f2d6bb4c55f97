"""What the page of a run and the page of a study share: reading a run's files, numbers as text, writing a page.

A page is one file: nothing on it comes from elsewhere, and it forbids its reader's browser to fetch or to execute
anything but its own small script, which sorts tables and hands out figures. Without that script everything can still
be read. The same files give the same bytes. Whatever a name, a label or a note holds is shown as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mmrobust import files
from mmrobust.errors import MmrobustError
from mmrobust.measures import Measure, describe
from mmrobust.reports.drawing import COLOURS, Drawing, inline
from mmrobust.reports.table import DASH, Table
from mmrobust.training import RunFolder

__all__ = [
    "Figures", "and_listed", "date_text", "describe_any", "environment_rows", "label_of", "listed", "mean_of",
    "p_phrase", "p_text", "rate_text", "read_sealed", "read_text", "score_text", "signed_text", "source_of",
    "template", "value_text", "write_page",
]  # fmt: skip

_HERE = Path(__file__).parent

Figures = dict[str, Drawing]

# Files of a run --------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The text of a file of a run.

    Raises:
        MmrobustError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MmrobustError(f"{path} cannot be read ({error})") from error


def read_sealed(folder: RunFolder, path: Path) -> str:
    """The text of one of a run's files, as it was written.

    Raises:
        DamagedError: It is missing, or is not as it was written.
        ReadError: It cannot be read.
    """
    data = folder.read(path)
    if data is None:
        raise folder.damaged(path, "it is missing")
    return data.decode("utf-8", "replace")


def source_of(folder: RunFolder) -> str:
    """A run as tables name it: the last two folders of its path."""
    path = folder.path.resolve()
    return f"{path.parent.name}/{path.name}"


def describe_any(name: str) -> Measure:
    """A measure that a file names; one that this version does not know is shown by its name."""
    try:
        return describe(name)
    except MmrobustError:
        return Measure(name, name, "higher", False, "")


def label_of(record: Mapping[str, Any], variant: str) -> str:
    """What tables and figures call a variant of a study: its label, or its name."""
    return record["variants"].get(variant, {}).get("label") or variant


def environment_rows(env: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of the table of the environment: key and text."""
    rows = []
    for key, value in env.items():
        if isinstance(value, Mapping):
            value = listed(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, list):
            value = " ".join(str(word) for word in value)
        if value not in (None, ""):
            rows.append((key, str(value)))
    return rows


# Numbers as text -------------------------------------------------------------------------------------------------


def listed(values: Iterable[Any]) -> str:
    """Values side by side: `a, b, c`."""
    return ", ".join(str(value) for value in values)


def date_text(text: str) -> str:
    """A date of ISO 8601 as people write it; any other text as it is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.day} {when:%B %Y, %H:%M}"


def rate_text(rate: float) -> str:
    """A rate of noise with one decimal, or with more where it has more."""
    return f"{rate:.6g}" if round(rate, 1) != rate else f"{rate:.1f}"


def value_text(value: float | None, measure: Measure | None) -> str:
    """A score as tables show it, with a true minus sign; a dash where it is unknown."""
    return DASH if measure is None else measure.show(value).replace("-", "−")


def score_text(score: Mapping[str, Any], measure: Measure) -> dict[str, str]:
    """Mean and standard deviation of a score as tables show them; the latter is empty where it is unknown."""
    std = score.get("std")
    return {"mean": value_text(score["mean"], measure), "std": "" if std is None else value_text(std, measure)}


def signed_text(value: float, measure: Measure) -> str:
    """A difference of scores with its sign."""
    text = value_text(value, measure)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def p_text(value: float) -> str:
    """A p-value with three decimals and without the leading zero."""
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 0.9995 else "1"


def p_phrase(value: float) -> str:
    """A p-value within a sentence: `p = .192`, `p < .001`."""
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def and_listed(values: Iterable[Any]) -> str:
    """Values within a sentence: `a, b and c`."""
    *first, last = [str(value) for value in values] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where there is no value, or one is unknown."""
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None


# Pages -----------------------------------------------------------------------------------------------------------


def template(name: str) -> jinja2.Template:
    """A template of this folder; everything that is put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def write_page(path: Path, name: str, view: Mapping[str, Any], figures: Figures, latex: bool = False) -> Path:
    """Writes `report.html`, its figures and its tables into a folder.

    Args:
        path: The folder.
        name: Of the template.
        view: What the template shows; each of its tables becomes `tables/<name>.tex`.
        figures: By name; each becomes `figures/<name>.svg`.
        latex: Write `figures/<name>.pdf` too, for a paper.
    """
    page = template(name).render(
        view,
        script=_script(),
        inline=lambda name: Markup(inline(figures[name].svg)),
        style=Markup(read_text(_HERE / "style.css")),
    )
    for folder in ("figures", "tables"):
        with files.explained(path / folder):
            (path / folder).mkdir(exist_ok=True)
    for figure, drawing in figures.items():
        files.write_atomic(path / "figures" / f"{figure}.svg", drawing.svg)
        if latex:
            files.write_atomic(path / "figures" / f"{figure}.pdf", drawing.pdf())
    for table in _tables_in(view):
        files.write_atomic(path / "tables" / f"{table.name}.tex", table.latex())
    files.write_atomic(path / "report.html", page)
    return path / "report.html"


def _tables_in(view: Any) -> Iterator[Table]:
    """Every table that a page shows, wherever it stands in what the template is given."""
    if isinstance(view, Table):
        yield view
    elif isinstance(view, Mapping):
        for inner in view.values():
            yield from _tables_in(inner)
    elif isinstance(view, (list, tuple)):
        for inner in view:
            yield from _tables_in(inner)


def _script() -> dict[str, str]:
    """The page's only script, and the hash by which alone a browser runs it."""
    text = read_text(_HERE / "script.js").replace("COLOURS", json.dumps(COLOURS, sort_keys=True))
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"text": Markup(text), "hash": Markup(f"sha256-{digest}")}
