"""The group of commands: our own and those of entry points, and how their errors are printed.

This module imports no command: one of training runs without ONNX Runtime, Pillow and FastAPI, which our own need.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import cast

import click

from model.bundle import GoodpartError

COMMANDS = "goodpart.commands"
CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}
# The extra that installs a package required by a command; the default is 'train'.
EXTRAS = {"pyarrow": "archive", "ray": "ray"}


class Commands(click.Group):
    """Our own commands, and those of installed entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name."""
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name, imported now if it is not our own."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or not is_installed(cmd_name):
            return own
        return cast("click.Command", entry_points(group=COMMANDS)[cmd_name].load())


def is_installed(name: str) -> bool:
    """Whether an entry point provides this command."""
    return name in entry_points(group=COMMANDS).names


def run(commands: click.Group, arguments: Sequence[str] | None = None) -> None:
    """Run a command, by default that of the process. An error of Goodpart is printed in one line, with exit code 1."""
    try:
        commands(arguments)
    except (GoodpartError, OSError) as error:
        click.echo(f"goodpart: error: {error}", err=True)
        sys.exit(getattr(error, "exit_code", 1))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"app", "model", "training"}:
            raise
        extra = EXTRAS.get(error.name or "", "train")
        click.echo(
            f"goodpart: error: this command needs the package {error.name}: pip install 'goodpart[{extra}]'",
            err=True,
        )
        sys.exit(1)
