"""Reads recipes: a file, a shipped one or a dict, with everything it extends, its overrides and its variants."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrobust.errors import Position, RecipeError, UsageError
from mmrobust.recipe import compose
from mmrobust.recipe.checker import Checker
from mmrobust.recipe.compose import Overrides, find
from mmrobust.recipe.document import Node, dump, node_of
from mmrobust.recipe.recipe import Recipe, from_tree, in_order, variant_names


def load(ref: str | os.PathLike[str] | Mapping[str, Any], overrides: Overrides = ()) -> Recipe:
    """Reads a recipe, with everything it extends, and checks it against the installed components.

    Args:
        ref: A file, the bare name of a shipped recipe, or a recipe as a dict, whose paths are meant from the current
            folder.
        overrides: `"a.b.c=value"` or `"~a.b.c"`, one or a list of them, or a dict `{"a.b.c": value}`; applied in
            their order, `extends=other` before all.

    Raises:
        RecipeError: With everything that is wrong, each with file, line and column.
        UsageError: `ref` or `overrides` are of another type.
    """
    path, source, root = _opened(ref)
    root, changes = compose.reparented(root, compose.changes(overrides))
    layers = compose.layers(path, root)
    tree, problems = compose.overridden(compose.merged(layers), changes)
    checker = Checker()
    recipe = from_tree(tree, path, source, checker, None)
    problems += checker.problems
    trees: dict[str, Node] = {}
    whole: dict[str, Recipe] = {}
    for name in variant_names(tree, None):
        trial, variant = Checker(), tree["variants"][name]
        try:
            base = tree if variant.get("extends") is None else compose.foundation(variant, layers, changes)
            trees[name] = compose.varied(base, variant)
            one = from_tree(trees[name], path, source, trial, recipe.name if recipe else None)
            if one is not None and base is not tree:
                whole[name] = one
        except RecipeError as error:
            problems += error.problems
        problems += trial.problems
    if problems or recipe is None:
        raise in_order(problems)
    return replace(
        recipe,
        variant_trees=trees,
        resolved=_standing_alone(recipe, whole),
        files=frozenset(tree.where.file for tree in compose.own_layers(layers)),
    )


#: What people pass where a recipe is wanted.
RecipeLike = Recipe | str | os.PathLike[str] | Mapping[str, Any]


def as_recipe(recipe: RecipeLike, overrides: Overrides = (), seeds: int | Iterable[int] | None = None) -> Recipe:
    """What people pass where a recipe is wanted, as a checked recipe.

    Args:
        recipe: A loaded recipe, or whatever `load` takes.
        overrides: See `load`.
        seeds: Instead of the recipe's: a number n for 1 to n, or the seeds themselves (a list, a range, an array).

    Raises:
        RecipeError: The recipe, an override or a seed is wrong.
        UsageError: One of them is of another type.
    """
    changes = compose.changes(overrides)
    if seeds is not None:
        changes += compose.changes({"train.seeds": seeds if isinstance(seeds, str) else compose.plain(seeds)})
    if not isinstance(recipe, Recipe):
        return load(recipe, changes)
    if not changes:
        return recipe
    return replace(load(recipe.resolved, changes), path=recipe.path, source=recipe.source)


def as_single(recipe: RecipeLike, overrides: Overrides = (), seeds: int | Iterable[int] | None = None) -> Recipe:
    """As `as_recipe`, where one recipe is trained.

    Args:
        recipe: See `as_recipe`.
        overrides: See `as_recipe`.
        seeds: See `as_recipe`.

    Raises:
        UsageError: It is a study.
    """
    loaded = as_recipe(recipe, overrides, seeds)
    if loaded.variants:
        ref = recipe if isinstance(recipe, str) else loaded.path or loaded.name
        raise UsageError(
            f"'{loaded.name}' is a study of {len(loaded.variants)} variants, not one recipe; train and compare them "
            f"with: mmrobust study {shlex.quote(str(ref))}"
        )
    return loaded


def restricted(overrides: Overrides, allowed: Sequence[str], advice: str) -> list[compose.Change]:
    """The overrides, where only some keys may be changed.

    Args:
        overrides: See `load`.
        allowed: Sections and settings, e.g. `evaluate` and `train.device`.
        advice: What may be changed, for the error.

    Raises:
        UsageError: One changes something else.
    """
    changes = compose.changes(overrides)
    for what in changes:
        key = (what.partition("=")[0] if isinstance(what, str) else what[0]).strip().removeprefix("~")
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise UsageError(f"'{what if isinstance(what, str) else key}' changes what was trained; {advice}")
    return changes


def _opened(ref: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[Path | None, str, Node]:
    """A recipe's file, text and tree."""
    if isinstance(ref, Mapping):
        root = compose.rooted(node_of(compose.plain(ref), Position("recipe")))
        return None, dump(root.plain), root
    if not isinstance(ref, str | os.PathLike):
        raise UsageError(f"a recipe is a path, a shipped recipe's name, a dict or a Recipe, not {type(ref).__name__}")
    path = find(ref)
    return path, *compose.read(path)


def _standing_alone(study: Recipe, whole: Mapping[str, Recipe]) -> dict[str, Any]:
    """A study's plain data where variants that extend another recipe say everything themselves."""
    if not whole:
        return study.resolved
    resolved = {**study.resolved, "variants": dict(study.resolved["variants"])}
    for name, variant in whole.items():
        resolved["variants"][name] = ({"label": study.labels[name]} if name in study.labels else {}) | {
            key: value
            for section in ("data", "model", "learning", "train", "evaluate")
            for key, value in ((f"~{section}", None), (section, variant.resolved[section]))
        }
        for key in ("plugins", "needs"):
            if more := [item for item in variant.resolved.get(key, ()) if item not in resolved.get(key, ())]:
                resolved[key] = [*resolved.get(key, ()), *more]
    return resolved
