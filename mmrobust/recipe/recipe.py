"""A recipe that has been checked, and how it comes from a tree."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmrobust.errors import Position, Problem, RecipeError, nearest
from mmrobust.recipe.checker import Checker, check, misnamed
from mmrobust.recipe.document import Node, dump
from mmrobust.recipe.paper import Cited, cited
from mmrobust.recipe.settings import EvaluateSettings, ModelSettings, TrainSettings, View
from mmrobust.registry.spec import Part


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
        labels: What tables and figures call a variant, for those that say `label`.
        paper: Tables of the paper that stand beside the study's own figures.
        tree: What was read, with everything it extends; knows where each value was written.
        variant_trees: The same for each variant.
        files: The study's own files: the one that was given, and those that it extends up to the last with variants.
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
    labels: Mapping[str, str] = field(default_factory=dict)
    paper: tuple[Cited, ...] = ()
    tree: Node | None = field(default=None, repr=False, compare=False)
    variant_trees: Mapping[str, Node] = field(default_factory=dict, repr=False, compare=False)
    files: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def where(self, *keys: str | int) -> Position:
        """Where a value was written, e.g. `where("model", "fusion", "heads")`; the nearest enclosing key otherwise.

        A piece is a key, or a place in a list (`where("learning", "views", "type_1", "objectives", 1)`).
        """
        node = self.tree
        if node is None:
            return Position(str(self.path or self.name))
        position = Position(node.where.file)
        for key in keys:
            if isinstance(node.value, list) and str(key).isdigit() and int(key) < len(node.value):
                node = node.value[int(key)]
            elif isinstance(node.value, dict) and str(key) in node.value:
                node = node.value[str(key)]
            else:
                break
            position = node.key
        return position

    def says(self, *keys: str) -> bool:
        """Whether a value was written, and is no default."""
        node = self.tree
        for key in keys:
            node = None if node is None else node.get(key)
        return node is not None

    def own(self, *keys: str) -> bool:
        """Whether a study's own files or the command line say a value, and not a recipe that the study extends."""
        node = self.tree
        for key in keys:
            node = None if node is None else node.get(key)
        return node is not None and (not node.key.line or node.key.file in self.files)

    def variant(self, name: str) -> Recipe:
        """The recipe with one of its variants' overrides.

        Raises:
            RecipeError: There is no such variant.
        """
        if name not in self.variant_trees:
            raise RecipeError(f"recipe '{self.name}' has no variant '{name}'{nearest(name, self.variants)}")
        checker = Checker()
        recipe = from_tree(self.variant_trees[name], self.path, self.source, checker, self.name)
        if recipe is None:
            raise in_order(checker.problems)
        return recipe

    def changes(self, variant: str) -> Any:
        """What the recipe says of a variant, as it was written."""
        changes = None if self.tree is None else self.tree["variants"][variant].plain
        return {k: v for k, v in changes.items() if k != "label"} if isinstance(changes, dict) else changes

    def to_yaml(self) -> str:
        """The resolved recipe as a file."""
        return dump(self.resolved)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.to_yaml())}</pre>"


def from_tree(tree: Node, path: Path | None, source: str, checker: Checker, name: str | None) -> Recipe | None:
    """Checks a tree.

    Args:
        tree: The recipe, with everything it extends and its overrides.
        path: Its file, if it has one.
        source: The file's text.
        checker: Takes the problems.
        name: The recipe's name, where it is a variant; the file's where None.

    Returns:
        The recipe; None where the checker has problems.
    """
    default = name or (path.stem if path is not None else "recipe")
    fields = check(tree, default, checker)
    variants = tuple(variant_names(tree, checker))
    paper = cited(tree.get("paper"), variants, checker)
    labels = _labels(tree, variants, checker)
    if checker.problems:
        return None
    return Recipe(**fields, path=path, source=source, variants=variants, labels=labels, paper=paper, tree=tree)


def _labels(tree: Node, variants: Sequence[str], checker: Checker) -> dict[str, str]:
    """What tables and figures call the variants that say `label`."""
    labels = {}
    for name in variants:
        variant = tree["variants"][name]
        if isinstance(variant.value, dict) and (label := variant.value.get("label")) is not None:
            if not isinstance(label.value, str) or not label.value.strip():
                checker.report(label.where, f"the label of variant '{name}' has to be text, not {label}")
            else:
                labels[name] = " ".join(label.value.split())
    return labels


def variant_names(tree: Node, checker: Checker | None) -> list[str]:
    """The names of the variants; problems of the section itself go to the checker."""
    node = tree.get("variants")
    if node is None or node.value is None:
        return []
    report = checker.report if checker is not None else lambda where, message: None
    if not isinstance(node.value, dict):
        report(node.where, f"variants has to be a mapping of names to overrides, not {node}")
        return []
    names = []
    for name, variant in node.value.items():
        said = _keys(variant)
        own = [key for key in said if key in ("recipe", "name", "variants", "plugins")]
        if problem := misnamed(name):
            report(variant.key, f"'{name[:60]}' cannot be a variant's name: {problem}")
        elif own:
            report(said[own[0]], f"variant '{name}' cannot change '{own[0]}'")
        elif "extends" in said and not isinstance(variant.value, dict):
            report(said["extends"], f"variant '{name}' extends in a mapping only: {name}: {{extends: ...}}")
        elif variant.value is not None and not isinstance(variant.value, dict | list):
            report(variant.where, f"variant '{name}' has to be a mapping or a list of overrides, not {variant}")
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


def in_order(problems: Sequence[Problem]) -> RecipeError:
    """One error with each problem once, in the order of the files' lines."""

    def order(problem: Problem) -> tuple[bool, str, int, int]:
        at = problem.where
        return (at is None or not at.line, at.file if at else "", at.line if at else 0, at.column if at else 0)

    return RecipeError(sorted(dict.fromkeys(problems), key=order))
