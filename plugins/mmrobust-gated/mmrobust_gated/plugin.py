"""What this distribution offers to mmrobust. Targets are text, so that listing plugins imports nothing heavy."""

from mmrobust import hookimpl

MMROBUST_API = 1  # the version of the plugin interface that this was written for


@hookimpl
def mmrobust_register(registry):
    registry.add(
        "fusion",
        "gated",
        "mmrobust_gated.gated:Gated",
        summary="a gate for each stream, which sees all streams",
    )
