"""From a recipe to a model: every part is built by its name, with what its context provides."""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
from torch import nn

from mmrobust import contracts, registry
from mmrobust import recipe as recipes
from mmrobust.accel import accelerate
from mmrobust.contracts import Component, Context, Dataset, Noise, Objective, Part, Shape
from mmrobust.contracts.randomness import derive, global_seed
from mmrobust.data import open_dataset
from mmrobust.errors import MmrobustError, OptionError, Problem, RecipeError, nearest
from mmrobust.files import explained, write_atomic
from mmrobust.model.checks import check_settings
from mmrobust.model.learning import Learning, View
from mmrobust.model.model import Model
from mmrobust.nn import attention
from mmrobust.registry.spec import KINDS

if TYPE_CHECKING:
    from mmrobust.recipe import Overrides, Recipe, RecipeLike

C = TypeVar("C")


@dataclass(frozen=True)
class Built:
    """A recipe come to life, for one seed.

    Attributes:
        recipe: What it was built from.
        dataset: The data, opened.
        context: What every component was given.
        model: The parts, wired.
        learning: Views and objectives; used in training only.
        fast: What `accel` has made faster, and what not and why.
    """

    recipe: Recipe
    dataset: Dataset
    context: Context
    model: Model
    learning: Learning
    fast: tuple[str, ...] = ()


def build(
    recipe: RecipeLike,
    overrides: Overrides = (),
    *,
    dataset: Dataset | None = None,
    seed: int | None = None,
) -> Built:
    """Builds the model and the learning of a recipe.

    Weights depend on the seed, the slot and the component alone, so that two recipes which differ in one slot start
    from the same weights in all others. The global random state is left as it was.

    Args:
        recipe: A loaded recipe, a path, the bare name of a shipped one, or a dict.
        overrides: Changes of it: texts `a.b.c=value` and `~a.b.c`, or a dict `{"a.b.c": value}`.
        dataset: The recipe's dataset if it is open already.
        seed: Seed of the weights; None for the recipe's first.

    Raises:
        RecipeError: The recipe is wrong, or a component refuses an option; with the position in the file.
        DataError: The data cannot be read.
        UsageError: The environment asks for what is not there (`MMROBUST_GEMM`).
    """
    loaded = recipes.as_recipe(recipe, overrides)
    if dataset is None:
        dataset = open_data(loaded)
        check_settings(loaded, dataset)
    context = make_context(loaded, dataset)
    weights = derive(loaded.train.seeds[0] if seed is None else seed, "init")
    settings = loaded.model

    def part(slot: str, kind: type[C], context: Context) -> C:
        where = ("model", slot)
        chosen = _with_dropout(kind, getattr(settings, slot), settings.dropout)
        return _make(loaded, where, kind, chosen, context, derive(weights, slot))

    encoder = part("encoder", contracts.Encoder, context)
    _need_modalities(loaded, "encoder", encoder.shapes, context)
    context = replace(context, encoded=encoder.shapes)
    generic = part("generic_extractor", contracts.GenericExtractor, context)
    specific = part("specific_extractor", contracts.SpecificExtractor, context)
    if not generic.shapes and not specific.shapes:
        raise RecipeError(
            Problem(
                "both extractors are 'none', so the fusion would get nothing; make one of them 'identity'",
                loaded.where("model", "specific_extractor"),
            )
        )
    context = replace(context, generic=generic.shapes, specific=specific.shapes)
    fusion = part("fusion", contracts.Fusion, context)
    context = replace(context, fused=fusion.shape, input=fusion.shape, outputs=context.task.outputs)
    head = part("head", contracts.Head, context)
    model = Model(context.modalities, encoder, generic, specific, fusion, head)
    for i, noise in enumerate(loaded.evaluate.noise):  # an impossible evaluation is refused before hours of training
        make_noise(loaded, ("evaluate", "noise", str(i)), noise, context)
    learning = _learning(loaded, context, weights, model)
    device = attention.expected(loaded.train.device, loaded.train.precision).device
    fast = accelerate(model, learning, timed=context.timed, device=device, precision=loaded.train.precision)
    return Built(loaded, dataset, context, model, learning, fast)


def save(built: Built, folder: Path) -> None:
    """Writes `model.safetensors` and `resolved.yaml` into a folder, each whole or not at all.

    Raises:
        WriteError: The folder cannot be written.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in built.model.state_dict().items()}
    write_atomic(folder / "model.safetensors", safetensors.torch.save(state))
    write_atomic(folder / "resolved.yaml", built.recipe.to_yaml())


def open_data(recipe: Recipe) -> Dataset:
    """Opens the data of a recipe.

    Raises:
        RecipeError: The dataset refuses an option; with the position in the file.
        DataError: The data is missing, damaged, hostile, or not what the options say.
    """
    with _placed(recipe, ("data",), "dataset", recipe.data):
        return open_dataset(recipe.data)


def make_context(recipe: Recipe, dataset: Dataset) -> Context:
    """What is given to every component of this recipe on this data.

    Raises:
        RecipeError: `model.modalities` names one that the data does not have, or the attention backend does not
            exist, or cannot run on the device and in the precision of training.
    """
    shapes: Mapping[str, Shape] = dataset.modalities
    names = tuple(recipe.model.modalities or shapes)
    for name in names:
        if name not in shapes:
            problem = f"the data has no modality '{name}'{nearest(name, shapes)}"
            raise RecipeError(Problem(problem, recipe.where("model", "modalities")))
        if not name.isidentifier() or keyword.iskeyword(name) or hasattr(nn.ModuleDict, name):
            raise RecipeError(f"a modality cannot be called '{name}': use letters, digits and '_', e.g. '{name}_m'")
    try:
        attention.check(recipe.model.attention, attention.expected(recipe.train.device, recipe.train.precision))
    except MmrobustError as error:
        raise RecipeError(Problem(str(error), recipe.where("model", "attention"))) from error
    return Context(
        modalities=names,
        task=dataset.task,
        width=recipe.model.width,
        features={m: shapes[m] for m in names},
        samples=len(dataset.splits["train"]),
        aligned=dataset.aligned,
        timed=all(dataset.splits["train"].features[m].times is not None for m in names),
        attention=recipe.model.attention,
        build=part_builder,
    )


def make_noise(recipe: Recipe, where: tuple[str, ...], part: Part[Noise], context: Context) -> Noise:
    """Builds a noise of the recipe.

    Args:
        recipe: Where errors are said to be.
        where: Path of the noise in it.
        part: The noise.
        context: What mmrobust provides.

    Raises:
        RecipeError: The noise refuses an option.
    """
    return _make(recipe, where, Noise, part, context, 0)


def _with_dropout(kind: type[Any], part: Part[Any], dropout: float | None) -> Part[Any]:
    """A part with the dropout of `model.dropout`, where it has that option and leaves it at its default."""
    if dropout is None:
        return part
    option = registry.options_of(registry.catalogue().find(_kind(kind), part.use)).get("dropout")
    if option is None or part.options.get("dropout", option.default) != option.default:
        return part
    return replace(part, options={**part.options, "dropout": dropout})


def _learning(recipe: Recipe, context: Context, weights: int, model: Model) -> Learning:
    views: dict[str, View] = {}
    objectives: dict[str, Objective] = {}
    for name, view in recipe.views.items():
        at = ("learning", "views", name)
        noise = None if view.noise is None else make_noise(recipe, (*at, "noise"), view.noise, context)
        keys = []
        for i, item in enumerate(view.objectives):
            where = (*at, "objectives", str(i))
            key = f"{name}.{item.part.use.rpartition('/')[2]}"
            if key in objectives:
                problem = f"view '{name}' lists the objective '{item.part.use}' twice"
                raise RecipeError(Problem(problem, recipe.where(*where)))
            objective = _make(recipe, where, Objective, item.part, context, derive(weights, key))
            objective.weight = item.weight
            objective.reads = (*objective.reads, *item.reads)
            for read in objective.reads:
                if read not in recipe.views:
                    problem = f"it reads the view '{read}', which is not there{nearest(read, recipe.views)}"
                    raise RecipeError(Problem(problem, recipe.where(*where)))
            _check_notes(recipe, where, item.part.use, objective, model)
            objectives[key] = objective
            keys.append(key)
        views[name] = View(noise, view.rate, tuple(keys))
    return Learning(views, objectives)


def _check_notes(recipe: Recipe, where: tuple[str, ...], use: str, objective: Objective, model: Model) -> None:
    """Refuses an objective that needs a note which no part of the model writes."""
    written = [note for part in model.modules() if isinstance(part, Component) for note in part.writes]
    for note in objective.needs:
        if note not in written:
            have = f"they write {', '.join(repr(other) for other in written)}" if written else "they write none"
            problem = f"objective '{use}' needs the note '{note}' from a part of the model, and {have}"
            raise RecipeError(Problem(problem, recipe.where(*where)))


def _make(recipe: Recipe, where: tuple[str, ...], kind: type[C], part: Part[Any], context: Context, seed: int) -> C:
    """One part of a recipe, with weights from `seed`; what it refuses is reported with the position in the file."""
    with global_seed(seed), _placed(recipe, where, _kind(kind), part):
        return part_builder(kind, part, context)


@contextmanager
def _placed(recipe: Recipe, where: tuple[str, ...], kind: str, part: Part[Any]) -> Iterator[None]:
    """Turns an option that is refused into a problem at its place in the recipe."""
    try:
        yield
    except OptionError as error:
        at = where if error.option == "use" else (*where, error.option)
        what = "" if error.option == "use" else f", option '{error.option}'"
        raise RecipeError(Problem(f"{kind} '{part.use}'{what}: {error.message}", recipe.where(*at))) from error


def _kind(base: type[Any]) -> str:
    return next(kind for kind, name in KINDS.items() if name == base.__name__)


def part_builder(kind: type[Any], part: Part[Any], context: Context) -> Any:
    """Finds a component by its name and builds it: what `Context.build` is.

    Args:
        kind: Base class of its kind.
        part: Its name and options.
        context: What it is given.

    Raises:
        PluginError: There is no such component, or it cannot be imported.
        OptionError: It refuses an option, or does not support this number of modalities.
    """
    catalogue = registry.catalogue()
    cls = catalogue.load(catalogue.find(_kind(kind), part.use))
    if issubclass(cls, Component):
        _check_count(cls, context)
    return cls(context, **part.options)


def _check_count(cls: type[Component], context: Context) -> None:
    count = len(context.modalities)
    if count < cls.minimum:
        raise OptionError("use", f"needs at least {cls.minimum} modalities, and there is {count}")
    if cls.maximum is not None and count > cls.maximum:
        raise OptionError("use", f"supports at most {cls.maximum} modalities, and there are {count}")


def _need_modalities(recipe: Recipe, slot: str, shapes: Mapping[str, Shape], context: Context) -> None:
    if set(shapes) != set(context.modalities):
        raise RecipeError(
            Problem(
                f"{slot} '{getattr(recipe.model, slot).use}' gives streams for {', '.join(shapes)}; "
                f"an encoder keeps the modalities: {', '.join(context.modalities)}",
                recipe.where("model", slot),
            )
        )
