"""`mmrobust doctor`: what this machine and this installation can do, and what is wrong with them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is installed, what the machine offers, and what is broken.

    Answers even where torch cannot be imported; exits with 1 if mmrobust cannot work here.

    Examples:

      mmrobust doctor

      mmrobust doctor --json
    """
    from mmrobust.cli.text import paint

    facts = examine()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        width = max(len(key) for group in facts["facts"].values() for key in group)
        for title, group in facts["facts"].items():
            typer.echo(paint(title, "bold"))
            for key, value in group.items():
                typer.echo(f"  {key:<{width}}  {value}")
        for warning in facts["warnings"]:
            typer.echo(paint(f"warning: {warning}", "yellow", part="warning:"))
        for error in facts["errors"]:
            typer.echo(paint(f"error: {error}", "red", part="error:"))
        if not facts["warnings"] and not facts["errors"]:
            typer.echo("nothing is wrong")
    if facts["errors"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """The facts by group, the warnings and the errors."""
    import os
    import platform
    import shutil
    import sys

    import mmrobust
    from mmrobust.recipe.compose import shipped, shipped_folder

    warnings: list[str] = []
    errors: list[str] = []
    here = {
        "mmrobust": f"{mmrobust.__version__} ({os.path.dirname(mmrobust.__file__)})",
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "recipes": f"{len(shipped())} shipped ({shipped_folder()})",
    }
    if not shipped():
        errors.append("there is no shipped recipe; install mmrobust again")
    set_here = {k: v for k, v in sorted(os.environ.items()) if k.startswith("MMROBUST_")}
    here.update({f"${key}": value for key, value in set_here.items()})
    disk = shutil.disk_usage(".")
    machine = {
        "cpu": f"{_usable_cores()} cores for this process",
        "disk": f"{disk.free / 2**30:.1f} GiB free in the current folder",
    }
    if disk.free < 2**30:
        warnings.append("less than 1 GiB is free in the current folder, where runs are kept")
    libraries = {
        name: _version(name) for name in ("numpy", "einops", "safetensors", "pluggy", "typer", "pyyaml", "matplotlib")
    }
    machine.update(_torch(libraries, warnings, errors))
    libraries["timm"] = _timm(warnings)
    attention = _attention(warnings, errors) if "torch threads" in machine else {}
    for name, version in libraries.items():
        if version == "not installed" and name not in ("timm",):
            errors.append(f"{name} is not installed; 'pip install {name}' brings it")
    plugins = _plugins(warnings, errors)
    groups = {"installation": here, "libraries": libraries, "machine": machine, "attention": attention}
    groups["plugins"] = plugins
    return {"facts": {title: group for title, group in groups.items() if group}, "warnings": warnings, "errors": errors}


def _usable_cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except Exception:  # a missing distribution, or one with damaged metadata
        return "not installed"


def _torch(libraries: dict[str, str], warnings: list[str], errors: list[str]) -> dict[str, str]:
    """What torch says of the machine."""
    libraries["torch"] = _version("torch")
    if libraries["torch"] == "not installed":
        return {}
    try:
        import torch

        from mmrobust.accel.linear import explain_gemm
        from mmrobust.errors import UsageError

        machine = {"torch threads": str(torch.get_num_threads())}
        try:
            machine["fp32 linear layers"] = explain_gemm()
        except UsageError as error:
            errors.append(str(error))
        machine["gpu"] = "none"
        if torch.cuda.is_available():
            devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
            machine["gpu"] = ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in devices)
        elif torch.backends.mps.is_available():
            machine["gpu"] = "mps"
        return machine
    except BaseException as error:  # a broken installation can fail in any way, and doctor answers all the same
        if isinstance(error, KeyboardInterrupt):
            raise
        from mmrobust.registry.plugin import failure

        errors.append(f"torch cannot be imported, and nothing can be built or trained without it: {failure(error)}")
        libraries["torch"] += " (cannot be imported)"
        return {}


def _attention(warnings: list[str], errors: list[str]) -> dict[str, str]:
    """What `auto` takes, and each attention backend: what it is, or why it cannot be used."""
    from mmrobust.errors import UsageError
    from mmrobust.nn.attention import BACKENDS, asked, automatic, expected, passed_over

    fp32, bf16 = (
        expected("auto", precision)._replace(queries=150, keys=150, width=32) for precision in ("fp32", "bf16")
    )
    training: dict[str, list[str]] = {}
    for n in (16, 150, 3000):
        training.setdefault(automatic(fp32._replace(queries=n, keys=n)), []).append(str(n))
    lengths = ", ".join(f"{name} ({' and '.join(steps)} steps)" for name, steps in training.items())
    facts = {
        "auto": f"{lengths} in training, {automatic(fp32._replace(backward=False))} in evaluation, on {fp32.device}"
    }
    reasons = passed_over(fp32)
    for name, backend in BACKENDS.items():
        facts[name] = backend.summary + (f"; auto passes it over: {reasons[name]}" if name in reasons else "")
        if problem := backend.why_not(fp32):
            part = {
                backend.why_not(fp32._replace(backward=False)): "not for training",
                backend.why_not(bf16): "not in fp32",
            }
            facts[name] = f"{part.get(None, 'not here')}: {problem}"
    try:
        name, by = asked()
        if name != "auto":
            facts["asked for"] = f"{name}, by {by}"
            if problem := BACKENDS[name].why_not(fp32):
                warnings.append(f"attention backend '{name}', which {by} asks for: {problem}")
    except UsageError as error:
        errors.append(f"MMROBUST_ATTENTION: {error}")
    return facts


def _timm(warnings: list[str]) -> str:
    version = _version("timm")
    if version == "not installed":
        return version
    try:
        import timm  # noqa: F401  # pyright: ignore[reportMissingImports]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        from mmrobust.registry.plugin import failure

        warnings.append(f"timm cannot be imported, so components that use it cannot be built: {failure(error)}")
        return f"{version} (cannot be imported)"
    return version


def _plugins(warnings: list[str], errors: list[str]) -> dict[str, str]:
    """Each plugin and its state."""
    from mmrobust.errors import PluginError
    from mmrobust.registry import catalogue

    try:
        registered = catalogue()
    except PluginError as error:
        errors += str(error).splitlines()
        return {}
    groups = {"built-in": f"{len(registered.all())} components"} if not registered.plugins else {}
    groups |= {f"{p.distribution} {p.version} ({p.name})".replace("  ", " "): p.state for p in registered.plugins}
    warnings += [f"{p} is quarantined: {p.cause}" for p in registered.plugins if p.state == "quarantined"]
    warnings += [f"{p} {warning}" for p in registered.plugins for warning in p.warnings]
    for spec in registered.all():
        state, cause = registered.state(spec)
        if state == "broken":
            (errors if spec.distribution == "mmrobust" else warnings).append(cause)
        elif state != "ok":
            warnings.append(f"{spec.kind} '{spec.name}' is {state}: {cause}")
    return groups
