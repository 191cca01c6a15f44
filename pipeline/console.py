"""What every command, stage or `lossbook` subcommand, does at the terminal's edge."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import click

from pipeline.errors import UserError

# What a full or closed disk answers: the user's to mend, not a bug of ours.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


class Command(click.Command):
    """A Click command whose `UserError` ends in one plain line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno not in DISK:
                raise
            raise click.ClickException(f"{error.filename or 'disk'}: {error.strerror}") from error


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
