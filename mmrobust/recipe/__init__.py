"""Recipes: one YAML file that names components, checked as a whole before anything heavy is imported."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmrobust.errors import MmrobustError, Position, Problem, RecipeError, nearest
from mmrobust.recipe import compose
from mmrobust.recipe.check import NAME, Checker, check
from mmrobust.recipe.compose import find, shipped, shipped_folder
from mmrobust.recipe.document import Node, dump
from mmrobust.recipe.paper import Cited, cited
from mmrobust.recipe.settings import EvaluateSettings, ModelSettings, TrainSettings, View, Weighted
from mmrobust.registry.spec import Part

__all__ = [
    "Cited",
    "EvaluateSettings",
    "ModelSettings",
    "Part",
    "Recipe",
    "TrainSettings",
    "View",
    "Weighted",
    "find",
    "load",
    "shipped",
    "shipped_folder",
]


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been checked.

    Attributes:
        name: Names the folder of its runs.
        summary: One line.
        data: The dataset.
        model: The parts and widths.
        views: Noise-aware learning, by name.
        train: How it is trained.
        evaluate: How it is attacked and scored.
        plugins: Files that were loaded for it.
        path: The file, if it has one.
        source: The file's text as written.
        resolved: Everything it says, defaults filled in, as plain data; alone enough to run again.
        variants: Names of the variants of a study, in their order.
        paper: Tables of the paper that stand beside the study's own figures.
        tree: What was read, with everything it extends; knows where each value was written.
        variant_trees: The same for each variant.
    """

    name: str
    summary: str
    data: Part[Any]
    model: ModelSettings
    views: Mapping[str, View]
    train: TrainSettings
    evaluate: EvaluateSettings
    plugins: tuple[Path, ...]
    path: Path | None
    source: str
    resolved: dict[str, Any] = field(repr=False)
    variants: tuple[str, ...] = ()
    paper: tuple[Cited, ...] = ()
    tree: Node | None = field(default=None, repr=False, compare=False)
    variant_trees: Mapping[str, Node] = field(default_factory=dict, repr=False, compare=False)

    def where(self, *keys: str | int) -> Position:
        """Where a value was written, e.g. `where("model", "fusion", "heads")`; the nearest enclosing key otherwise.

        A piece is a key, or a place in a list (`where("learning", "views", "type_1", "objectives", 1)`).
        """
        node = self.tree
        if node is None:
            return Position(str(self.path or self.name))
        found = Position(node.where.file)
        for key in keys:
            if isinstance(node.value, list) and str(key).isdigit() and int(key) < len(node.value):
                node = node.value[int(key)]
            elif isinstance(node.value, dict) and str(key) in node.value:
                node = node.value[str(key)]
            else:
                break
            found = node.key
        return found

    def variant(self, name: str) -> Recipe:
        """The recipe with one of its variants' overrides.

        Raises:
            RecipeError: There is no such variant.
        """
        if name not in self.variant_trees:
            raise RecipeError(f"recipe '{self.name}' has no variant '{name}'{nearest(name, self.variants)}")
        checker = Checker()
        made = _make(self.variant_trees[name], self.path, self.source, checker, self.name)
        if made is None:
            raise _all(checker.problems)
        return made

    def changes(self, variant: str) -> Any:
        """What the recipe says of a variant, as it was written."""
        return None if self.tree is None else self.tree["variants"][variant].plain

    def to_yaml(self) -> str:
        """The resolved recipe as a file."""
        return dump(self.resolved)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.to_yaml())}</pre>"


def load(ref: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, with everything it extends, and checks it against the installed components.

    Args:
        ref: A file, or the bare name of a shipped recipe.
        overrides: `a.b.c=value` or `~a.b.c`, applied in their order; `extends=other` before all.

    Raises:
        RecipeError: With everything that is wrong, each with file, line and column.
    """
    path = find(ref)
    source, root = compose.read(path)
    root, overrides = compose.reparented(root, overrides)
    layers = compose.layers(path, root)
    tree, problems = compose.overridden(compose.merged(layers), overrides)
    checker = Checker()
    recipe = _make(tree, path, source, checker, None)
    problems += checker.problems
    trees: dict[str, Node] = {}
    whole: dict[str, Recipe] = {}
    for name in _variants(tree, checker=None):
        trial, variant = Checker(), tree["variants"][name]
        try:
            base = tree if variant.get("extends") is None else compose.foundation(variant, layers, overrides)
            trees[name] = compose.varied(base, variant)
            made = _make(trees[name], path, source, trial, recipe.name if recipe else None)
            if made is not None and base is not tree:
                whole[name] = made
        except RecipeError as error:
            problems += error.problems
        problems += trial.problems
    if problems or recipe is None:
        raise _all(problems)
    return replace(recipe, variant_trees=trees, resolved=_standing_alone(recipe.resolved, whole))


def _standing_alone(resolved: dict[str, Any], whole: Mapping[str, Recipe]) -> dict[str, Any]:
    """A study's plain data where variants that extend another recipe say everything themselves."""
    if not whole:
        return resolved
    resolved = {**resolved, "variants": dict(resolved["variants"])}
    for name, made in whole.items():
        resolved["variants"][name] = {
            key: value
            for section in ("data", "model", "learning", "train", "evaluate")
            for key, value in ((f"~{section}", None), (section, made.resolved[section]))
        }
        for key in ("plugins", "needs"):
            if more := [item for item in made.resolved.get(key, ()) if item not in resolved.get(key, ())]:
                resolved[key] = [*resolved.get(key, ()), *more]
    return resolved


def _make(tree: Node, path: Path | None, source: str, checker: Checker, name: str | None) -> Recipe | None:
    default = name or (path.stem if path is not None else "recipe")
    found = check(tree, default, checker)
    variants = tuple(_variants(tree, checker))
    paper = cited(tree.get("paper"), variants, checker)
    if checker.problems:
        return None
    return Recipe(**found, path=path, source=source, variants=variants, paper=paper, tree=tree)


def _variants(tree: Node, checker: Checker | None) -> list[str]:
    """The names of the variants; what is wrong with the section itself is told to the checker."""
    node = tree.get("variants")
    if node is None or node.value is None:
        return []
    tell = checker.tell if checker is not None else lambda where, message: None
    if not isinstance(node.value, dict):
        tell(node.where, f"variants has to be a mapping of names to overrides, not {node}")
        return []
    names = []
    for name, variant in node.value.items():
        said = _keys(variant)
        own = [key for key in said if key in ("recipe", "name", "variants", "plugins")]
        if not NAME.fullmatch(name):
            tell(variant.key, f"'{name}' cannot be a variant's name: use letters, digits, '.', '_' and '-'")
        elif own:
            tell(said[own[0]], f"variant '{name}' cannot change '{own[0]}'")
        elif "extends" in said and not isinstance(variant.value, dict):
            tell(said["extends"], f"variant '{name}' extends in a mapping only: {name}: {{extends: ...}}")
        elif variant.value is not None and not isinstance(variant.value, dict | list):
            tell(variant.where, f"variant '{name}' has to be a mapping or a list of overrides, not {variant}")
        else:
            names.append(name)
    return names


def _keys(variant: Node) -> dict[str, Position]:
    """The sections that a variant changes, and where it says so."""
    if isinstance(variant.value, dict):
        said = [(key, node.key) for key, node in variant.value.items()]
    else:
        items = variant.value if isinstance(variant.value, list) else []
        said = [(item.value.partition("=")[0], item.where) for item in items if isinstance(item.value, str)]
    return {key.strip().removeprefix("~").split(".")[0]: where for key, where in reversed(said)}


def _all(problems: Sequence[Problem]) -> RecipeError:
    """One error with each problem once, in the order of the files' lines."""

    def order(problem: Problem) -> tuple[bool, str, int, int]:
        at = problem.where
        return (at is None or not at.line, at.file if at else "", at.line if at else 0, at.column if at else 0)

    return RecipeError(sorted(dict.fromkeys(problems), key=order))


__all__ += ["MmrobustError"]
