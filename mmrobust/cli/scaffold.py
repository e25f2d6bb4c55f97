"""Writes a new distribution for one component: it works as generated, and is there to be changed."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from mmrobust.errors import UsageError, nearest
from mmrobust.files import explained
from mmrobust.registry.forms import with_article
from mmrobust.registry.spec import KINDS

_SUMMARIES = {
    "dataset": "two made-up modalities, each of which knows half of the label",
    "noise": "puts random values in place of steps",
    "encoder": "a linear layer and a GELU for each modality",
    "generic_extractor": "one layer that all modalities share",
    "specific_extractor": "one layer for each modality",
    "fusion": "a gate decides how much of each stream is heard",
    "head": "mean over the steps, then two layers",
    "discriminator": "mean over the steps, then two layers",
    "objective": "makes the modalities' generic features agree",
}

_RECIPES = {
    "dataset": "data: {use: @NAME@}\n",
    "noise": "evaluate: {noise: [frame_drop, @NAME@]}\n",
    "discriminator": (
        "learning:\n  views:\n"
        "    type_1: {objectives: [task, {use: modality_adversary, discriminator: @NAME@}]}\n"
        "    type_2: {objectives: [task, {use: noise_adversary, discriminator: @NAME@}]}\n"
    ),
    "objective": (
        "learning:\n  views:\n    type_1:\n      objectives:\n        - task\n"
        "        - {use: modality_adversary, discriminator: {use: linear, pool: mean}}\n"
        "        - {use: @NAME@, weight: 0.1}\n"
    ),
}


def write(name: str, kind: str, to: str = "") -> Path:
    """Writes the distribution.

    Args:
        name: What recipes will call the component: small letters, digits and `_`.
        kind: Its kind.
        to: The new folder; `mmrobust-<name>` below the current one by default.

    Returns:
        The folder.

    Raises:
        UsageError: The kind or the name cannot be, or the folder is there already.
        WriteError: It cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name in ("plugin", "testing"):
        better = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789") or "mine"
        better = f"my_{better}" if keyword.iskeyword(better) or better in ("plugin", "testing") else better
        raise UsageError(f"'{name}' cannot name a new component: use small letters, digits and '_', e.g. '{better}'")
    distribution = "mmrobust-" + name.replace("_", "-").strip("-")
    folder = Path(to or distribution)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"'{folder}' is there already; choose another place with --to, or remove it")
    component = (_templates() / f"{kind}.py.txt").read_text("utf-8")
    words = {
        "NAME": name,
        "KIND": kind,
        "A_KIND": with_article(kind.replace("_", " ")).capitalize(),
        "CLASS": _class(name, component),
        "DISTRIBUTION": distribution,
        "PACKAGE": "mmrobust_" + name,
        "SUMMARY": _SUMMARIES[kind],
        "SMALL": "" if kind == "dataset" else ', ["data.train=64", "data.valid=16", "data.test=16"]',
    }
    package = words["PACKAGE"]
    files = {
        "pyproject.toml": _template("pyproject.toml"),
        "README.md": _template("README.md"),
        f"{package}/__init__.py": f'"""{words["A_KIND"]} for mmrobust: {name}."""\n',
        f"{package}/plugin.py": _template("plugin.py"),
        f"{package}/{name}.py": component,
        f"recipes/{name}.yaml": _recipe(kind),
        f"tests/test_{name}.py": _template("test.py"),
    }
    with explained(folder):
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(re.sub(r"@([A-Z_]+)@", lambda found: words[found[1]], text), "utf-8")
    return folder


def _recipe(kind: str) -> str:
    change = _RECIPES.get(kind, f"model: {{{kind}: @NAME@}}\n")
    return (
        "# NORM-TR with one part exchanged; compare it with: mmrobust run normtr\n"
        "recipe: 1\nname: @NAME@\n"
        f"summary: NORM-TR with the {kind.replace('_', ' ')} @NAME@\nextends: normtr\n\n{change}"
    )


def _class(name: str, component: str) -> str:
    """A class name that does not hide anything the component imports."""
    made = "".join(piece.capitalize() for piece in name.split("_"))
    return f"My{made}" if re.search(rf"\b{made}\b", component) else made


def _templates() -> Path:
    return Path(__file__).parent / "templates"


def _template(name: str) -> str:
    return (_templates() / f"{name}.txt").read_text("utf-8")
