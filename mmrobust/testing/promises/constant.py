"""Promise `constant`: erased steps are zero, and which they are does not depend on the features."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmrobust.contracts import Noise
from mmrobust.testing.check import check
from mmrobust.testing.failures import Failed, explained
from mmrobust.testing.promises.noise import noisy
from mmrobust.testing.subject import Subject


@check(Noise, promise="constant")
def check_constant(subject: Subject) -> None:
    """Erased steps are exactly zero, and which they are has nothing to do with the features.

    What the model computes from an erased step is then computed once instead of thousands of times, and picked by
    `erased` alone; a step that is marked and kept makes those scores wrong.
    """
    noise, _ = subject.ready()
    batch = subject.batch()
    other = replace(batch, features={m: s.map(lambda x: 3 - 2 * x) for m, s in batch.features.items()})
    for rate in (0.3, 0.9):
        after = noisy(noise, batch, rate)
        for m in batch.features:
            if after.features[m].x[after.erased[m]].any():
                raise Failed("erased steps are zero", f"'{m}' has some that are not")
        expected = "the same steps are erased whatever the features hold"
        try:
            again = noisy(noise, other, rate)
        except Exception as error:
            raise Failed(expected, explained(error)) from error
        for m in batch.features:
            if not torch.equal(again.erased[m], after.erased[m]):
                raise Failed(expected, f"other steps of '{m}' are, where the features are others")
