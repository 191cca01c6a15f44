"""What every command, stage or `lossbook` subcommand, shares: options and one line for an error."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pipeline.errors import Problems, UserError
from pipeline.system.text import printable, quoted, shortened

# What the system refuses without naming a file: for the user to mend, no bug of ours.
LIMITS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.ENAMETOOLONG,
}
LONGEST = 420  # characters of a line, before which Click writes what it is about


class Place(click.Path):
    """A path with a name."""

    def convert(self, value: Any, *where: Any) -> Any:
        if value == "":
            self.fail("a path has a name, and this is empty", *where)
        return super().convert(value, *where)


FILE = Place(dir_okay=False, path_type=Path)
FOLDER = Place(file_okay=False, path_type=Path)


class Careful(click.Command):
    """A Click command that takes UTF-8 alone, and whose errors can be read."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _readable():
            return super().make_context(*args, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            if any("\udc80" <= character <= "\udcff" for character in argument):  # other bytes
                raise click.UsageError(f"{quoted(argument)} is not UTF-8", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _readable():
            return super().invoke(ctx)


class Command(Careful):
    """A Click command whose `UserError` ends in one plain line and exit status 1.

    A stage of a DVC experiment that fails before its run has begun leaves a failed run.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            raise SystemExit(130) from None  # as shells say of SIGINT
        except Exception as error:
            if "DVC_EXP_NAME" in os.environ:
                # Others need no tracking.
                from pipeline.tracking.run import record_failure

                record_failure(error)
            if (message := _message(error)) is None:
                raise
            several = "\n" if isinstance(error, Problems) else ""
            raise click.ClickException(_lines(message, several)) from error


class Group(Careful, click.Group):
    """A group of such commands."""

    command_class = Command


@contextmanager
def _readable() -> Iterator[None]:
    """Click quotes what it was given, however long, in whatever encoding a terminal has."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except click.ClickException as error:
        several = "" if isinstance(error, click.UsageError) else "\n"
        vars(error)["message"] = _lines(error.message, several)  # final only for type checkers
        raise


def echo(text: str = "", *, keep: str = "\n\t", nl: bool = True, err: bool = False) -> None:
    """Print text that is not all ours: the terminal obeys nothing in it but `keep`."""
    click.echo(printable(text, keep), nl=nl, err=err)


def _lines(message: str, keep: str) -> str:
    lines = printable(message, f"{keep}\t").split("\n")
    return "\n".join(shortened(line, LONGEST) for line in lines)


def _message(error: Exception) -> str | None:
    """What to say of a user's mistake or a limit; None for a bug, which gets its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in LIMITS):
        return f"{'disk' if error.filename is None else error.filename}: {error.strerror}"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # pathlib's way
        return str(error)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch's way
        return "not enough memory"
    return None
