"""What all tests share: one thread each (they run in parallel), no plugins but our own, and trust of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MMROBUST_PLUGINS", "")  # no installed plugin; files named by a test are not concerned
_STATE = tempfile.TemporaryDirectory(prefix="mmrobust-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name
if not os.environ.get("MMROBUST_TEST_GPU"):  # most tests are of what a CPU promises, such as the same bits
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the many child processes shall not compile everything anew

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A verb that is called in this process may set variables for its child processes; no other test meets them."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; the test is skipped where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data is not here")
    return folder
