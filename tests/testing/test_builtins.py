"""Promise: every built-in component passes the conformance kit; they come from the catalogue, so none is forgotten."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrobust import registry
from mmrobust.contracts import Part, Task
from mmrobust.data.arrays import save_arrays
from mmrobust.registry.spec import ComponentSpec
from mmrobust.testing import Case, Subject, checks_for, parametrize_with_checks

#: Options that no list of choices names: numbers, dicts, other parts.
OPTIONS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("noise", "window_erase"): [{"bursts": 3, "scope": "one_modality", "modalities": ["speech"]}],
    ("noise", "frame_drop"): [{"fill": {"speech": [1.0] * 12}}],
    ("noise", "gaussian"): [
        {"snr": 20.0, "pattern": "window", "scope": "one_modality"},
        {"snr": (-5.0, 15.0)},
        {"snr": {"speech": 3.0}},
    ],
    ("noise", "babble"): [{"snr": {"speech": 6.0}, "pattern": "steps"}],
    ("noise", "spikes"): [{"scale": 1.0, "tail": 1.0}],
    ("noise", "shuffle"): [{"window": 2, "scope": "one_modality"}, {"window": 100}],
    ("noise", "saturation"): [{"limit": 0.0, "pattern": "steps"}],
    ("noise", "quantization"): [{"levels": 2, "pattern": "steps"}],
    ("noise", "tfr_net"): [{"text": "speech", "seeds": {"speech": 7}}],
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
    ("fusion", "cross_attention"): [{"depth": 1, "dropout": 0.3, "key_value": "generic"}],
    ("head", "mean_pool_linear"): [{"norm": False, "dropout": 0.5}],
    ("discriminator", "mlp"): [{"dropout": 0.5}],
    ("objective", "modality_adversary"): [{"discriminator": Part("mlp", {"pool": "mean"}), "explain": "none"}],
    ("objective", "noise_adversary"): [{"grl": 0.5}],
}


def variants(spec: ComponentSpec) -> Iterator[dict[str, Any]]:
    """Options other than the defaults: every choice of each, and what `OPTIONS` adds."""
    options = registry.options_of(spec)
    if "modalities" in options:
        yield {"modalities": ["speech"]}
    for name, option in options.items():
        values = [value for form in (option.form, *option.form.items) for value in form.values]
        values += [True, False] if option.form.kind == "bool" else []
        yield from ({name: value} for value in values if value != option.default)
    yield from OPTIONS.get((spec.kind, spec.name), [])


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


#: Checks that a built-in fails by design, and why.
EXPECTED = {("generic_extractor", "constant"): {"check_gradients": "it says nothing of what comes in, for ablations"}}


def subject(spec: ComponentSpec, **options: Any) -> Subject:
    return Subject(spec.kind, spec.name, expected_failures=EXPECTED.get((spec.kind, spec.name)), **options)


@parametrize_with_checks(subject(spec) for spec in BUILTIN)
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


CASES = [
    (subject(spec, options=options), check, f"{spec.kind}-{spec.name}-{i}-{check.name}")
    for spec in BUILTIN
    if spec.kind != "dataset"
    for i, options in enumerate(variants(spec))
    for check in checks_for(spec.kind)
    if not check.slow  # other options take other branches of Python, which the quick checks see as well
]


@pytest.mark.parametrize("check", [pytest.param(Case(subject, check), id=name) for subject, check, name in CASES])
def test_builtin_with_other_options(check: Case) -> None:
    check()


def test_every_builtin_that_has_parts_is_tried_with_other_ones() -> None:
    """Choices are tried by themselves; which other parts there may be is not known."""
    for spec in BUILTIN:
        if spec.kind != "dataset" and "slot" in [option.form.kind for option in registry.options_of(spec).values()]:
            assert (spec.kind, spec.name) in OPTIONS
