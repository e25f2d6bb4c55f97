"""Promise: every part passes mmrobust's conformance kit; none can be forgotten, for they come from the catalogue."""

from __future__ import annotations

from typing import Any

import pytest
from mmrobust import registry
from mmrobust.contracts import Part
from mmrobust.testing import Case, Subject, checks_for
from small import timm_works

OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("fusion", "early_lstm"): {"hidden": 8, "unaligned": "stretch"},
    ("fusion", "low_rank"): {"rank": 2},
    ("generic_extractor", "mfn"): {"hidden": 4, "memory": 5, "between": 6, "unaligned": "stretch"},
    ("specific_extractor", "factor_lstm"): {"hidden": 4},
    ("fusion", "factor"): {"out": 8},
    ("objective", "generative"): {"factor": 4},
    ("encoder", "intra_inter"): {"depth": 1, "heads": 2},
    ("generic_extractor", "temporal_attention"): {"heads": 2},
    ("fusion", "gate_encoder"): {"hidden": 4},
    ("fusion", "translation_chain"): {"hidden": 16},
    ("objective", "translation"): {"hidden": 4},
    ("fusion", "outer_cnn"): {"channels": 2, "grid": 3, "out": 4},
    ("fusion", "message_hub"): {"depth": 1, "heads": 2},
    ("fusion", "word_shift"): {"hidden": 4, "nonverbal": 3, "most": 3},
    ("encoder", "transformer"): {"heads": 2},
    ("fusion", "multiscale_vlad"): {"scales": [1, 2], "clusters": 3, "heads": 2},
    ("objective", "shifted_clustering"): {"clusters": 3, "rounds": 2},
    ("fusion", "vit"): {"depth": 1, "heads": 2},
    ("fusion", "concat_mlp"): {"hidden": 8},
    ("fusion", "crossmodal_pairs"): {"depth": 1, "self_depth": 1, "heads": 2},
    ("objective", "unimodal_labels"): {"hidden": 4},
    ("encoder", "tokens"): {"tokens": 3, "heads": 2, "each": 3},
    ("fusion", "hyper_modality"): {"heads": 2, "each": 3},
    ("fusion", "dominant_correction"): {"heads": 2, "each": 3},
    ("objective", "token_reconstruction"): {"depth": 1, "heads": 2, "each": 3},
    ("fusion", "proxy_modality"): {"heads": 2, "each": 3, "depth": 2},
    ("objective", "proxy_variational"): {"depth": 1, "heads": 2, "each": 3},
    ("fusion", "mutual_promotion"): {"width": 8, "depth": 2, "heads": 2, "ratio": 2},
    ("objective", "local_reconstruction"): {"width": 8},
}
BESIDE: dict[tuple[str, str], dict[str, Part[Any]]] = {
    ("objective", "translation"): {"fusion": Part("translation_chain", {"hidden": 16})},
    ("objective", "attraction"): {"fusion": Part("mutual_promotion", {"width": 8, "heads": 2, "ratio": 2})},
    ("objective", "local_reconstruction"): {"fusion": Part("mutual_promotion", {"width": 8, "heads": 2, "ratio": 2})},
    ("objective", "proxy_variational"): {
        "encoder": Part("tokens", {"tokens": 3, "heads": 2, "each": 3}),
        "fusion": Part("proxy_modality", {"heads": 2, "each": 3}),
    },
    ("objective", "completeness"): {"fusion": Part("dominant_correction", {"heads": 2, "each": 3})},
    ("objective", "effectiveness"): {"fusion": Part("dominant_correction", {"heads": 2, "each": 3})},
    ("objective", "cca"): {"fusion": Part("outer_cnn", {"channels": 2, "grid": 3, "out": 4})},
}


def subjects() -> list[Subject]:
    ours = {(s.kind, s.name) for s in registry.catalogue().all() if s.target.startswith("mmrobust_baselines.")}
    if not timm_works():
        ours.discard(("fusion", "vit"))
    return [Subject(*key, options=OPTIONS.get(key), beside=BESIDE.get(key)) for key in sorted(ours)]


# Tracing takes minutes for all parts together: `pytest -m slow` runs the checks that do, and CI does.
def cases() -> list[Any]:
    return [
        pytest.param(case, id=repr(case), marks=[pytest.mark.slow] if check.slow else [])
        for subject in subjects()
        for check in checks_for(subject.kind)
        for case in [Case(subject, check)]
    ]


@pytest.mark.parametrize("check", cases())
def test_a_part_conforms(check: Case) -> None:
    check()
