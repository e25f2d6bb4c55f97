"""Checks of noises. The first sentence of each docstring is what must hold; the rest is why it matters to a user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmrobust import registry
from mmrobust.contracts import Batch, Rate, Stream
from mmrobust.contracts.randomness import generator
from mmrobust.errors import OptionError
from mmrobust.testing.subject import Blocked, Failed, NotApplicable, Subject, quiet_random, told
from mmrobust.testing.surroundings import Surroundings


def check_noise_batch(subject: Subject) -> None:
    """The noise returns a batch like the one it got: same samples, same labels, same masks, `erased` in full.

    Objectives and reports look up `erased` for every modality; a mask that noise changes turns an erased step into
    padding, which a model is allowed to ignore.
    """
    noise, batch = subject.build(), subject.batch()
    _structure(batch, _run(noise, batch, 0.5), "with rate 0.5")


def check_noise_rate_zero(subject: Subject) -> None:
    """Rate 0 is the identity.

    Every curve starts at rate 0, which is to be the clean score.
    """
    noise, batch = _ready(subject)
    for rate in (0.0, (0.0, 0.0)):
        noisy = _run(noise, batch, rate)
        for m, stream in batch.features.items():
            if not torch.equal(stream.x, noisy.features[m].x):
                raise Failed(f"the same features with rate {rate}", f"'{m}' has changed")
            if noisy.erased[m].any():
                raise Failed(f"nothing is erased with rate {rate}", f"{int(noisy.erased[m].sum())} steps of '{m}' are")


def check_noise_rate_one(subject: Subject) -> None:
    """Rate 1 works, gives finite features, and erases everything where `expected(1)` is 1.

    Every curve ends at rate 1; a factor 1 / (1 - rate) is infinite there.
    """
    noise, batch = _ready(subject)
    noisy = _run(noise, batch, 1.0)
    expected = noise.expected(1.0) or {}
    for m, stream in batch.features.items():
        real = stream.mask
        if not noisy.features[m].x[real].isfinite().all():
            raise Failed("finite features with rate 1", f"NaN or infinity in '{m}'")
        if expected.get(m) == 1 and (real & ~noisy.erased[m]).any():
            left = int((real & ~noisy.erased[m]).sum())
            raise Failed(f"every step of '{m}' is erased with rate 1", f"{left} of {int(real.sum())} are left")


def check_noise_input(subject: Subject) -> None:
    """The batch that goes in is not changed.

    Views, draws and rates all start from the same clean batch; noise written into it would add up.
    """
    noise, batch = _ready(subject)
    before = {m: (s.x.clone(), s.mask.clone()) for m, s in batch.features.items()}
    erased = {m: e.clone() for m, e in batch.erased.items()}
    _run(noise, batch, 0.7)
    for m, (x, mask) in before.items():
        stream = batch.features[m]
        if not torch.equal(x, stream.x) or not torch.equal(mask, stream.mask):
            raise Failed("the features that went in are as they were", f"'{m}' has changed")
        if not torch.equal(erased[m], batch.erased[m]):
            raise Failed("`erased` of the batch that went in is as it was", f"'{m}' has changed")


def check_noise_generator(subject: Subject) -> None:
    """The same generator gives the same noise, the global random state is untouched, and `fixed` is as declared.

    Resuming bit for bit, sweeps that can be run again and comparisons on the same noise all hang on it. Another
    generator has to give another noise, unless `fixed = True` says that it gives the same one, of which an evaluation
    then makes one draw instead of many.
    """
    noise, batch = _ready(subject)
    batch = subject.batch(64)
    with quiet_random(1):
        before = torch.get_rng_state()
        first = noise(batch, 0.5, generator(1))
        untouched = torch.equal(before, torch.get_rng_state())
    with quiet_random(2):
        again, other = noise(batch, 0.5, generator(1)), noise(batch, 0.5, generator(2))
    if not _alike(first, again):
        raise Failed("the same noise from the same generator", "it differs")
    if not untouched:
        raise Failed("numbers are drawn from the generator alone", "the global random state has moved on")
    same = _alike(first, other)
    if same and not noise.fixed:
        raise Failed("another noise from another generator", "it is the same; does the noise draw from it at all?")
    if noise.fixed and not same:
        raise Failed("the same noise from any generator, as fixed = True declares", "it differs")


def check_noise_rate(subject: Subject) -> None:
    """The share of real steps that is marked as erased is what `expected(rate)` says, in each modality.

    The rate is the x axis of every robustness curve; a noise that strikes less than it says looks easy.
    """
    noise, _ = _ready(subject)
    for rate in (0.25, 0.5, 0.75):
        _measured(subject, noise, rate, _told(noise, rate), f"rate {rate}")


def check_noise_rate_range(subject: Subject) -> None:
    """A pair draws a rate for each sample, uniformly between its ends.

    Training draws from [0, 0.5]; a rate for the whole batch would make some steps all noise and others none.
    """
    noise, _ = _ready(subject)
    shares = [_told(noise, 0.5 * (i + 0.5) / 64) for i in range(64)]
    mean = {m: sum(share[m] for share in shares) / 64 for m in shares[0]}
    _measured(subject, noise, (0.0, 0.5), mean, "rates from 0 to 0.5")


def check_noise_padding(subject: Subject) -> None:
    """Padding is never counted as erased, and what stands in it, NaN included, changes nothing.

    Counted as erased, padding would tell an adversary how long a sample is, and the measured rate would depend on how
    batches are put together.
    """
    noise, batch = _ready(subject)
    noisy = _run(noise, batch, 0.6)
    for m, stream in batch.features.items():
        wrong = noisy.erased[m] & ~stream.mask
        if wrong.any():
            raise Failed("padding is not erased", f"{int(wrong.sum())} steps of padding in '{m}' are")
    dirty = {m: replace(s, x=s.x.masked_fill(~s.mask.unsqueeze(-1), float("nan"))) for m, s in batch.features.items()}
    other = _run(noise, replace(batch, features=dirty), 0.6)
    for m, stream in batch.features.items():
        real = stream.mask
        if not torch.equal(noisy.features[m].x[real], other.features[m].x[real]):
            raise Failed("NaN in padding changes no real step", f"it changes '{m}'")


def check_noise_monotone(subject: Subject) -> None:
    """A higher rate never marks a smaller share of the steps.

    A curve over the rates is read from left to right, from clean to worst.
    """
    noise, _ = _ready(subject)
    batch = subject.batch(1500)
    before: dict[str, tuple[float, float]] = {}
    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        noisy = _run(noise, batch, rate)
        for m in batch.features:
            share, error = _share(batch, noisy, m)
            least, wide = before.get(m, (0.0, 0.0))
            if share < least - 5 * (error + wide) - 2e-3:
                raise Failed(f"at least {least:.3f} of the steps of '{m}' with rate {rate}", f"{share:.3f}")
            before[m] = (share, error)


def check_noise_marks(subject: Subject) -> None:
    """A step that is not marked as erased is exactly as it was.

    Whoever asks which steps were corrupted (an adversary, a reconstruction loss, a figure of the attention) looks at
    `erased`; noise that it does not show makes their answers wrong.
    """
    noise, batch = _ready(subject)
    for rate in (0.3, 0.9):
        noisy = _run(noise, batch, rate)
        for m, stream in batch.features.items():
            kept = stream.mask & ~noisy.erased[m]
            changed = (noisy.features[m].x != stream.x).any(-1) & kept
            if changed.any():
                raise Failed(
                    f"unmarked steps of '{m}' are as they were", f"{int(changed.sum())} of {int(kept.sum())} differ"
                )


def check_noise_flags(subject: Subject) -> None:
    """If `constant` is promised, erased steps are exactly zero, and which they are has nothing to do with the features.

    The house then computes what the model makes of an erased step once instead of thousands of times, by `erased`
    alone, which it draws without any features; a step that is flagged and kept makes those scores wrong.
    """
    noise, batch = _ready(subject)
    if not noise.constant:
        raise NotApplicable("it does not declare constant = True")
    for rate in (0.3, 0.9):
        noisy = _run(noise, batch, rate)
        for m in batch.features:
            if noisy.features[m].x[noisy.erased[m]].any():
                raise Failed(
                    "erased steps are zero; else do not declare constant = True", f"'{m}' has some that are not"
                )
        expected = "the same steps are erased whatever the features hold; else do not declare constant = True"
        try:
            blind = _run(noise, batch.outline(), rate)
        except Exception as error:
            raise Failed(expected, told(error)) from error
        for m in batch.features:
            if not torch.equal(blind.erased[m], noisy.erased[m]):
                raise Failed(expected, f"other steps of '{m}' are, where the features are one zero each")


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
    noisy = _run(noise, batch, 0.9)
    hit = {m: noisy.erased[m].any(1) for m in batch.features}
    named = given.get("modalities")
    for m, struck in hit.items():
        if named is not None and m not in named and struck.any():
            raise Failed(f"nothing but {', '.join(named)} is struck", f"'{m}' is")
    if given.get("scope") == "one_modality":
        most = int(torch.stack(list(hit.values())).sum(0).max())
        if most > 1:
            raise Failed("at most one modality of a sample is struck with scope one_modality", f"{most} are")
        for m in named or hit:
            if not hit[m].any():
                raise Failed("every modality is struck in some sample with scope one_modality", f"'{m}' never is")


def check_noise_snr(subject: Subject) -> None:
    """If `snr` is stated, noise is added at that signal-to-noise ratio.

    Decibels are comparable between papers only if they are what they are called: 10 log10 of the mean square of the
    sample's modality over that of what was added.
    """
    noise, _ = _ready(subject)
    if not noise.snr:
        raise NotApplicable("it states no snr")
    batch = subject.batch(400)
    noisy = _run(noise, batch, 1.0)
    for m, (low, high) in noise.snr.items():
        stream, struck = batch.features[m], noisy.erased[m]
        some = struck.any(1)
        added = (noisy.features[m].x - stream.x).square().mean(-1)
        loud = (added * struck).sum(1)[some] / struck.sum(1)[some]
        power = (stream.x.square().mean(-1) * stream.mask).sum(1)[some] / stream.mask.sum(1)[some]
        decibels = 10 * (power / loud).log10()
        found, error = decibels.mean().item(), decibels.std().item() / len(decibels) ** 0.5
        if not abs(found - (low + high) / 2) < 0.3 + 5 * error:
            asked = f"{low:g} dB" if low == high else f"{low:g} to {high:g} dB, {(low + high) / 2:g} on average,"
            raise Failed(f"{asked} in '{m}'", f"{found:.1f} dB (standard error {error:.1f})")


def check_noise_odd_input(subject: Subject) -> None:
    """Zeros, constants, samples of one step or none, and a batch of one sample stay finite.

    Silence, a still picture and a clip without a face are data; a division by their spread or length gives NaN, and a
    training run that dies at epoch 20.
    """
    noise, batch = _ready(subject)
    step = {m: torch.arange(s.mask.shape[1]) for m, s in batch.features.items()}
    odd: dict[str, Callable[[str, Stream], Stream]] = {
        "features that are all zero": lambda m, s: replace(s, x=torch.zeros_like(s.x)),
        "features that never change": lambda m, s: replace(s, x=torch.full_like(s.x, 3.0)).zeroed(),
        "samples of one step": lambda m, s: replace(s, mask=s.mask & (step[m] == 0)).zeroed(),
        "samples without any step": lambda m, s: replace(s, mask=torch.zeros_like(s.mask)).zeroed(),
        "a batch of one sample": lambda m, s: Stream(s.x[:1], s.mask[:1], None if s.times is None else s.times[:1]),
    }
    for what, change in odd.items():
        features = {m: change(m, stream) for m, stream in batch.features.items()}
        count = 1 if "batch of one" in what else len(batch)
        label = None if batch.label is None else batch.label[:count]
        given = Batch.fresh(features, label, batch.index[:count])
        for rate in (0.5, 0.9, (0.0, 1.0)):
            try:
                noisy = _run(noise, given, rate)
                _structure(given, noisy, f"with {what}")
            except Failed:
                raise
            except Exception as error:
                raise Failed(f"it works with {what}", told(error)) from error
            for m, stream in noisy.features.items():
                if not stream.x.isfinite().all():
                    raise Failed(f"finite features from {what}", f"NaN or infinity in '{m}' with rate {rate}")


def check_noise_composition(subject: Subject) -> None:
    """On a batch that is noisy already, `erased` is added to and `clean` stays the first batch.

    Recipes compose noises; objectives that reconstruct need the batch from before any of them.
    """
    noise, batch = _ready(subject)
    first = {m: s.mask & (torch.arange(s.mask.shape[1]) == 0) for m, s in batch.features.items()}
    features = {m: replace(s, x=s.x.masked_fill(first[m].unsqueeze(-1), 0)) for m, s in batch.features.items()}
    once = batch.noisy(features, first)
    twice = _run(noise, once, 0.3)
    for m in batch.features:
        lost = first[m] & ~twice.erased[m]
        if lost.any():
            raise Failed("what was erased before stays erased", f"{int(lost.sum())} steps of '{m}' are not any more")
    if twice.clean is not batch:
        came = "None" if twice.clean is None else "the noisy batch that went in" if twice.clean is once else "another"
        raise Failed("`clean` is the batch before the first noise", came)


def check_modality_order(subject: Subject) -> None:
    """The order of the modalities' dict changes nothing.

    A noise that draws in the dict's order gives other noise when somebody lists the modalities differently; go by
    `context.modalities`.
    """
    noise, batch = _ready(subject)
    if len(batch.features) < 2:
        raise NotApplicable("there is only one modality")
    turned = replace(batch, features=dict(reversed(batch.features.items())))
    if not _alike(_run(noise, batch, 0.5), _run(noise, turned, 0.5)):
        raise Failed("the same noise for dicts in any order", "it differs")


def check_modality_counts(subject: Subject) -> None:
    """One, two, three and four modalities work.

    RML has two modalities and an ablation over modalities has one.
    """
    _ready(subject)
    for count in (1, 2, 3, 4):
        _try_in(subject, replace(subject.base, modalities=count), refusable=False)


def check_unequal_lengths(subject: Subject) -> None:
    """Modalities of different lengths work, or are refused by an OptionError.

    Unaligned MOSI has 50, 375 and 500 steps.
    """
    _ready(subject)
    _try_in(subject, replace(subject.base, unequal=True), refusable=True)


def check_missing_modality(subject: Subject) -> None:
    """A modality that is wholly masked works.

    Some clips have no face, or no speech, at all.
    """
    noise, batch = _ready(subject)
    gone = torch.arange(len(batch)) % 2 == 0
    features = dict(batch.features)
    first = next(iter(features))
    features[first] = replace(features[first], mask=features[first].mask & ~gone.unsqueeze(1)).zeroed()
    try:
        noisy = _run(noise, replace(batch, features=features), 0.5)
    except Exception as error:
        raise Failed("samples without a modality work", told(error)) from error
    for m, stream in noisy.features.items():
        if not stream.x.isfinite().all():
            raise Failed("finite features where a modality is missing", f"NaN or infinity in '{m}'")


def _ready(subject: Subject) -> tuple[Any, Batch]:
    noise, batch = subject.build(), subject.batch()
    try:
        _structure(batch, _run(noise, batch, 0.5), "")
    except Exception:
        raise Blocked("a plain call fails, see check_noise_batch") from None
    return noise, batch


def _run(noise: Any, batch: Batch, rate: Rate) -> Batch:
    with quiet_random(0):
        return noise(batch, rate, generator(3))


def _structure(batch: Batch, noisy: Any, where: str) -> None:
    if not isinstance(noisy, Batch):
        raise Failed(f"a Batch {where}", f"a {type(noisy).__name__}")
    if set(noisy.features) != set(batch.features) or set(noisy.erased) != set(batch.features):
        raise Failed(
            f"features and erased of {', '.join(batch.features)} {where}",
            f"{', '.join(noisy.features)} and {', '.join(noisy.erased)}",
        )
    for m, stream in batch.features.items():
        after = noisy.features[m]
        if after.x.shape != stream.x.shape or after.x.dtype != stream.x.dtype:
            raise Failed(
                f"'{m}' keeps its shape {tuple(stream.x.shape)} and dtype", f"{tuple(after.x.shape)}, {after.x.dtype}"
            )
        if not torch.equal(after.mask, stream.mask):
            raise Failed(f"'{m}' keeps its mask", "the mask has changed; erased steps stay real")
        erased = noisy.erased[m]
        if erased.shape != stream.mask.shape or erased.dtype != torch.bool:
            raise Failed(
                f"`erased` of '{m}' is bool, {tuple(stream.mask.shape)}", f"{erased.dtype}, {tuple(erased.shape)}"
            )
    same = noisy.label is batch.label or (
        isinstance(noisy.label, Tensor) and isinstance(batch.label, Tensor) and torch.equal(noisy.label, batch.label)
    )
    if not same or not torch.equal(noisy.index, batch.index):
        raise Failed("labels and index stay", "they have changed")


def _told(noise: Any, rate: float) -> dict[str, float]:
    expected = noise.expected(rate)
    if expected is None:
        raise NotApplicable("it does not say which share of the steps a rate marks")
    return expected


def _share(batch: Batch, noisy: Batch, m: str) -> tuple[float, float]:
    """Mean share of the real steps that is marked, and its standard error."""
    real = batch.features[m].mask
    found = (noisy.erased[m] & real).sum(1) / real.sum(1).clamp(min=1)
    return found.mean().item(), found.std().item() / len(batch) ** 0.5


def _measured(subject: Subject, noise: Any, rate: Rate, expected: dict[str, float], what: str) -> None:
    batch = subject.batch(1500)
    if set(expected) != set(batch.features):
        raise Failed(f"expected() tells of {', '.join(batch.features)}", ", ".join(expected))
    noisy = _run(noise, batch, rate)
    for m, share in expected.items():
        found, error = _share(batch, noisy, m)
        if abs(found - share) > 5 * error + 2e-3:
            raise Failed(
                f"{share:.3f} of the steps of '{m}' are erased with {what}",
                f"{found:.3f} (standard error {error:.3f}, {len(batch)} samples)",
            )


def _try_in(subject: Subject, around: Surroundings, *, refusable: bool) -> None:
    try:
        noise = subject.build(around)
    except OptionError as error:
        if refusable or around.modalities not in range(subject.counts[0], subject.counts[1] + 1):
            raise NotApplicable(f"it refuses {around}: {error}") from None
        raise Failed(f"it works with {around}", f"refused: {error}") from error
    batch = subject.batch(around=around)
    try:
        _structure(batch, _run(noise, batch, 0.5), f"with {around}")
    except Failed:
        raise
    except Exception as error:
        raise Failed(f"it works with {around}", told(error)) from error


def _alike(a: Batch, b: Batch) -> bool:
    def same(x: Stream, y: Stream) -> bool:
        return torch.equal(x.zeroed().x, y.zeroed().x)

    return all(same(a.features[m], b.features[m]) and torch.equal(a.erased[m], b.erased[m]) for m in a.features)
