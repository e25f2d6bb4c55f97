"""Promise `constant`: erased steps are zero, and which they are does not depend on the features."""

from __future__ import annotations

import torch

from mmrobust.contracts import Noise
from mmrobust.testing.check import check
from mmrobust.testing.failures import Failed, expecting
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
    outline = batch.outline()  # one zero for each step
    for rate in (0.3, 0.9):
        after = noisy(noise, batch, rate)
        for m in batch.features:
            if after.features[m].x[after.erased[m]].any():
                raise Failed("erased steps are zero", f"'{m}' has some that are not")
        expected = "the same steps are erased whatever the features hold"
        with expecting(expected):
            again = noisy(noise, outline, rate)
        for m in batch.features:
            if not torch.equal(again.erased[m], after.erased[m]):
                raise Failed(expected, f"other steps of '{m}' are, where the features are one zero each")
