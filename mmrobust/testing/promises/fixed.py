"""Promise `fixed`: the noise is the same whatever the generator."""

from __future__ import annotations

from mmrobust.contracts import Noise
from mmrobust.testing.check import check
from mmrobust.testing.failures import Failed
from mmrobust.testing.promises.noise import alike, noisy
from mmrobust.testing.subject import Subject


@check(Noise, promise="fixed")
def check_fixed(subject: Subject) -> None:
    """Any generator gives the same noise.

    An evaluation then makes one draw instead of many; it would report one sample as if it were the mean.
    """
    noise, _ = subject.ready()
    batch = subject.batch(64)
    if not alike(noisy(noise, batch, 0.5, seed=1), noisy(noise, batch, 0.5, seed=2)):
        raise Failed("the same noise from any generator", "it differs")
