"""Promise: what Linux tells of the processor is found under its own names, and nothing is made up elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrobust import processor

#: The start of /proc/cpuinfo of an AMD EPYC, and of its second core with another family.
TOLD = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model name\t: AMD EPYC
power management:

processor\t: 1
cpu family\t: 25
"""


@pytest.mark.parametrize("there", [True, False])
def test_the_first_processor_is_told(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if there:
        (tmp_path / "cpuinfo").write_text(TOLD)
    monkeypatch.setattr(processor, "_TOLD", tmp_path / "cpuinfo")
    found = processor.processor.__wrapped__()
    if there:
        assert found["vendor_id"] == "AuthenticAMD" and found["cpu family"] == "26"
        assert found["model name"] == "AMD EPYC" and found["power management"] == ""
    else:
        assert found == {}
