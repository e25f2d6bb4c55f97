"""NORM-TR's adversaries read the NRGF, say how well they do, and cannot win without looking, except where they warn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.components.adversary import ModalityAdversary, NoiseAdversary
from mmrobust.components.discriminant import ModalityDiscriminant, NoiseDiscriminant, separation
from mmrobust.components.discriminator import MLP, Linear
from mmrobust.components.examples import Examples, modality_examples, standardized
from mmrobust.contracts import Objective, Outputs, Part, Progress, Shape, Stream
from mmrobust.errors import OptionError
from tests.components.test_normtr import CONTEXT, RAW, outputs, streams

PROGRESS = Progress(0, torch.tensor(0.25), torch.tensor(3e-3))
MEAN = Part("linear", {"pool": "mean"})


def nothing_erased() -> dict[str, torch.Tensor]:
    return {m: torch.zeros(5, shape.length, dtype=torch.bool) for m, shape in RAW.items()}


def loss_of(part: Objective, out: Outputs) -> torch.Tensor:
    result = part(out, {}, PROGRESS)
    return result[0] if isinstance(result, tuple) else result


def figures_of(part: Objective, out: Outputs) -> dict[str, float]:
    result = part(out, {}, PROGRESS)
    assert isinstance(result, tuple)
    return {name: value.item() for name, value in result[1].items()}


@pytest.mark.parametrize("position", ["before", "after", "none"])
def test_adversary_1_is_the_cross_entropy_of_naming_each_features_modality(position: Any) -> None:
    part = ModalityAdversary(CONTEXT, discriminator=MEAN, explain=position)
    out = outputs()
    logits, target = [], []
    for side in (out.generic, out.specific):
        for i, m in enumerate(RAW):
            explained = side is out.generic and position != "none"
            stream = side[m].map(part.explain[m]) if explained else side[m]
            logits.append(part.discriminator(stream))
            target += [i] * 5
    torch.testing.assert_close(loss_of(part, out), F.cross_entropy(torch.cat(logits), torch.tensor(target)))


def test_explaining_networks_before_the_reversal_are_on_the_extractors_side() -> None:
    gradients = {}
    for position in ("before", "after"):
        torch.manual_seed(0)
        part = ModalityAdversary(CONTEXT, discriminator=MEAN, explain=position, pinned=False)  # type: ignore[arg-type]
        out = outputs()
        loss_of(part, out).backward()
        first = part.explain["text"][0].weight.grad  # type: ignore[index]
        gradients[position] = (out.generic["text"].x.grad, first)
    (before, own_before), (after, own_after) = gradients["before"], gradients["after"]
    torch.testing.assert_close(before, after)  # the extractor sees the same
    torch.testing.assert_close(own_before, -own_after)  # the explaining networks do not


def test_each_explaining_network_can_read_the_whole_nrgf() -> None:
    part = ModalityAdversary(CONTEXT, discriminator=MEAN, explain="before", explain_reads="all", pinned=False)
    out = outputs()
    assert part.explain["text"][0].in_features == 3 * 8  # type: ignore[union-attr]
    loss_of(part, out).backward()
    assert all(out.generic[m].x.grad is not None for m in RAW)


def test_adversary_1_trains_the_specific_extractor_only_on_request() -> None:
    for wanted in (False, True):
        out = outputs()
        loss_of(ModalityAdversary(CONTEXT, train_specific=wanted), out).backward()
        assert (out.specific["text"].x.grad is not None) == wanted


def test_an_unpinned_discriminator_does_not_learn_from_the_mfs() -> None:
    part = ModalityAdversary(CONTEXT, discriminator=MEAN, pinned=False)
    out = outputs()
    moved = replace(out, specific={m: s.map(lambda x: x + 3) for m, s in out.specific.items()})
    assert torch.equal(loss_of(part, out), loss_of(part, moved))
    assert set(figures_of(part, out)) == set(part.figures)


def test_confusing_trains_the_extractor_towards_equal_chances_and_the_discriminator_towards_the_truth() -> None:
    part = ModalityAdversary(CONTEXT, discriminator=MEAN, pinned=False, aim="confuse")
    out = outputs()
    loss_of(part, out).backward()
    own = part.discriminator.linear.weight.grad
    generic = out.generic["text"].x.grad
    logits = torch.cat([part.discriminator(out.generic[m]) for m in RAW])
    truth = F.cross_entropy(logits, torch.arange(3).repeat_interleave(5))
    uniform = F.cross_entropy(logits, torch.full_like(logits, 1 / 3))
    torch.testing.assert_close(own, torch.autograd.grad(truth, part.discriminator.linear.weight, retain_graph=True)[0])
    torch.testing.assert_close(generic, torch.autograd.grad(uniform, out.generic["text"].x)[0])


def test_single_steps_are_read_alone_and_padding_does_not_count() -> None:
    part = ModalityAdversary(CONTEXT, unit="step", pinned=False)
    out = outputs()
    real = torch.cat([s.x[s.mask] for s in out.generic.values()])
    target = torch.cat([torch.full((int(s.mask.sum()),), i) for i, s in enumerate(out.generic.values())])
    truth = F.cross_entropy(part.discriminator.linear(real), target)
    torch.testing.assert_close(loss_of(part, out), truth)


def test_adversary_2_decides_for_each_modality_whether_it_was_corrupted() -> None:
    part = NoiseAdversary(CONTEXT)
    erased = nothing_erased()
    erased["text"][0, 0] = erased["vision"][3, 0] = True
    out = outputs(erased=erased)
    truth = torch.zeros(5, 3)
    truth[0, 0] = truth[3, 2] = 1
    logits = torch.cat([part.discriminator(out.generic[m]) for m in RAW], 1)
    torch.testing.assert_close(loss_of(part, out), F.binary_cross_entropy_with_logits(logits, truth))
    assert figures_of(part, out)["chance"] == pytest.approx(13 / 15)


def test_adversary_2_can_name_the_corrupted_modality_instead() -> None:
    part = NoiseAdversary(CONTEXT, target="which", discriminator=MEAN)
    erased = nothing_erased()
    erased["audio"][2, 0] = True
    value = loss_of(part, outputs(erased=erased))
    assert part.discriminator.linear.out_features == 3
    moved = outputs(erased=erased)
    moved.generic["text"].x.data[0] += 10  # a sample that nothing corrupted has no answer
    torch.testing.assert_close(loss_of(part, moved), value)
    assert loss_of(part, outputs(erased=nothing_erased())) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_factor": 5.0}, "option 'lr_factor': needs steps of the discriminator's own"),
        ({"aim": "confuse", "explain": "after"}, "option 'aim': confuse has nothing to do with explaining MLPs"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ModalityAdversary(CONTEXT, **options)


def test_the_literal_reading_says_when_it_is_built_that_it_can_win_without_looking() -> None:
    assert "D1 can win without looking" in ModalityAdversary(CONTEXT, explain="after").caution
    assert not ModalityAdversary(CONTEXT, explain="before").caution


def test_the_flattening_discriminator_sees_where_and_fills_shorter_modalities_with_zeros() -> None:
    part = NoiseAdversary(CONTEXT)
    assert part.discriminator.linear.in_features == 6 * 8
    x = streams()["vision"]
    row = F.pad(x.x, (0, 0, 0, 5)).reshape(5, 48)
    torch.testing.assert_close(part.discriminator(x), part.discriminator.linear(row))


def test_discriminators_have_depth_and_a_bound() -> None:
    context = replace(CONTEXT, input=Shape(8, 6), outputs=3)
    assert len(MLP(context, depth=3).hidden) == 3
    with pytest.raises(OptionError, match="option 'depth': 0 hidden layers are no perceptron"):
        MLP(context, depth=0)
    part = Linear(context, pool="mean", spectral=True)
    part.linear.weight.data *= 100
    x = streams()["text"]
    slope = torch.func.jacrev(lambda v: part(Stream(v, x.mask)))(x.x)
    assert slope.isfinite().all()
    wide = part.apply_layer(part.linear, torch.eye(8)) - part.linear.bias
    assert torch.linalg.matrix_norm(wide, 2).item() == pytest.approx(1, abs=1e-5)


@given(st.integers(0, 2**16), st.floats(0.01, 100), st.floats(-50, 50))
@settings(deadline=None, max_examples=20)
def test_standardising_removes_scale_and_place_and_reads_no_padding(seed: int, scale: float, shift: float) -> None:
    x = streams(seed=seed)["text"]
    noisy = replace(x, x=torch.where(x.mask.unsqueeze(-1), x.x * scale + shift, 1e6))
    plain, moved = standardized(x, eps=0), standardized(noisy.zeroed(), eps=0)
    torch.testing.assert_close(plain.x, moved.x, atol=2e-3, rtol=2e-3)


# The discriminator of modality has nothing to read in an NRGF that is the same for every modality --------------------


def same_for_all(seed: int) -> Outputs:
    """Features of one length, the NRGF of every modality the same numbers; the MFs are their modality's own."""
    shape = dict.fromkeys(RAW, Shape(8, 4))
    generator = torch.Generator().manual_seed(seed)
    x, mask = torch.randn(5, 4, 8, generator=generator), torch.ones(5, 4, dtype=torch.bool)
    specific = {m: s.map(lambda v, i=i: v + 2 * i) for i, (m, s) in enumerate(streams(shape, seed=seed).items())}
    return replace(outputs(seed), generic={m: Stream(x, mask) for m in RAW}, specific=specific)


ALONG = replace(CONTEXT, generic=dict.fromkeys(RAW, Shape(8, 4)), specific=dict.fromkeys(RAW, Shape(8, 4)))
READINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "not pinned": {"pinned": False},
    "confuse": {"aim": "confuse"},
    "steps of its own": {"unit": "step", "standardize": True, "pinned": False, "steps": 3, "lr_factor": 5.0},
    "a perceptron": {"discriminator": Part("mlp", {"hidden": 16})},
    "before": {"explain": "before"},
    "before, of all": {"explain": "before", "explain_reads": "all"},
    "after": {"explain": "after"},
    "after, of all": {"explain": "after", "explain_reads": "all"},
}


@pytest.mark.parametrize("reading", READINGS)
def test_an_nrgf_that_is_the_same_for_every_modality_leaves_adversary_1_at_chance(reading: str) -> None:
    torch.manual_seed(0)
    part = ModalityAdversary(ALONG, grl=1.0, **READINGS[reading])
    weights = [p for p in part.parameters() if p.requires_grad]
    # Explaining networks that read all modalities overshoot at a larger rate, and D1 names them for a while.
    optimizer = torch.optim.Adam(weights, lr=1e-3 if reading == "before, of all" else 3e-3) if weights else None
    accuracy, entropy = [], []
    for step in range(400):
        out = same_for_all(step)
        loss, figures = part(out, {}, PROGRESS)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        part.update(out, {}, PROGRESS)
        accuracy.append(figures["accuracy"].item())
        entropy.append(figures["cross_entropy"].item())
    late = sum(accuracy[-100:]) / 100, sum(entropy[-100:]) / 100
    if reading.startswith("after"):
        assert late[0] > 0.9 and part.caution
    else:
        assert late[0] < 0.45 and late[1] > 0.95 * math.log(3), late


# In closed form ------------------------------------------------------------------------------------------------------


def groups(seed: int, apart: float, count: int = 40) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    answer = torch.arange(count) % 3
    x = torch.randn(count, 5, dtype=torch.float64, generator=generator)
    x[:, 0] += apart * answer
    counts = torch.ones(count, dtype=torch.float64)
    return Examples(Stream.pooled(x), answer, counts, 3)


@given(st.integers(0, 2**16), st.floats(0, 5))
@settings(deadline=None, max_examples=30)
def test_the_separation_is_the_logarithm_of_wilks_ratio(seed: int, apart: float) -> None:
    examples = groups(seed, apart)
    x = examples.features.x[:, 0]
    x = x - x.mean(0)
    ridge = 0.01 * x.square().sum() / len(x) / 5 + 1e-6
    rest = torch.cat([x[examples.answer == k] - x[examples.answer == k].mean(0) for k in range(3)])
    eye = torch.eye(5, dtype=torch.float64)
    truth = torch.logdet(x.T @ x / len(x) + ridge * eye) - torch.logdet(rest.T @ rest / len(x) + ridge * eye)
    value, _ = separation(examples, 0.01)
    torch.testing.assert_close(value, truth, rtol=1e-8, atol=1e-8)
    assert value >= -1e-12


def test_groups_that_lie_on_each_other_are_not_told_apart_and_padding_does_not_count() -> None:
    examples = groups(1, 8.0)
    value, figures = separation(examples, 0.01)
    assert figures["accuracy"] == 1 and value > 2
    x = examples.features.x.repeat(2, 1, 1)
    padded = Examples(
        Stream(x + 7, torch.ones(80, 1, dtype=torch.bool)),
        examples.answer.repeat(2),
        torch.cat([examples.counts, torch.zeros(40, dtype=torch.float64)]),
        3,
    )
    padded.features.x[40:] *= 100
    torch.testing.assert_close(separation(padded, 0.01)[0], value)
    same = replace(examples, features=Stream.pooled(torch.ones(40, 5, dtype=torch.float64)))
    assert separation(same, 0.01)[0] == 0


def test_the_closed_form_takes_from_the_features_what_names_their_modality() -> None:
    part = ModalityDiscriminant(CONTEXT)
    x = {m: s.x.detach().clone().requires_grad_() for m, s in outputs(3).generic.items()}
    for i, value in enumerate(x.values()):
        value.data += 2 * i
    out = outputs(3)
    before = after = 0.0
    loss = torch.zeros(())
    for step in range(60):
        generic = {m: Stream(x[m], s.mask) for m, s in out.generic.items()}
        loss, figures = part(replace(out, generic=generic), {}, PROGRESS)
        before, after = (figures["accuracy"].item(), after) if step == 0 else (before, figures["accuracy"].item())
        for value, gradient in zip(x.values(), torch.autograd.grad(loss, list(x.values())), strict=True):
            value.data -= 2.0 * gradient
    assert before > 0.9 and after < before
    assert loss.item() < 1


def test_the_closed_form_of_noise_reads_erased_against_real_steps() -> None:
    erased = nothing_erased()
    erased["text"][:, 0] = True
    out = outputs(2, erased=erased)
    out.generic["text"].x.data[:, 0] += 30
    figures = figures_of(NoiseDiscriminant(CONTEXT), out)
    real = sum(int(s.mask.sum()) for s in out.generic.values())
    assert figures["accuracy"] == 1 and figures["chance"] == pytest.approx(1 - 5 / real)
    nothing = outputs(2, erased=nothing_erased())
    assert loss_of(NoiseDiscriminant(CONTEXT), nothing).item() == pytest.approx(0, abs=1e-6)


def test_a_discriminator_that_wins_is_reported_in_one_line() -> None:
    part = ModalityDiscriminant(CONTEXT)
    line = part.remark({"accuracy": 1.0, "chance": 1 / 3})
    assert line == (
        "the discriminator names the modality of the NRGF in 100% (chance 33%): the adversary does nothing"
    )
    assert part.remark({"accuracy": 0.5, "chance": 1 / 3}) is None
    assert modality_examples(outputs().generic, "step").chance() > 1 / 3
