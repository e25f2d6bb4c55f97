"""What all benchmarks share: our plugins, installed or not, and torch's threads as they were."""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from mmrobust import registry

PLUGINS = Path(__file__).parent.parent / "plugins"


def _stand_in(folder: Path) -> None:
    """Makes a distribution in a checkout look installed, in this process, if it is not."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        metadata.distribution(project["name"])
    except metadata.PackageNotFoundError:
        made = Path(tempfile.mkdtemp()) / f"{project['name'].replace('-', '_')}-0.dist-info"
        made.mkdir()
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
        points = project["entry-points"]["mmrobust"]
        lines = [f"{name} = {target}" for name, target in points.items()]
        (made / "entry_points.txt").write_text("\n".join(["[mmrobust]", *lines, ""]))
        sys.path[:0] = [str(folder), str(made.parent)]
        registry.reset()


for one in sorted(PLUGINS.glob("*/pyproject.toml")):
    _stand_in(one.parent)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
