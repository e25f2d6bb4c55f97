"""Promise: no module imports another module's private name, and no package face holds logic."""

from __future__ import annotations

import ast
from pathlib import Path

import mmrobust

PACKAGE = Path(mmrobust.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "templates" not in path.parts)


def test_no_private_name_is_imported_across_modules() -> None:
    imported = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.module}.{alias.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmrobust")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert imported == []


def test_faces_of_these_rooms_hold_names_and_no_logic() -> None:
    for room in ("analysis", "measures", "reports", "studies"):
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
        kinds = {type(node) for node in tree.body[1:]}
        assert kinds <= {ast.ImportFrom, ast.Assign}, room
