"""From the text of a command line to what a verb takes.

Recent typers do this with pydantic, whose import takes longer than all else that a light verb does. Texts, paths and
whole numbers, which is nearly everything there is, need none of it; the rest, and every error, is still typer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import typer


def lighten(command: Any, help_names: Sequence[str]) -> None:
    """Makes a command, and those below it, read simple arguments without pydantic, where typer would use it.

    Args:
        command: The command that typer builds of an app.
        help_names: The options that show the help.
    """
    for below in getattr(command, "commands", {}).values():
        lighten(below, help_names)
    # The option for help is created on demand, and read like the others; the command keeps it.
    help_option = command.get_help_option(typer.Context(command, help_option_names=list(help_names)))
    for parameter in [*command.params, help_option]:
        if hasattr(parameter, "get_runtime_param") and hasattr(parameter, "type_descriptor"):
            parameter.get_runtime_param = _Light(parameter.get_runtime_param, parameter.type_descriptor)


class _Light:
    """Stands in for typer's own coercion of one parameter.

    Args:
        heavy: Gives typer's own.
        descriptor: Typer's description of the type.
    """

    def __init__(self, heavy: Any, descriptor: Any) -> None:
        self.heavy = heavy
        inner = get_args(descriptor.annotation) if get_origin(descriptor.annotation) is list else ()
        self.type = inner[0] if inner else descriptor.annotation
        info = descriptor.parameter_info
        unusual = ("parser", "click_type", "min", "max", "exists", "resolve_path", "path_type")
        self.simple = self.type in (str, Path, int) and not any(getattr(info, key, None) for key in unusual)

    def __call__(self) -> _Light:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        if self.simple:
            items = value if many else [value]
            if isinstance(items, list | tuple) and all(isinstance(item, str | self.type) for item in items):
                try:
                    values = [self.type(item) for item in items]
                    return values if many else values[0]
                except ValueError:
                    pass  # typer says what is wrong
        return self.heavy().coerce(value, param=param, ctx=ctx)
