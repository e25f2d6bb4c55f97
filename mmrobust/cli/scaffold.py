"""Writes a new distribution for one component: it works as generated, and is there to be changed.

The files stand in `templates/`, those of every kind in `common`, those of one kind in a folder of its name, which win;
`@WORD@` is replaced in them and in their names.
"""

from __future__ import annotations

import keyword
import os
import re
from pathlib import Path

import mmrobust
from mmrobust.errors import UsageError, nearest
from mmrobust.files import explained, staged
from mmrobust.registry.forms import with_article
from mmrobust.registry.spec import KINDS

_TEMPLATES = Path(__file__).parent / "templates"
_COMPONENT = "@PACKAGE@/@NAME@.py"


def write(name: str, kind: str, to: str = "") -> Path:
    """Writes the distribution, whole or not at all.

    Args:
        name: What recipes will call the component: small letters, digits and `_`.
        kind: Its kind.
        to: The new folder; `mmrobust-<name>` below the current one by default.

    Returns:
        The folder.

    Raises:
        UsageError: The kind or the name is not allowed, or the folder exists.
        WriteError: It cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
    files = {**_files("common"), **_files(kind)}
    _check_name(name, files)
    words = _words(name, kind, files[_COMPONENT])
    folder = Path(to or words["DISTRIBUTION"])
    if os.path.lexists(folder):
        raise UsageError(f"'{folder}' exists; choose another place with --to, or remove it")
    with explained(folder), staged(folder) as part:
        for path, text in files.items():
            target = part / _filled(path, words)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(text, words), "utf-8")
    return folder


def commands(folder: Path) -> list[str]:
    """What to type next, from the README of a new distribution."""
    lines = (folder / "README.md").read_text("utf-8").splitlines()
    return [line.strip() for line in lines if line.startswith("    ")]


def _files(of: str) -> dict[str, str]:
    """The templates of one folder by the path that they are written to."""
    folder = _TEMPLATES / of
    paths = sorted(path for path in folder.rglob("*.txt"))
    return {path.relative_to(folder).as_posix().removesuffix(".txt"): path.read_text("utf-8") for path in paths}


def _check_name(name: str, files: dict[str, str]) -> None:
    """Refuses what cannot name a Python module, and what a file of the package is named already.

    Raises:
        UsageError: It cannot; the message proposes another one.
    """

    def taken(name: str) -> bool:
        return keyword.iskeyword(name) or f"@PACKAGE@/{name}.py" in files

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or taken(name):
        better = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789") or "mine"
        better = f"my_{better}" if taken(better) else better
        raise UsageError(f"'{name}' cannot name a new component: use small letters, digits and '_', e.g. '{better}'")


def _words(name: str, kind: str, component: str) -> dict[str, str]:
    """What stands for each `@WORD@`."""
    cls = "".join(piece.capitalize() for piece in name.split("_"))
    if re.search(rf"\b{cls}\b", component):  # it would hide what the component imports
        cls = f"My{cls}"
    first = re.search(r'class @CLASS@\(\w+\):\n    """(.+?)\.\s', component)
    assert first is not None
    major, minor = map(int, mmrobust.__version__.split(".")[:2])
    return {
        "NAME": name,
        "KIND": kind,
        "A_KIND": with_article(kind.replace("_", " ")).capitalize(),
        "CLASS": cls,
        "DISTRIBUTION": "mmrobust-" + name.replace("_", "-").strip("-"),
        "PACKAGE": f"mmrobust_{name}",
        "SUMMARY": first[1][0].lower() + first[1][1:],
        "BOUNDS": f">={major}.{minor},<{major + 1}" if major else f">=0.{minor},<0.{minor + 1}",
    }


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda word: words[word[1]], text)
