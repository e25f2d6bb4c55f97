"""Every built-in component passes the conformance kit; a new one is found in the catalogue and cannot be forgotten."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrobust import registry
from mmrobust.contracts import Part, Task
from mmrobust.data.arrays import save_arrays
from mmrobust.testing import Case, Subject, checks_for, parametrize_with_checks

#: Options beside the defaults, for what they switch on.
OPTIONS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("noise", "window_erase"): [
        {"scope": "one_modality"},
        {"modalities": ["speech"]},
        {"bursts": 3, "scope": "one_modality", "modalities": ["speech"]},
    ],
    ("noise", "frame_drop"): [
        {"modalities": ["speech"]},
        {"fill": "mean", "scope": "one_modality"},
        {"fill": {"speech": [1.0] * 12}},
    ],
    ("noise", "modality_drop"): [{"keep_one": True}, {"scope": "one_modality"}, {"modalities": ["speech"]}],
    ("noise", "feature_dropout"): [{"unit": "feature"}, {"scope": "one_modality"}, {"modalities": ["speech"]}],
    ("noise", "gaussian"): [
        {"snr": 20.0, "pattern": "window", "scope": "one_modality"},
        {"snr": (-5.0, 15.0), "pattern": "whole", "modalities": ["speech"]},
        {"snr": {"speech": 3.0}},
    ],
    ("noise", "babble"): [
        {"snr": -3.0, "pattern": "whole", "scope": "one_modality"},
        {"snr": {"speech": 6.0}, "pattern": "steps"},
    ],
    ("noise", "spikes"): [{"scale": 1.0, "tail": 1.0, "pattern": "window", "scope": "one_modality"}],
    ("noise", "shuffle"): [{"window": 2, "scope": "one_modality"}, {"window": 100, "modalities": ["speech"]}],
    ("noise", "time_shift"): [
        {"scope": "every_modality"},
        {"direction": "late"},
        {"direction": "early", "modalities": ["speech"]},
    ],
    ("noise", "freeze"): [
        {"pattern": "steps", "scope": "one_modality"},
        {"pattern": "whole", "modalities": ["speech"]},
    ],
    ("noise", "saturation"): [{"limit": 0.0, "pattern": "steps", "scope": "one_modality"}, {"pattern": "window"}],
    ("noise", "quantization"): [{"levels": 2, "pattern": "steps", "scope": "one_modality"}, {"pattern": "window"}],
    ("noise", "tfr_net"): [{"text": "speech", "seeds": {"speech": 7}}, {"modalities": ["speech"]}],
    ("noise", "mmsa"): [{"text": "speech"}, {"fill": {"speech": [0.5] * 12}, "modalities": ["speech"]}],
    ("noise", "lnln"): [{"text": "speech"}, {"clean": 0.5}],
    ("noise", "sequence"): [
        {"noises": [Part("window_erase"), Part("lnln", {"text": "speech"})]},
        {
            "noises": [Part("gaussian", {"snr": {"speech": 3.0}}), Part("freeze", {"modalities": ["speech"]})],
            "factors": [1.0, 0.5],
        },
    ],
    ("noise", "one_of"): [
        {
            "noises": [Part("frame_drop"), Part("sequence", {"noises": [Part("babble"), Part("spikes")]})],
            "weights": [3.0, 1.0],
            "clean": 0.25,
        },
    ],
    ("encoder", "each"): [{"parts": {"speech": Part("none")}}],
    ("generic_extractor", "shared_mlp"): [{"out": 5, "hidden": 7, "dropout": 0.5}],
    ("specific_extractor", "per_modality_mlp"): [{"out": 5, "hidden": 7, "dropout": 0.5}],
    ("fusion", "cross_attention"): [
        {"position": "token", "norm": "post", "dropout": 0.3},
        {"position": "none", "query": "specific", "key_value": "specific", "depth": 1},
    ],
    ("head", "mean_pool_linear"): [{"norm": False, "dropout": 0.5}],
    ("discriminator", "linear"): [{"pool": "mean"}],
    ("discriminator", "mlp"): [{"pool": "mean", "dropout": 0.5}],
    ("objective", "task"): [{"loss": "mae"}, {"loss": "huber"}],
    ("objective", "modality_adversary"): [
        {"discriminator": Part("mlp", {"pool": "mean"}), "explain": "none", "train_specific": True},
        {"schedule": "ramp"},
    ],
    ("objective", "noise_adversary"): [{"target": "which"}, {"negatives": "clean", "grl": 0.5}],
}

Writer = Callable[[Path], Path]
WIDTHS = {"text": 5, "audio": 3, "vision": 2}
COUNTS = {"train": 12, "valid": 5, "test": 5}


def write_arrays(folder: Path) -> Path:
    random = np.random.default_rng(0)
    splits = {
        name: {m: random.normal(size=(n, 7, w)).astype("f4") for m, w in WIDTHS.items()}
        | {f"{m}_length": random.integers(1, 8, n) for m in WIDTHS}
        | {"label": np.arange(n) % 3, "id": [f"clip {i}" for i in range(n)]}
        for name, n in COUNTS.items()
    }
    return save_arrays(folder / "arrays.npz", splits, task=Task("classification", 3, "classification"))


def write_mmsa(folder: Path) -> Path:
    random = np.random.default_rng(0)
    splits = {
        name: {m: random.normal(size=(n, 7, w)).astype("f4") for m, w in WIDTHS.items()}
        | {
            "raw_text": np.array(["said"] * n),
            "id": np.array([f"video$_${i}" for i in range(n)]),
            "audio_lengths": [1 + i % 7 for i in range(n)],
            "vision_lengths": [1 + i % 7 for i in range(n)],
            "regression_labels": random.uniform(-3, 3, n),
        }
        for name, n in COUNTS.items()
    }
    path = folder / "mmsa.pkl"
    path.write_bytes(pickle.dumps(splits))
    return path


def write_mult(folder: Path) -> Path:
    random = np.random.default_rng(0)
    splits = {
        name: {m: random.normal(size=(n, 7, w)).astype("f4") for m, w in WIDTHS.items()}
        | {"labels": np.eye(2)[random.integers(0, 2, (n, 4))]}
        for name, n in COUNTS.items()
    }
    path = folder / "mult.pkl"
    path.write_bytes(pickle.dumps(splits))
    return path


FILES: dict[str, Writer] = {"arrays": write_arrays, "mmsa": write_mmsa, "mult": write_mult}

BUILTIN = [spec for spec in registry.catalogue().all() if spec.distribution == "mmrobust"]


@parametrize_with_checks(Subject(spec.kind, spec.name) for spec in BUILTIN)
def test_builtin(check: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    if check.subject.kind == "dataset" and "path" in registry.options_of(check.subject.spec):
        folder = tmp_path_factory.mktemp("data")
        check(path=FILES[check.subject.name](folder))
    elif check.subject.kind == "noise" and "noises" in registry.options_of(check.subject.spec):
        check(noises=[Part("window_erase"), Part("modality_drop", {"modalities": ["speech"]})])
    elif check.subject.name == "synthetic_affect":
        check(train=64, valid=16, test=16)
    else:
        check()


def _variants() -> list[Any]:
    return [
        pytest.param(Case(subject, check), id=f"{kind}-{name}-{i}-{check.name}")
        for (kind, name), variants in OPTIONS.items()
        for i, options in enumerate(variants)
        for subject in [Subject(kind, name, options=options)]
        for check in checks_for(kind)
        if not check.slow  # other options take other branches of Python, which the quick checks see as well
    ]


@pytest.mark.parametrize("check", _variants())
def test_builtin_with_other_options(check: Case) -> None:
    check()


def test_every_builtin_that_has_choices_is_tried_with_other_ones() -> None:
    """Options of type Literal or Part switch code on and off: the defaults alone do not show it."""
    for spec in BUILTIN:
        forms = [option.form.kind for option in registry.options_of(spec).values()]
        if spec.kind != "dataset" and {"literal", "slot"} & set(forms):
            assert (spec.kind, spec.name) in OPTIONS
