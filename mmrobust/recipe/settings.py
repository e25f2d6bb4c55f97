"""What a recipe says, typed. The annotations are read by the checker: they are the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mmrobust.recipe.optimization import OPTIMIZERS, SCHEDULES, AdamW, Clip, Cosine, Optimizer, Schedule, within
from mmrobust.registry.spec import Part

if TYPE_CHECKING:
    from mmrobust.contracts import Encoder, Fusion, GenericExtractor, Head, Noise, Objective, SpecificExtractor

__all__ = ["EvaluateSettings", "ModelSettings", "TrainSettings", "View", "Weighted"]


@dataclass(frozen=True)
class ModelSettings:
    """Section `model`.

    Attributes:
        width: The common width n after the encoder.
        encoder: g.
        generic_extractor: What makes F_NR.
        specific_extractor: What makes F_M.
        fusion: What makes one stream of both.
        head: What makes the prediction.
        attention: Backend of attention, see `mmrobust.nn.attention`.
        dropout: Share dropped in training by every part that has an option `dropout` and leaves it at its default; null
            for each part's own.
        modalities: Which modalities of the data are used, in this order; null for all, in the data's order.
    """

    width: int = field(metadata={"low": 1, "required": True})
    encoder: Part[Encoder]
    generic_extractor: Part[GenericExtractor]
    specific_extractor: Part[SpecificExtractor]
    fusion: Part[Fusion]
    head: Part[Head]
    attention: str = "auto"
    dropout: float | None = within(None, low=0, high=1)
    modalities: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Weighted:
    """One objective of a view.

    Attributes:
        part: The objective.
        weight: Factor of its loss in the sum.
        reads: Names of other views whose outputs it needs, besides those it names itself.
    """

    part: Part[Objective]
    weight: float = 1.0
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """One view of noise-aware learning.

    Attributes:
        noise: What destroys part of the batch; None for a clean view.
        rate: How much, 0 to 1; a pair draws a rate for each sample between its ends.
        objectives: The losses that read this view.
    """

    noise: Part[Noise] | None
    rate: float | tuple[float, float]
    objectives: tuple[Weighted, ...]


@dataclass(frozen=True)
class TrainSettings:
    """Section `train`.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Samples of a batch.
        accumulate: Batches whose gradients, on average, make one step of the optimizer; the last steps of an epoch may
            have fewer. The schedule counts steps.
        lr: Learning rate after the warm-up.
        optimizer: What moves the weights; its own `lr` and `weight_decay` are the same as those here.
        schedule: How the learning rate falls after the warm-up.
        warmup: Share of all steps in which the learning rate rises from 0.
        weight_decay: Pulls matrices towards zero, as the optimizer does it; where it is not given, torch's default
            for the optimizer.
        clip: How the gradient is kept small: the largest norm, or `{by: norm | value, at: ...}`; null for not at all.
        ema: Decay of a moving average of the weights, which is then what is validated, kept and used, e.g. 0.999; null
            for the weights themselves.
        precision: Number format of the model's arithmetic.
        compile: Compile the step's forward pass; takes a minute before the first step.
        graphs: Capture whole steps as CUDA graphs.
        seeds: One training each; a whole number n means 1 to n.
        together: Train several seeds as one stacked model; `auto` does so on a GPU where every part allows it.
        patience: Epochs without a better validation score before training stops; null for never.
        select: The validation measure that chooses the checkpoint; `auto` for the task's own.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        keep: How many of the last checkpoints are kept, besides the best.
    """

    epochs: int = within(30, low=1)
    batch_size: int = within(16, low=1)
    accumulate: int = within(1, low=1)
    lr: float = within(1e-4, above=0)
    optimizer: Optimizer = field(default=AdamW(), metadata={"choices": OPTIMIZERS})
    schedule: Schedule = field(default=Cosine(), metadata={"choices": SCHEDULES})
    warmup: float = within(0.1, low=0, high=1)
    weight_decay: float = within(0.01, low=0)
    clip: Clip | None = field(default=Clip(), metadata={"short": Clip})
    ema: float | None = within(None, low=0, below=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    graphs: bool = False
    seeds: tuple[int, ...] = field(default=(1,), metadata={"low": 0, "high": 2**63 - 1, "count": True})
    together: Literal["auto"] | bool = "auto"
    patience: int | None = within(None, low=1)
    select: str = "auto"
    device: str = "auto"
    keep: int = within(2, low=1)


@dataclass(frozen=True)
class EvaluateSettings:
    """Section `evaluate`.

    Attributes:
        noise: The noises that attack the model, one sweep each.
        rates: The rates of each sweep, rising.
        draws: How often the noise is drawn at each rate.
        measures: The scores to give, `auto` for the data's own; the recipe's key is `metrics`.
        primary: The one measure that conclusions rest on: comparisons are corrected for it, all others are exploratory.
            `auto` for the task's own.
        split: The split that is scored.
        batch_size: Samples of a forward pass.
    """

    noise: tuple[Part[Noise], ...] = (Part("frame_drop"),)
    rates: tuple[float, ...] = field(
        default=(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), metadata={"low": 0, "high": 1, "rising": True}
    )
    draws: int = within(5, low=1)
    measures: Literal["auto"] | tuple[str, ...] = field(default="auto", metadata={"key": "metrics"})
    primary: str = "auto"
    split: str = "test"
    batch_size: int = within(64, low=1)


Views = Mapping[str, View]
