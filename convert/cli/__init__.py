"""The command line; the only module that prints.

Exit codes: 0 good, 1 a stage failed, 2 the recipe or the usage is wrong (nothing was started), 3 a validation limit
was passed or an output could not be validated, 130 stopped by Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import pkgutil
import signal

import click

from convert.cli import commands
from convert.cli.common import EPILOG

VERSION_HELP = "Show the version, and that of every runtime found, and exit."


class Commands(click.Group):
    """The commands of the folder commands/: none is imported before it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{commands.__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command


def _say_version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """Print the version and those of the runtimes, and end."""
    if asked and not context.resilient_parsing:
        from convert.distribution import version_lines

        for line in version_lines():
            click.echo(line)
        context.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version, help=VERSION_HELP)
def main() -> None:
    """Turn a model into every format people run, and prove that each output still is that model."""
    atexit.register(gc.freeze)  # the process ends and its memory with it: a last search for cycles takes 0.2 s
    for which in (
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # end as by Ctrl-C: nothing half-built stays, no process goes on alone
        if signal.getsignal(which) != signal.SIG_IGN:  # nohup
            signal.signal(which, signal.default_int_handler)
