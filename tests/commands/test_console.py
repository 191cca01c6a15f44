"""One line for what a user can mend; a traceback for what only we can."""

from __future__ import annotations

import errno

import click
import pytest
from click.testing import CliRunner

from pipeline.commands.console import Command
from pipeline.errors import UserError


def run(error: Exception):
    @click.command(cls=Command)
    def main() -> None:
        raise error

    return CliRunner().invoke(main)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("train.epochs: too many"), "Error: train.epochs: too many\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "models/x"),
            "Error: models/x: No space left on device\n",
        ),
    ],
)
def test_a_users_mistake(error: Exception, line: str) -> None:
    result = run(error)
    assert (result.exit_code, result.stderr) == (1, line)


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EBADF, "bad descriptor")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert run(error).exception is error
