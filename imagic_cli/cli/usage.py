"""What Typer refuses of a command line, told in one line that says what to type instead."""

from __future__ import annotations

from typing import Any

import typer


def told(error: typer.TyperException) -> str:
    """The line for a command line that was refused.

    Args:
        error: Typer's own.
    """
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context else "imagic"
    # An error without a message has shown the help already.
    message = " ".join(error.format_message().split()).rstrip(".") or "no command is named"
    kinds = {each.name: each.param_type_name for each in context.command.params} if context else {}
    return f"{message}; {_instead(error, message, command, kinds)}"


def _instead(error: typer.TyperException, message: str, command: str, kinds: dict[str, str]) -> str:
    # The classes of Typer's errors are not public.
    extra = "unexpected extra argument" in message
    if extra and kinds.get("text") == "argument":
        return "a text of several words belongs in quotes"
    if extra and kinds.get("run") == "option":
        return f"a run is named like this: {command} --run RUN"
    if getattr(error, "option_name", "") == "--run" and kinds.get("run") == "argument":
        return f"a run is named like this: {command} RUN"
    return f"see {command} --help"
