"""One line for what a user can mend; a traceback for what only we can."""

from __future__ import annotations

import errno

import click
import pytest
from click.testing import CliRunner

from pipeline.commands.console import Command, Group
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
        (OSError(errno.EMFILE, "Too many open files"), "Error: disk: Too many open files\n"),
        (OSError(errno.EFBIG, "File too large"), "Error: disk: File too large\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "data/x"),
            "Error: data/x: No such file or directory\n",
        ),
        (MemoryError(), "Error: not enough memory\n"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4000 bytes"),
            "Error: not enough memory\n",
        ),
        (UserError("a \x1b[31mred\udc80 name"), "Error: a \\x1b[31mred\\udc80 name\n"),
    ],
)
def test_a_users_mistake(error: Exception, line: str) -> None:
    result = run(error)
    assert (result.exit_code, result.stderr) == (1, line)


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EBADF, "bad descriptor")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert run(error).exception is error


@pytest.mark.parametrize(
    "error", [UserError("x" * 10**6), OSError(errno.ENAMETOOLONG, "", "y" * 5000)]
)
def test_a_line_has_a_readable_length(error: Exception) -> None:
    result = run(error)
    assert result.exit_code == 1
    assert len(result.stderr) <= 500
    assert "…" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--" + "o" * 10**5], ["--count", "\x1b" * 10**5], ["z" * 10**5]]
)
def test_what_click_quotes_has_one_too(arguments: list[str]) -> None:
    @click.group(cls=Group)
    def group() -> None:
        pass

    @group.command()
    @click.option("--count", type=int)
    def main(count: int) -> None:
        pass

    for command, given in ((main, arguments), (group, ["main", *arguments]), (group, arguments)):
        result = CliRunner().invoke(command, given)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()[-1]) <= 500
        assert "\x1b" not in result.stderr
