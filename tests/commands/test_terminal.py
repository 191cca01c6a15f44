"""What is not ours commands no terminal, and reaches a pipe as it is."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main as lossbook
from pipeline.commands.console import echo
from pipeline.commands.generate import Stream, _as_json
from pipeline.commands.tables import print_table
from pipeline.system.progress import Progress, say
from pipeline.tokens.tokenizer import encode
from pipeline.tracking.run import start_run
from tests.helpers.texts import HOSTILE

EVIL = "\x1b[2J\x9b1m\u202e\r"
ESCAPED = "\\x1b[2J\\x9b1m\\u202e\\r"


def in_terminal(monkeypatch: pytest.MonkeyPatch, write: Callable[[], None]) -> str:
    """What a terminal gets that is standard output."""
    leader, follower = pty.openpty()
    with open(follower, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert sys.stdout.isatty()
        write()
    monkeypatch.undo()
    shown = b""
    with suppress(OSError):  # the other end is closed
        while chunk := os.read(leader, 1 << 16):
            shown += chunk
    os.close(leader)
    return shown.decode("utf-8").replace("\r\n", "\n")


def stream() -> None:
    shown = Stream(EVIL, [1, 2])
    for index in (0, 1):
        for token in encode(f" 水{EVIL}\n"):
            shown(index, token)
    shown.finish()


def test_generate_commands_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{ESCAPED} 水{ESCAPED}\n\n"
    assert in_terminal(monkeypatch, stream) == f"{text}--- seed 2\n{text}"


def test_generate_gives_a_pipe_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    monkeypatch.setattr(sys, "stdout", pipe)
    stream()
    pipe.flush()
    assert isinstance(pipe.buffer, io.BytesIO)
    text = f"{EVIL} 水{EVIL}\n\n"
    assert pipe.buffer.getvalue().decode() == f"{text}--- seed 2\n{text}"


def test_json_commands_no_terminal() -> None:
    value = {"completion": [*HOSTILE, EVIL, "\ud800"]}
    text = _as_json(value)
    assert json.loads(text) == value
    assert "水の音" in text
    assert not set(text) & {*EVIL, "\ud800"} - set("[2J1m")


def test_generate_refuses_an_argument_that_is_no_text() -> None:
    result = CliRunner().invoke(lossbook, ["generate", os.fsdecode(b"caf\xe9")])
    assert result.exit_code == 1
    assert result.stderr == "Error: PROMPT: not UTF-8 text\n"


def test_a_table_commands_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [["run", f"[red]{EVIL}"], [EVIL, "[bold]b\n\tc"]]
    shown = in_terminal(monkeypatch, lambda: print_table(table))
    for text in (f"[red]{ESCAPED}", ESCAPED, "[bold]b\\n\\tc"):
        assert text in shown
    assert not set(shown) & {"\x9b", "\u202e", "\r", "\t"}


def test_a_table_in_a_pipe_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["run", "stage"], [f"a\tb\n{EVIL}", "train"]])
    assert capsys.readouterr().out == f"run\tstage\na\\tb\\n{ESCAPED}\ttrain\n"


def test_a_runs_name_commands_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
    with start_run("train", experiment="e", name=f"r{EVIL}"):
        pass
    for arguments in (["runs"], ["runs", "--json"]):
        shown = CliRunner().invoke(lossbook, arguments).output
        assert "[2J" in shown
        assert not set(shown) & {"\x1b", "\x9b", "\u202e", "\r"}


def test_lines_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, "draw", unit="token") as bar:
        bar.say(EVIL)
    say(EVIL)
    echo(EVIL, err=True)
    assert capsys.readouterr().err == f"{ESCAPED}\n" * 3
