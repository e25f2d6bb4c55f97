"""Rule: a noise does what its rate says, marks every step that it takes hold of, and draws from its generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mmrobust import registry
from mmrobust.contracts import Batch, Noise, Rate, Stream
from mmrobust.contracts.randomness import generator
from mmrobust.testing.check import check
from mmrobust.testing.comparing import quiet_random
from mmrobust.testing.failures import Failed, NotApplicable, expecting
from mmrobust.testing.outputs import check_batch
from mmrobust.testing.subject import Subject


def noisy(noise: Noise, batch: Batch, rate: Rate, seed: int = 3) -> Batch:
    """The batch with noise from a generator of its own.

    Raises:
        Failed: It is not a batch like the one that went in.
    """
    with quiet_random(seed):
        after = noise(batch, rate, generator(seed))
    check_batch(batch, after)
    return after


@check(Noise)
def check_noise_rate_zero(subject: Subject) -> None:
    """Rate 0 is the identity.

    Every curve starts at rate 0, which is to be the clean score.
    """
    noise, batch = _ready(subject)
    for rate in (0.0, (0.0, 0.0)):
        after = noisy(noise, batch, rate)
        for m, stream in batch.features.items():
            if not torch.equal(stream.x, after.features[m].x):
                raise Failed(f"the same features with rate {rate}", f"'{m}' has changed")
            if after.erased[m].any():
                raise Failed(f"nothing is erased with rate {rate}", f"{int(after.erased[m].sum())} steps of '{m}' are")


@check(Noise)
def check_noise_rate_one(subject: Subject) -> None:
    """Rate 1 works, gives finite features, and erases everything where `expected(1)` is 1.

    Every curve ends at rate 1; a factor 1 / (1 - rate) is infinite there.
    """
    noise, batch = _ready(subject)
    after = noisy(noise, batch, 1.0)
    expected = noise.expected(1.0) or {}
    for m, stream in batch.features.items():
        if not after.features[m].x[stream.mask].isfinite().all():
            raise Failed("finite features with rate 1", f"NaN or infinity in '{m}'")
        left = int((stream.mask & ~after.erased[m]).sum())
        if expected.get(m) == 1 and left:
            raise Failed(f"every step of '{m}' is erased with rate 1", f"{left} of {int(stream.mask.sum())} are left")


@check(Noise)
def check_noise_rate(subject: Subject) -> None:
    """The share of real steps that is marked as erased is what `expected(rate)` says, in each modality.

    The rate is the x axis of every robustness curve; a noise that strikes less than it says looks easy.
    """
    noise, _ = _ready(subject)
    for rate in (0.25, 0.5, 0.75):
        _measured(subject, noise, rate, _expected(noise, rate), f"rate {rate}")


@check(Noise)
def check_noise_rate_range(subject: Subject) -> None:
    """A pair draws a rate for each sample, uniformly between its ends; whole numbers of steps may be rounded down.

    Training draws from [0, 0.5]; a rate for the whole batch would make some steps all noise and others none.
    """
    noise, _ = _ready(subject)
    shares = [_expected(noise, 0.5 * (i + 0.5) / 64) for i in range(64)]
    mean = {m: sum(share[m] for share in shares) / 64 for m in shares[0]}
    for seed in range(3, 7):  # a rate for the whole batch may be near the mean by chance
        _measured(subject, noise, (0.0, 0.5), mean, "rates from 0 to 0.5", steps=0.5, seed=seed)


@check(Noise)
def check_noise_monotone(subject: Subject) -> None:
    """A higher rate never marks a smaller share of the steps.

    A curve over the rates is read from left to right, from clean to worst.
    """
    noise, _ = _ready(subject)
    batch = subject.batch(1500)
    before: dict[str, tuple[float, float]] = {}
    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        after = noisy(noise, batch, rate)
        for m in batch.features:
            share, error = _share(batch, after, m)
            least, wide = before.get(m, (0.0, 0.0))
            if share < least - 5 * (error + wide) - 2e-3:
                raise Failed(f"at least {least:.3f} of the steps of '{m}' with rate {rate}", f"{share:.3f}")
            before[m] = (share, error)


@check(Noise)
def check_noise_generator(subject: Subject) -> None:
    """Another generator gives another noise, unless `fixed = True` says that it does not.

    A sweep draws noise many times and reports the mean and the spread over the draws.
    """
    noise, _ = _ready(subject)
    batch = subject.batch(64)
    if not noise.fixed and alike(noisy(noise, batch, 0.5, seed=1), noisy(noise, batch, 0.5, seed=2)):
        raise Failed("another noise from another generator", "it is the same; does the noise draw from it at all?")


@check(Noise)
def check_noise_padding(subject: Subject) -> None:
    """Padding is never counted as erased, and what stands in it, NaN included, changes nothing.

    Counted as erased, padding would show an adversary how long a sample is, and the measured rate would depend on how
    batches are put together.
    """
    noise, batch = _ready(subject)
    after = noisy(noise, batch, 0.6)
    for m, stream in batch.features.items():
        wrong = int((after.erased[m] & ~stream.mask).sum())
        if wrong:
            raise Failed("padding is not erased", f"{wrong} steps of padding in '{m}' are")
    dirty = {m: replace(s, x=s.x.masked_fill(~s.mask.unsqueeze(-1), float("nan"))) for m, s in batch.features.items()}
    other = noisy(noise, replace(batch, features=dirty), 0.6)
    for m, stream in batch.features.items():
        if not torch.equal(after.features[m].x[stream.mask], other.features[m].x[stream.mask]):
            raise Failed("NaN in padding changes no real step", f"it changes '{m}'")


@check(Noise)
def check_noise_marks(subject: Subject) -> None:
    """A step that is not marked as erased is exactly as it was.

    `erased` is what an adversary learns to predict, what a reconstruction loss restores, and what a figure of the
    attention marks; noise that it does not show makes all three wrong.
    """
    noise, batch = _ready(subject)
    for rate in (0.3, 0.9):
        after = noisy(noise, batch, rate)
        for m, stream in batch.features.items():
            kept = stream.mask & ~after.erased[m]
            changed = int(((after.features[m].x != stream.x).any(-1) & kept).sum())
            if changed:
                raise Failed(f"unmarked steps of '{m}' are as they were", f"{changed} of {int(kept.sum())} differ")


@check(Noise)
def check_noise_scope(subject: Subject) -> None:
    """The options `scope` and `modalities`, if there are any, mean what they mean everywhere.

    `modalities` names all that can be struck, and `scope: one_modality` strikes at most one of a sample's, each of them
    in some sample: NORM-TR's Type-2 noise, and the study of one modality at a time.
    """
    noise, _ = _ready(subject)
    options = registry.options_of(subject.spec)
    given = {
        name: subject.options.get(name, options[name].default) for name in ("scope", "modalities") if name in options
    }
    if not given:
        raise NotApplicable("it has neither option")
    batch = subject.batch(256)
    struck = {m: erased.any(1) for m, erased in noisy(noise, batch, 0.9).erased.items()}
    named = given.get("modalities")
    for m, samples in struck.items():
        if named is not None and m not in named and samples.any():
            raise Failed(f"nothing but {', '.join(named)} is struck", f"'{m}' is")
    if given.get("scope") == "one_modality":
        most = int(torch.stack(list(struck.values())).sum(0).max())
        if most > 1:
            raise Failed("at most one modality of a sample is struck with scope one_modality", f"{most} are")
        for m in named or struck:
            if not struck[m].any():
                raise Failed("every modality is struck in some sample with scope one_modality", f"'{m}' never is")


@check(Noise)
def check_noise_snr(subject: Subject) -> None:
    """If `snr` is stated, noise is added at that signal-to-noise ratio.

    Decibels are comparable between papers only if they are what they are called: 10 log10 of the mean square of the
    sample's modality over that of what was added.
    """
    noise, _ = _ready(subject)
    if not noise.snr:
        raise NotApplicable("it states no snr")
    batch = subject.batch(400)
    after = noisy(noise, batch, 1.0)
    for m, (low, high) in noise.snr.items():
        stream, struck = batch.features[m], after.erased[m]
        some = struck.any(1)
        added = (after.features[m].x - stream.x).square().mean(-1)
        loud = (added * struck).sum(1)[some] / struck.sum(1)[some]
        power = (stream.x.square().mean(-1) * stream.mask).sum(1)[some] / stream.mask.sum(1)[some]
        decibels = 10 * (power / loud).log10()
        mean, error = decibels.mean().item(), decibels.std().item() / len(decibels) ** 0.5
        if not abs(mean - (low + high) / 2) < 0.3 + 5 * error:
            stated = f"{low:g} dB" if low == high else f"{low:g} to {high:g} dB, {(low + high) / 2:g} on average,"
            raise Failed(f"{stated} in '{m}'", f"{mean:.1f} dB (standard error {error:.1f})")


@check(Noise)
def check_noise_odd_input(subject: Subject) -> None:
    """Zeros, constants, and samples of one step or none stay finite.

    Silence, a still picture and a clip without a face are data; a division by their spread or length gives NaN, and a
    training run that dies at epoch 20.
    """
    noise, batch = _ready(subject)
    first = lambda s: s.mask & (torch.arange(s.mask.shape[1]) == 0)
    odd: dict[str, Callable[[Stream], Stream]] = {
        "features that are all zero": lambda s: replace(s, x=torch.zeros_like(s.x)),
        "features that never change": lambda s: replace(s, x=torch.full_like(s.x, 3.0)).zeroed(),
        "samples of one step": lambda s: replace(s, mask=first(s)).zeroed(),
        "samples without any step": lambda s: replace(s, mask=torch.zeros_like(s.mask)).zeroed(),
    }
    for what, change in odd.items():
        given = replace(batch, features={m: change(stream) for m, stream in batch.features.items()})
        for rate in (0.5, 0.9, (0.0, 1.0)):
            with expecting(f"it works with {what}"):
                after = noisy(noise, given, rate)
            for m, stream in after.features.items():
                if not stream.x.isfinite().all():
                    raise Failed(f"finite features from {what}", f"NaN or infinity in '{m}' with rate {rate}")


@check(Noise)
def check_noise_composition(subject: Subject) -> None:
    """On a batch that is noisy already, `erased` is added to and `clean` stays the first batch.

    Recipes compose noises; objectives that reconstruct need the batch from before any of them.
    """
    noise, batch = _ready(subject)
    first = {m: s.mask & (torch.arange(s.mask.shape[1]) == 0) for m, s in batch.features.items()}
    once = batch.noisy({m: s.without(first[m]) for m, s in batch.features.items()}, first)
    twice = noisy(noise, once, 0.3)
    for m in batch.features:
        lost = int((first[m] & ~twice.erased[m]).sum())
        if lost:
            raise Failed("what was erased before stays erased", f"{lost} steps of '{m}' are not any more")
    if twice.clean is not batch:
        came = "None" if twice.clean is None else "the noisy batch that went in" if twice.clean is once else "another"
        raise Failed("`clean` is the batch before the first noise", came)


def _ready(subject: Subject) -> tuple[Any, Batch]:
    noise, _ = subject.ready()
    return noise, subject.batch()


def _expected(noise: Noise, rate: float) -> dict[str, float]:
    expected = noise.expected(rate)
    if expected is None:
        raise NotApplicable("it does not say which share of the steps a rate marks")
    return expected


def _share(batch: Batch, after: Batch, m: str) -> tuple[float, float]:
    """Mean share of the real steps that is marked, and its standard error."""
    real = batch.features[m].mask
    shares = (after.erased[m] & real).sum(1) / real.sum(1).clamp(min=1)
    return shares.mean().item(), shares.std().item() / len(batch) ** 0.5


def _measured(
    subject: Subject, noise: Noise, rate: Rate, expected: dict[str, float], what: str, steps: float = 0, seed: int = 3
) -> None:
    """Fails unless the share of each modality's steps that is marked is as expected, or up to some steps less."""
    batch = subject.batch(1500)
    if set(expected) != set(batch.features):
        raise Failed(f"expected() says something of {', '.join(batch.features)}", ", ".join(expected))
    after = noisy(noise, batch, rate, seed)
    for m, share in expected.items():
        measured, error = _share(batch, after, m)
        fewer = (steps / batch.features[m].mask.sum(1).clamp(min=1)).mean().item()
        if not -5 * error - 2e-3 - fewer <= measured - share <= 5 * error + 2e-3:
            raise Failed(
                f"{share:.3f} of the steps of '{m}' are erased with {what}",
                f"{measured:.3f} (standard error {error:.3f}, {len(batch)} samples)",
            )


def alike(a: Batch, b: Batch) -> bool:
    """Whether two noisy batches are the same, but for padding."""
    return all(
        torch.equal(a.features[m].zeroed().x, b.features[m].zeroed().x) and torch.equal(a.erased[m], b.erased[m])
        for m in a.features
    )
