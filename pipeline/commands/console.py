"""What every command, stage or `lossbook` subcommand, shares: options and one line for an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import click

from pipeline.errors import UserError

# What a full or closed disk answers: for the user to mend, no bug of ours.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


class Command(click.Command):
    """A Click command whose `UserError` ends in one plain line and exit status 1.

    A stage of a DVC experiment that fails before its run has begun leaves a failed run.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if "DVC_EXP_NAME" in os.environ:
                # Others need no tracking.
                from pipeline.tracking.run import record_failure

                record_failure(error)
            if (line := _in_one_line(error)) is None:
                raise
            raise click.ClickException(line) from error


def _in_one_line(error: Exception) -> str | None:
    """The line for a user's mistake or disk; None for a bug, which gets its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename or 'disk'}: {error.strerror}"
    return None


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
