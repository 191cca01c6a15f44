"""One line for what a user can mend; a traceback for what only we can."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.commands.console import FILE, FOLDER, Command, Group
from pipeline.errors import Problems, UserError


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
        (RuntimeError("Symlink loop from 'models/x'"), "Error: Symlink loop from 'models/x'\n"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4000 bytes"),
            "Error: not enough memory\n",
        ),
        (UserError("a name\nError: of two lines"), "Error: a name\\nError: of two lines\n"),
        (
            Problems("x.yaml has 2 problems\na: b\nc: d"),
            "Error: x.yaml has 2 problems\na: b\nc: d\n",
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


PROGRAM = """
import signal, sys, time
import click
from pipeline.commands.console import Command

# what a shell that starts the tests in the background has them ignore
signal.signal(signal.SIGINT, signal.default_int_handler)

@click.command(cls=Command)
@click.argument("way")
def main(way):
    for number in range({"pipe": 100_000}.get(way, 1)):
        click.echo(f"line {number} \\ud800 \\u2713")
        click.echo("and", err=True)
    if way == "wait":
        sys.stdout.flush()
        time.sleep(60)

main()
"""


def start(way: str, **variables: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, way],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_ctrl_c_is_a_line_and_status_130() -> None:
    process = start("wait")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.split()[-1]) == (130, b"interrupted")


def test_a_reader_that_leaves_is_no_error() -> None:
    process = start("pipe")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait() in (0, 1)
    assert b"Traceback" not in said
    assert set(said.split()) == {b"and"}


@pytest.mark.parametrize(("encoding", "word"), [("ascii", "?"), ("utf-8", "\\ud800")])
def test_what_an_encoding_cannot_write_is_no_error(encoding: str, word: str) -> None:
    """Click itself writes UTF-8 where the system says ASCII."""
    out, said = start("once", PYTHONIOENCODING=encoding).communicate(timeout=60)
    assert (out, said) == (f"line 0 {word} ✓\n".encode(), b"and\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    command = ["bash", "-c", f'"$0" -c "$1" once {closed}', sys.executable, PROGRAM]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) in ((0, b"and\n"), (0, b""))


@pytest.mark.parametrize("place", [FILE, FOLDER])
def test_a_path_has_a_name(place: click.Path) -> None:
    @click.command(cls=Command)
    @click.option("--to", type=place)
    def main(to: object) -> None:
        raise AssertionError(to)

    result = CliRunner().invoke(main, ["--to", ""])
    assert result.exit_code == 2
    assert "'--to': a path has a name, and this is empty" in result.stderr
