"""Promise: every part passes mmrobust's conformance kit; none can be forgotten, for they come from the catalogue."""

from __future__ import annotations

from typing import Any

from mmrobust import registry
from mmrobust.contracts import Part
from mmrobust.testing import Case, Subject, parametrize_with_checks

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("fusion", "early_lstm"): {"hidden": 8, "unaligned": "stretch"},
    ("fusion", "low_rank"): {"rank": 2},
    ("generic_extractor", "mfn"): {"hidden": 4, "memory": 5, "between": 6, "unaligned": "stretch"},
    ("specific_extractor", "factor_lstm"): {"hidden": 4},
    ("fusion", "factor"): {"out": 8},
    ("objective", "generative"): {"factor": 4, "hidden": 5},
    ("encoder", "intra_inter"): {"depth": 1, "heads": 2},
    ("generic_extractor", "temporal_attention"): {"heads": 2},
    ("fusion", "gate_encoder"): {"hidden": 4},
    ("fusion", "concat_mlp"): {"hidden": 8},
    ("fusion", "crossmodal_pairs"): {"depth": 1, "self_depth": 1, "heads": 2},
    ("objective", "unimodal_labels"): {"hidden": 4},
}
BESIDE: dict[tuple[str, str], dict[str, Part[Any]]] = {}
_STILL = "labels have not moved yet, and the paper weighs by tanh(|y_s - y_m|), which is then zero"
EXPECTED: dict[tuple[str, str], dict[str, str]] = {
    ("objective", "unimodal_labels"): {"check_gradients": _STILL, "check_objective_reaches": _STILL},
}


def subjects() -> list[Subject]:
    ours = {(s.kind, s.name) for s in registry.catalogue().all() if s.target.startswith("mmrobust_baselines.")}
    # This one refuses every fused stream that is not as wide as the prediction, and the kit has no such stream.
    ours.discard(("head", "given"))
    return [
        Subject(*key, options=OPTIONS.get(key), beside=BESIDE.get(key), expected_failures=EXPECTED.get(key))
        for key in sorted(ours)
    ]


@parametrize_with_checks(subjects())
def test_a_part_conforms(check: Case) -> None:
    check()
