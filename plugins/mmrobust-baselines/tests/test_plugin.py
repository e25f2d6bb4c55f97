"""Promise: the plugin registers as a third party's does, and what it offers exists."""

from __future__ import annotations

import subprocess
import sys

import pytest
from mmrobust import registry
from mmrobust.registry import ComponentSpec

OURS = [spec for spec in registry.catalogue().all() if spec.target.startswith("mmrobust_baselines.")]


def test_it_is_not_quarantined_and_imports_nothing_heavy() -> None:
    (plugin,) = [p for p in registry.catalogue().plugins if p.distribution == "mmrobust-baselines"]
    assert plugin.state == "ok" and not plugin.warnings
    code = "import mmrobust_baselines.plugin, sys; assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], check=True)


@pytest.mark.parametrize("spec", OURS, ids=lambda spec: f"{spec.kind}-{spec.name}")
def test_every_component_can_be_read_and_says_what_its_options_mean(spec: ComponentSpec) -> None:
    assert registry.load(spec).__doc__ and spec.summary
    assert all(option.doc for option in registry.options_of(spec).values())


def test_every_component_is_used_by_a_recipe() -> None:
    from mmrobust import recipe as recipes

    texts = " ".join(path.read_text() for name, path in recipes.shipped().items() if name.startswith("peers/"))
    assert not [spec.name for spec in OURS if spec.name not in texts]
