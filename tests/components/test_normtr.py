"""NORM-TR's parts do what the paper's equations say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmrobust.components.encoder import Linear
from mmrobust.components.fusion import Concat, CrossAttention
from mmrobust.components.generic_extractor import Constant, MeanMLP, SharedMLP
from mmrobust.components.head import MeanPoolLinear, ModalityPool
from mmrobust.components.objective import TaskLoss
from mmrobust.components.specific_extractor import PerModalityMLP
from mmrobust.contracts import Batch, Context, Outputs, Progress, Shape, Stream, Streams, Task
from mmrobust.errors import OptionError
from mmrobust.model.assemble import part_builder

RAW = {"text": Shape(7, 6), "audio": Shape(3, 4), "vision": Shape(5, 1)}
HALF = {m: Shape(8, shape.length) for m, shape in RAW.items()}
REGRESSION = Task("regression", 1, "mosi", -3, 3)
CONTEXT = Context(
    tuple(RAW),
    REGRESSION,
    16,
    RAW,
    samples=9,
    encoded={m: Shape(16, shape.length) for m, shape in RAW.items()},
    generic=HALF,
    specific=HALF,
    build=part_builder,
)
PROGRESS = Progress(0, torch.tensor(0.25))


def streams(shapes: dict[str, Shape] = HALF, count: int = 5, seed: int = 0) -> Streams:
    g = torch.Generator().manual_seed(seed)
    out = {}
    for m, shape in shapes.items():
        mask = torch.arange(shape.length) < torch.randint(1, shape.length + 1, (count, 1), generator=g)
        out[m] = Stream(torch.randn(count, shape.length, shape.width, generator=g), mask).zeroed()
    return out


def outputs(seed: int = 0, label: torch.Tensor | None = None, erased: dict[str, torch.Tensor] | None = None) -> Outputs:
    features = streams(RAW, seed=seed)
    batch = Batch.fresh(features, label)
    if erased is not None:
        batch = batch.noisy(features, erased)
    fused = Stream(torch.zeros(5, 1, 8), torch.ones(5, 1, dtype=torch.bool))
    generic, specific = streams(seed=seed + 1), streams(seed=seed + 2)
    for side in (generic, specific):
        for m, s in side.items():
            side[m] = Stream(s.x.requires_grad_(), s.mask)
    return Outputs({}, generic, specific, fused, torch.randn(5, 1), {}, batch)


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_follow_section_3() -> None:
    assert size(Linear(CONTEXT)) == sum((shape.width + 1) * 16 for shape in RAW.values())
    mlp = (16 + 1) * 8 + (8 + 1) * 8
    assert size(SharedMLP(CONTEXT)) == mlp
    assert size(PerModalityMLP(CONTEXT)) == 3 * mlp


def test_the_extractors_are_two_layers_each_followed_by_leaky_relu() -> None:
    part = SharedMLP(CONTEXT, slope=0.2)
    first, _, second, _ = part.mlp
    x = streams(dict(CONTEXT.encoded))
    truth = F.leaky_relu(second(F.leaky_relu(first(x["text"].x), 0.2)), 0.2)
    assert torch.equal(part(x, {})["text"].x, truth)


def test_the_fusion_is_a_transformer_with_generic_queries_and_specific_keys_and_values() -> None:
    torch.manual_seed(0)
    part = CrossAttention(CONTEXT, depth=1, heads=2, position="none")
    generic, specific = streams(seed=1), streams(seed=2)
    out = part(generic, specific, {})
    assert (out.x.shape[1], out.x.shape[2]) == (part.shape.length, part.shape.width) == (11, 8)
    block = part.blocks[0]
    query = torch.cat([s.x for s in generic.values()], 1)
    source = block.norm_source(torch.cat([s.x for s in specific.values()], 1))
    mask = torch.cat([s.mask for s in specific.values()], 1)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([block.attention.query.weight, block.attention.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([block.attention.query.bias, block.attention.key_value.bias]))
        reference.out_proj.weight.copy_(block.attention.out.weight)
        reference.out_proj.bias.copy_(block.attention.out.bias)
    x = query + reference(block.norm_query(query), source, source, key_padding_mask=~mask)[0]
    truth = Stream(x + block.feed(block.norm_feed(x)), out.mask)
    torch.testing.assert_close(out.zeroed().x, truth.zeroed().x)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("position", ["timestamp", "token", "none"])
def test_more_padding_changes_no_prediction(norm: str, position: str) -> None:
    part = CrossAttention(CONTEXT, heads=2, norm=norm, position=position)  # type: ignore[arg-type]
    head = MeanPoolLinear(Context(tuple(RAW), REGRESSION, 16, RAW, input=part.shape, outputs=1))
    generic, specific = streams(seed=1), streams(seed=2)
    short = {m: s.mask for m, s in generic.items()}
    short["text"] = short["text"] & (torch.arange(6) < 3)
    cut = lambda side: {m: Stream(s.x, short[m]).zeroed() for m, s in side.items()}
    spoilt = lambda side: {m: Stream(s.x + 9 * (~short[m]).unsqueeze(-1), short[m]) for m, s in side.items()}
    plain = head(part(cut(generic), cut(specific), {}))
    torch.testing.assert_close(head(part(spoilt(generic), spoilt(specific), {})), plain)


def test_positions_are_shared_by_the_modalities_or_each_tokens_own() -> None:
    assert CrossAttention(CONTEXT, heads=1).queries.position is not None
    shapes = [CrossAttention(CONTEXT, heads=1, position=p).queries.position for p in ("timestamp", "token")]
    assert [None if p is None else p.shape[1] for p in shapes] == [6, 11]


def test_each_modality_is_pooled_on_its_own_however_many_steps_come() -> None:
    part = CrossAttention(CONTEXT, heads=2)
    head = ModalityPool(Context(tuple(RAW), REGRESSION, 16, RAW, input=part.shape, outputs=1), norm=False)
    fused = part(streams(seed=1), streams(seed=2), {}).zeroed()
    assert list(fused.parts()) == list(RAW) == [segment.name for segment in part.shape.segments]
    means = torch.cat([fused.parts()[m].mean() for m in RAW], -1)
    torch.testing.assert_close(head(fused), means @ head.linear.weight.T + head.linear.bias)
    cut = lambda side: {m: Stream(s.x[:, :3], s.mask[:, :3]) for m, s in side.items()}
    short = part(cut(streams(seed=1)), cut(streams(seed=2)), {}).zeroed()
    assert short.segments == tuple((m, min(3, shape.length)) for m, shape in RAW.items())
    assert head(short).shape == head(fused).shape


def test_a_head_for_each_modality_needs_segments() -> None:
    with pytest.raises(OptionError, match="needs a fusion that keeps the modalities' steps apart"):
        ModalityPool(Context(tuple(RAW), REGRESSION, 16, RAW, input=Shape(8, 1), outputs=1))


def test_query_and_key_exchange() -> None:
    narrow = {m: Shape(4, shape.length) for m, shape in RAW.items()}
    context = Context(tuple(RAW), REGRESSION, 16, RAW, generic=HALF, specific=narrow)
    part = CrossAttention(context, heads=2, query="specific", key_value="generic")
    assert (part.shape.width, part.shape.length) == (4, 11)
    assert part(streams(), streams(narrow), {}).x.shape == (5, 11, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, r"option 'heads': 3 does not divide the width 8 of the query; 1, 2, 4, 8 do"),
        ({"heads": 0}, r"option 'heads': 0 does not divide"),
        ({"depth": 0}, r"option 'depth': must be at least 1, not 0"),
    ],
)
def test_the_fusion_refuses(options: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CrossAttention(CONTEXT, **options)  # type: ignore[arg-type]


def test_the_fusion_says_which_extractor_is_missing() -> None:
    with pytest.raises(OptionError, match="there is no generic extractor; set query: specific, or add the extractor"):
        CrossAttention(Context(tuple(RAW), REGRESSION, 16, RAW, specific=HALF))


def test_concatenation_is_the_mean_of_the_real_steps_side_by_side() -> None:
    part = Concat(CONTEXT)
    generic, specific = streams(seed=1), streams(seed=2)
    out = part(generic, specific, {})
    assert part.shape == Shape(48, 1) and out.x.shape == (5, 1, 48)
    s = generic["audio"]
    torch.testing.assert_close(out.x[2, 0, 8:16], s.x[2][s.mask[2]].mean(0))


@pytest.mark.parametrize(
    ("loss", "function"), [("auto", F.mse_loss), ("mse", F.mse_loss), ("mae", F.l1_loss), ("huber", F.smooth_l1_loss)]
)
def test_the_task_loss_of_a_regression(loss: str, function) -> None:
    out = outputs(label=torch.linspace(-3, 3, 5))
    assert out.batch is not None and out.batch.label is not None
    value = TaskLoss(CONTEXT, loss=loss)(out, {}, PROGRESS)  # type: ignore[arg-type]
    torch.testing.assert_close(value, function(out.prediction[:, 0], out.batch.label))


def test_the_task_loss_of_several_decisions_is_the_cross_entropy_over_pairs_of_logits() -> None:
    task = Task("multilabel", 8, "iemocap", names=("neutral", "happy", "sad", "angry"))
    label = torch.tensor([[0, 1, 0, 1]] * 5)
    out = outputs(label=label)
    out = Outputs({}, {}, {}, out.fused, torch.randn(5, 8), {}, out.batch)
    value = TaskLoss(Context(tuple(RAW), task, 16, RAW))(out, {}, PROGRESS)
    torch.testing.assert_close(value, F.cross_entropy(out.prediction.view(20, 2), label.view(20)))


def test_a_regression_loss_for_classes_is_refused() -> None:
    context = Context(tuple(RAW), Task("classification", 3, "classification"), 16, RAW)
    with pytest.raises(OptionError, match="'mae' is for a regression, and this task is a classification"):
        TaskLoss(context, loss="mae")


def test_a_constant_query_says_nothing_of_the_sample_and_a_mean_nothing_of_the_step() -> None:
    encoded = streams(dict(CONTEXT.encoded))
    constant, zero, mean = Constant(CONTEXT), Constant(CONTEXT, learned=False), MeanMLP(CONTEXT)
    assert all(torch.equal(s.x, constant.vector.expand_as(s.x)) for s in constant(encoded, {}).values())
    assert not any(s.x.any() for s in zero(encoded, {}).values())
    assert [p.requires_grad for p in (constant.vector, zero.vector)] == [True, False]
    out, every = mean(encoded, {}), SharedMLP.forward(mean, encoded, {})
    truth = torch.cat([s.x[2][s.mask[2]] for s in every.values()]).mean(0)
    for stream in out.values():
        torch.testing.assert_close(stream.x[2], truth.expand_as(stream.x[2]))
