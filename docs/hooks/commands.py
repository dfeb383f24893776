"""The page of the command line, as click knows it."""

from __future__ import annotations

import inspect

import click

from convert.cli import main
from docs.hooks import blocks

HEAD = """\
# Commands

`convert --help` and `convert COMMAND --help` say the same in a terminal. [Completion](../how-to/shell-completion.md)
for bash, zsh and fish is click's own.

## Exit codes

| code | means |
| --: | :-- |
| 0 | good |
| 1 | a stage failed, or a file that was given is broken |
| 2 | the recipe or the usage is wrong; nothing was started |
| 3 | a validation limit was passed, an output could not be validated, or `compare` found one worse |
| 130 | stopped by Ctrl-C, SIGTERM or SIGHUP |

An engine on a machine without its GPU is "built, not run": neither good nor bad, unless the recipe says `require: run`.
Interrupt a run whenever you like: a name that exists is a complete file, and the next run continues after the last
finished stage."""


def page() -> str:
    """Every command with its usage, arguments and options."""
    group = click.Context(main, info_name="convert", **main.context_settings)
    commands = (main.get_command(group, name) for name in main.list_commands(group))
    return blocks.page(HEAD, *(_command(command, group) for command in commands if command is not None))


def _command(command: click.Command, group: click.Context) -> str:
    context = click.Context(command, info_name=command.name, parent=group)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    rows = [row for option in command.params if (row := _option(option, context)) is not None]
    return blocks.page(
        f"## convert {command.name}",
        blocks.code(usage),
        blocks.prose(inspect.cleandoc(command.help or "").replace("\f", "")),
        blocks.table(("option", "does"), rows),
        blocks.prose(command.epilog or ""),
    ).rstrip()


def _option(option: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    """None for an argument: the usage and the text say what it is."""
    record = option.get_help_record(context)
    return None if record is None or not record[1] else (f"`{record[0]}`", blocks.prose(record[1]))
