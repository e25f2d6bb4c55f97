"""Promise: what `accel` exchanges gives the values and gradients of the plain form, and what it cannot do it leaves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmrobust.accel import accelerate
from mmrobust.accel.token_cache import TokenCache, obstacle
from mmrobust.accel.views import why_not_cached
from mmrobust.components.adversary import ModalityAdversary, NoiseAdversary
from mmrobust.components.discriminator import Linear as Discriminator
from mmrobust.components.encoder import Linear
from mmrobust.components.fusion import Concat, CrossAttention
from mmrobust.components.generic_extractor import Identity, SharedMLP
from mmrobust.components.head import MeanPoolLinear
from mmrobust.components.noise import FrameDrop, WindowErase
from mmrobust.components.objective import TaskLoss
from mmrobust.components.specific_extractor import PerModalityMLP
from mmrobust.contracts import (
    Batch,
    Context,
    Encoder,
    Fusion,
    GenericExtractor,
    Noise,
    Part,
    Progress,
    Rate,
    Shape,
    Stream,
    Streams,
    Task,
)
from mmrobust.contracts.randomness import generator
from mmrobust.model.assemble import part_builder
from mmrobust.model.learning import Learning, View
from mmrobust.model.model import Model
from mmrobust.nn.attention import use_attention

NAMES = ("text", "audio", "vision", "face")
PROGRESS = Progress(0, torch.tensor(0.5))


class Quadratic(GenericExtractor):
    """As a third party would write one that looks at each step alone, and is far from zero at an erased step."""

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.layers = nn.ModuleDict({m: nn.Linear(s.width, s.width) for m, s in context.encoded.items()})
        self.shapes = dict(context.encoded)

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: s.map(lambda x, m=m: self.layers[m](x).cos() + x.square()) for m, s in streams.items()}


class Centred(Concat):
    """A fusion that looks across samples, so that views may not share a pass."""

    samplewise = False

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        return super().forward(generic, specific, notes).map(lambda x: x - x.mean(0))


def context_of(lengths: Sequence[int]) -> Context:
    shapes = {m: Shape(3 + 2 * i, t) for i, (m, t) in enumerate(zip(NAMES, lengths, strict=False))}
    task = Task("regression", 1, "mosi", -3, 3)
    return Context(tuple(shapes), task, 32, shapes, samples=9, build=part_builder)


def made(
    context: Context,
    encoder: type[Encoder] = Linear,
    generic: type[GenericExtractor] = SharedMLP,
    fusion: type[Fusion] = CrossAttention,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Model, Context]:
    """NORM-TR, or what is left of it."""
    torch.manual_seed(0)
    first = encoder(context)
    context = replace(context, encoded=first.shapes)
    told = {"dropout": dropout} if dropout else {}
    second = generic(context, **told)
    third = PerModalityMLP(context, out=next(iter(second.shapes.values())).width)
    context = replace(context, generic=second.shapes, specific=third.shapes)
    if fusion is CrossAttention:
        options.setdefault("heads", 2)
    fourth = fusion(context, **options)
    context = replace(context, fused=fourth.shape, input=fourth.shape, outputs=1)
    return Model(context.modalities, first, second, third, fourth, MeanPoolLinear(context)), context


def learning_of(context: Context, views: dict[str, View]) -> Learning:
    pool = Part("linear", {"pool": "mean"})
    objectives: dict[str, Any] = {f"{name}.task": TaskLoss(context) for name in views}
    objectives["type_2.noise"] = NoiseAdversary(context, discriminator=pool)
    if len(context.modalities) > 1:
        objectives["type_1.modality"] = ModalityAdversary(context, discriminator=pool, train_specific=True)
    return Learning(views, objectives)


def batch_of(context: Context, count: int, seed: int) -> Batch:
    """Samples of any lengths, some of none, with NaN in padding."""
    random = torch.Generator().manual_seed(seed)
    features = {}
    for m, shape in context.features.items():
        real = torch.randint(0, shape.length + 1, (count, 1), generator=random)
        mask = torch.arange(shape.length) < real
        mask = mask if seed % 2 else mask.flip(1)
        x = torch.randn(count, shape.length, shape.width, generator=random)
        features[m] = Stream(x.masked_fill(~mask.unsqueeze(-1), torch.nan), mask)
    return Batch.fresh(features, torch.randn(count, generator=random))


def in_double(batch: Batch) -> Batch:
    features = {m: s.map(Tensor.double) for m, s in batch.features.items()}
    assert batch.label is not None
    return replace(batch, features=features, label=batch.label.double())


def fast(model: Model, learning: Learning) -> tuple[Model, Learning]:
    """The same once more, with the same weights, accelerated."""
    model, learning = copy.deepcopy((model, learning))
    accelerate(model, learning, timed=False, device="cpu", precision="fp32")
    return model, learning


def passes(model: Model, learning: Learning, batch: Batch, seed: int) -> list[dict[str, Tensor]]:
    """Everything that training sees, accelerated and plain: outputs, losses, gradients."""
    results = []
    for of, learning in (fast(model, learning), (model, learning)):  # noqa: B020
        views = learning.draw(batch.zeroed(), generator(seed))
        total, parts, _, out = learning.compute(of, views, PROGRESS)
        values: dict[str, Tensor] = {"total": total, **parts}
        for name, view in out.items():
            values |= {f"{name} prediction": view.prediction, f"{name} fused": view.fused.x}
            assert view.fused.segments == out[name].fused.segments
            for stage in ("encoded", "generic", "specific"):
                streams = getattr(view, stage)
                assert list(streams) == list(model.modalities)
                values |= {f"{name} {stage} {m}": s.x for m, s in streams.items()}
                values |= {f"{name} {stage} {m} mask": s.mask for m, s in streams.items()}
        named = dict(nn.ModuleList([of, learning]).named_parameters())
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        values |= {n: torch.zeros(()) if g is None else g for n, g in zip(named, gradients, strict=True)}
        results.append(values)
    return results


def assert_same(found: dict[str, Tensor], plain: dict[str, Tensor], tolerance: float) -> None:
    """Equal values, and equal gradients, seen as one vector, of which a part may be small beside its own terms."""
    assert_same_values(found, plain, tolerance)
    assert distance(found, plain) <= tolerance * distance(plain)


def assert_same_values(found: dict[str, Tensor], plain: dict[str, Tensor], tolerance: float) -> None:
    assert set(found) == set(plain)
    for name, value in plain.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        if not name[0].isdigit():  # no parameter
            rule = {"atol": tolerance, "rtol": tolerance}
            torch.testing.assert_close(found[name], value, **rule, msg=lambda m, n=name: f"{n}: {m}")


def distance(one: dict[str, Tensor], other: dict[str, Tensor] | None = None) -> float:
    """Between two gradients, or the length of one."""
    gaps = [x.double() - (0 if other is None else other[n].double()) for n, x in one.items() if n[0].isdigit()]
    return torch.stack([gap.norm() for gap in gaps]).norm().item()


RATES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1), st.just((0.0, 0.5)))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    rates=st.tuples(RATES, RATES),
    clean=st.booleans(),
    fusion=st.sampled_from(
        [
            (CrossAttention, {}),
            (CrossAttention, {"norm": "post", "depth": 1}),
            (CrossAttention, {"heads": 1, "position": "token", "query": "specific"}),
            (Concat, {}),
            (Centred, {}),
        ]
    ),
    generic=st.sampled_from([SharedMLP, Quadratic, Identity]),
    count=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_values_losses_and_gradients_are_those_of_the_plain_path(
    lengths: list[int],
    rates: tuple[Rate, Rate],
    clean: bool,
    fusion: tuple[type[Fusion], dict[str, Any]],
    generic: type[GenericExtractor],
    count: int,
    seed: int,
) -> None:
    context = context_of(lengths)
    model, context = made(context, generic=generic, fusion=fusion[0], **fusion[1])
    noises = (WindowErase(context), FrameDrop(context))
    views = {f"type_{i + 1}": View(noises[i], rates[i], (f"type_{i + 1}.task",)) for i in range(2)}
    if clean:
        views["clean"] = View(None, 0.0, ("clean.task",))
    learning, batch = learning_of(context, views), batch_of(context, count, seed)
    cached = why_not_cached(learning, model, timed=False)
    assert (cached is None) == (fusion[0] is not Centred)
    reused, single = passes(model, learning, batch, seed)
    found, plain = passes(model.double(), learning.double(), in_double(batch), seed)
    assert_same(found, plain, 1e-12)
    assert_same_values(reused, single, 4e-6)
    # In fp32 a gradient that is small beside its terms is rounded on either path: 1.1 times as much in 1500 cases.
    assert distance(reused, plain) <= 1e-6 * distance(plain) + 4 * distance(single, plain)


@pytest.mark.parametrize("backend", ["auto", "manual", "sdpa"])
@pytest.mark.parametrize("absent", [False, True])
def test_a_sample_that_is_not_finite_spoils_no_other(backend: str, absent: bool) -> None:
    model, context = made(context_of([5, 4]))
    model.eval()
    real = {m: torch.arange(s.length) < torch.tensor([[3], [2], [1]]) for m, s in context.features.items()}
    real = real if absent else {m: mask.flip(1) for m, mask in real.items()}  # padding comes first
    if absent:
        real["text"][1] = False
    random = torch.Generator().manual_seed(1)
    x = {m: torch.randn(*real[m].shape, s.width, generator=random) for m, s in context.features.items()}
    clean = {m: Stream(x[m], real[m]).zeroed() for m in x}
    x["audio"][0] = torch.nan
    spoilt = Batch.fresh({m: Stream(x[m], real[m]).zeroed() for m in x})
    model, _ = fast(model, Learning({}, {}))
    with torch.no_grad(), use_attention(backend):
        predictions = model(spoilt.features).prediction
        assert not predictions[0].isfinite() and torch.equal(predictions[1:], model(clean).prediction[1:])
        drop = FrameDrop(context)
        drawn = [drop(spoilt, 0.5, generator(i)).erased for i in range(3)]
        erased = {m: torch.stack([one[m] for one in drawn]) for m in drawn[0]}
        assert model.predict_erased(spoilt.features, erased, 8)[:, 1:].isfinite().all()


def test_each_token_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, context = made(context_of([5, 3]))
    window = WindowErase(context)
    learning = learning_of(context, {f"type_{i}": View(window, 0.5, (f"type_{i}.task",)) for i in (1, 2)})
    seen: list[int] = []
    model.encoder.layers["text"].register_forward_hook(lambda _, args, out: seen.append(out.shape[0] * out.shape[1]))  # type: ignore[index]
    batch = batch_of(context, 4, 1)
    accelerate(model, learning, timed=False, device="cpu", precision="fp32")
    learning.losses(model, batch, generator(1), PROGRESS)
    assert seen == [int(batch.features["text"].mask.sum()) + 1]


class Shifted(Noise):
    """Moves steps instead of erasing them."""

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        return batch.noisy({m: s.map(lambda x: x + 1) for m, s in batch.features.items()}, batch.erased)


class Neighbours(GenericExtractor):
    """Each step sees the one before."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shapes = dict(context.encoded)

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: s.map(lambda x: x + x.roll(1, 1)) for m, s in streams.items()}


class Common(GenericExtractor):
    """Streams under keys of their own."""

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shapes = {f"{m}_common": s for m, s in context.encoded.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {f"{m}_common": s for m, s in streams.items()}


class AcrossSamples(Identity):
    """As one with batch statistics."""

    samplewise = False


@pytest.mark.parametrize(
    ("parts", "noise", "timed", "reason"),
    [
        ({"generic": Neighbours}, None, False, "the generic extractor (Neighbours) does not promise to look at each"),
        ({"generic": AcrossSamples}, None, False, "the generic extractor (AcrossSamples) looks across samples"),
        ({"generic": Common, "fusion": Concat}, None, False, "(Common) gives streams that are no modalities"),
        ({"dropout": 0.5}, None, False, "the generic extractor (SharedMLP) has dropout, which each view draws"),
        ({}, Shifted, False, "the noise of view 'type_2' does more than set steps to zero"),
        ({}, None, True, "steps carry their times"),
    ],
)
def test_where_tokens_cannot_be_shared_each_view_makes_its_own_and_the_reason_is_told(
    parts: dict[str, Any], noise: type[Noise] | None, timed: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, context = made(context_of([4, 3]), **parts)
    second = FrameDrop(context) if noise is None else noise(context)
    views = {"type_1": View(WindowErase(context), 0.5, ("type_1.task",)), "type_2": View(second, 0.5, ())}
    learning = Learning(views, {"type_1.task": TaskLoss(context)})
    learning.views["type_2"] = views["type_2"]
    batch = batch_of(context, 4, 3)
    if timed:
        times = {m: torch.zeros(*s.mask.shape, 2) for m, s in batch.features.items()}
        batch = replace(batch, features={m: replace(s, times=times[m]) for m, s in batch.features.items()})
    why = why_not_cached(learning, model, timed)
    assert why is not None and reason in why
    results = []
    for of, learning in (fast(model, learning), (model, learning)):  # noqa: B020
        with torch.random.fork_rng():
            torch.manual_seed(0)
            results.append(learning.losses(of, batch, generator(1), PROGRESS)[0])
    if not parts.get("dropout"):  # which draws for both views at once
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_dropout_that_is_asleep_shares() -> None:
    model, _ = made(context_of([4]), dropout=0.5)
    assert obstacle(model, timed=False) is not None and obstacle(model.eval(), timed=False) is None


def test_one_view_has_nothing_to_share() -> None:
    model, context = made(context_of([4]))
    learning = Learning({"only": View(FrameDrop(context), 0.5, ("only.task",))}, {"only.task": TaskLoss(context)})
    assert why_not_cached(learning, model, timed=False) == "there is one view"


def test_flattening_discriminators_see_zeros_in_padding() -> None:
    model, context = made(context_of([6, 6]), generic=Quadratic)
    adversary = NoiseAdversary(context)
    assert isinstance(adversary.discriminator, Discriminator)
    views = {f"type_{i}": View(FrameDrop(context), 1.0, (f"type_{i}.task",)) for i in (1, 2)}
    learning = Learning(views, {"type_1.task": TaskLoss(context), "type_2.task": adversary}).double()
    assert_same(*passes(model.double(), learning, in_double(batch_of(context, 5, 7)), 7), 1e-12)


def test_a_cache_is_compiled_as_one() -> None:
    model, context = made(context_of((2,)), fusion=Concat)
    features = {m: s.zeroed() for m, s in batch_of(context, 3, seed=1).features.items()}

    def generic(features: Streams) -> Tensor:
        cache = TokenCache.fill(model, features)
        return cache.outputs({"text": torch.zeros_like(features["text"].mask)}).generic["text"].x

    compiled = torch.compile(generic, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(features), generic(features))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    fusion=st.sampled_from([CrossAttention, Concat]),
    count=st.integers(1, 7),
    size=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_predictions_of_a_sweep_are_those_of_the_plain_model(
    lengths: list[int], fusion: type[Fusion], count: int, size: int, seed: int
) -> None:
    model, context = made(context_of(lengths), fusion=fusion)
    model = model.double().eval()
    batch, drop = in_double(batch_of(context, count, seed)), FrameDrop(context)
    drawn = [drop(batch, rate, generator(i)).erased for i, rate in enumerate((0.0, 0.4, 0.4, 1.0))]
    erased = {m: torch.stack([one[m] for one in drawn]) for m in drawn[0]}
    accelerated, _ = fast(model, Learning({}, {}))
    assert type(accelerated) is not type(model)
    ticks: list[int] = []
    predictions = accelerated.predict_erased(batch.features, erased, size, ticks.append)
    assert sum(ticks) == 4 * count and predictions.shape == (4, count, 1)
    torch.testing.assert_close(predictions, model.predict_erased(batch.features, erased, size), rtol=1e-6, atol=1e-6)
    clean = accelerated.predict(batch.features, size)
    torch.testing.assert_close(clean, model.predict(batch.features, size), rtol=1e-6, atol=1e-6)
