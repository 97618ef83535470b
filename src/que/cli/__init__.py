"""The command `que`; its commands need the extra "cli"."""

import sys


def main() -> None:
    """Run the command line; without the extra, say how to install it and exit with status 1."""
    try:
        from que.cli.commands import commands
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("que: the command line needs the extra cli: pip install 'que-jobs[cli]'")
    commands()
