"""Everything that only makes it faster; `accelerate` is the one way in. See the README beside this file."""

from mmrobust.accel.exchange import accelerate

__all__ = ["accelerate"]
