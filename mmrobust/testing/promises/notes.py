"""Rule: a part writes the notes that it declares."""

from __future__ import annotations

import torch

from mmrobust.contracts import Encoder, Fusion, GenericExtractor, SpecificExtractor
from mmrobust.testing.check import check
from mmrobust.testing.failures import Failed, NotApplicable
from mmrobust.testing.subject import Subject


@check(Encoder, GenericExtractor, SpecificExtractor, Fusion)
def check_notes(subject: Subject) -> None:
    """Each note that `writes` declares is written by every pass.

    An objective that needs it is built beside this part, and fails at the first step where it is missing.
    """
    module, inputs = subject.ready()
    if not module.writes:
        raise NotApplicable("it declares no notes")
    given = subject.arguments(module, inputs)
    with torch.no_grad():
        module(*given.values())
    missing = [name for name in module.writes if name not in given["notes"]]
    if missing:
        raise Failed(f"the notes {', '.join(module.writes)}, as `writes` declares", f"no {', '.join(missing)}")
