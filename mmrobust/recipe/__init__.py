"""Recipes: one YAML file that names components, checked as a whole before anything heavy is imported."""

from __future__ import annotations

from mmrobust.recipe.checker import misnamed
from mmrobust.recipe.compose import Overrides, find, shipped, shipped_folder
from mmrobust.recipe.loading import RecipeLike, as_recipe, as_single, load, restricted
from mmrobust.recipe.paper import Cited
from mmrobust.recipe.recipe import Recipe
from mmrobust.recipe.settings import EvaluateSettings, ModelSettings, TrainSettings, View, Weighted
from mmrobust.registry.spec import Part

__all__ = [
    "Cited",
    "EvaluateSettings",
    "ModelSettings",
    "Overrides",
    "Part",
    "Recipe",
    "RecipeLike",
    "TrainSettings",
    "View",
    "Weighted",
    "as_recipe",
    "as_single",
    "find",
    "load",
    "misnamed",
    "restricted",
    "shipped",
    "shipped_folder",
]
