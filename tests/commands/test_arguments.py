"""What is asked of `lossbook`: within bounds, or a line that says so."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.commands.generate import MOST_BYTES, read_prompt
from pipeline.errors import UserError


class Piped(io.TextIOWrapper):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")


@pytest.mark.parametrize(
    "options",
    [
        ("--max-new-tokens", str(10**12)),
        ("--num-samples", "10000000"),
        ("--num-samples", "9" * 5000),
        ("--top-k", "many"),
        ("--weights", "x" * 10_000),
    ],
)
def test_an_option_beyond_its_bounds_is_refused_at_once(options: tuple[str, str]) -> None:
    done = CliRunner().invoke(main, ["generate", "x", *options])
    assert done.exit_code == 2
    assert f"Invalid value for '{options[0]}'" in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 500


def test_arguments_are_utf_8() -> None:
    for arguments in (["generate", "caf\udce9"], ["export", "caf\udce9"], ["caf\udce9"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 2
        assert done.stderr.endswith("Error: 'caf\\udce9' is not UTF-8\n")


def test_a_day_before_all_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    done = CliRunner().invoke(main, ["sweep", "--since", "0001-01-01"])
    assert (done.exit_code, isinstance(done.exception, SystemExit)) == (1, True)


def test_a_prompt_is_an_argument_or_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_prompt("naïve") == "naïve"
    assert read_prompt("") == ""
    for given in ("-", None):
        monkeypatch.setattr(sys, "stdin", Piped("naïve\n".encode()))
        assert read_prompt(given) == "naïve"


@pytest.mark.parametrize(
    ("given", "piped", "line"),
    [
        ("caf\udce9", b"", "PROMPT: not UTF-8 text"),
        (None, b"caf\xe9", "standard input: not UTF-8 text"),
        ("x" * (MOST_BYTES + 1), b"", "PROMPT: longer than 1048576 bytes"),
        (None, b"x" * (MOST_BYTES + 2), "standard input: longer than 1048576 bytes"),
    ],
)
def test_a_prompt_that_is_none(
    given: str | None, piped: bytes, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(piped))
    with pytest.raises(UserError, match=line):
        read_prompt(given)


def test_no_standard_input_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="PROMPT: give one"):
        read_prompt(None)


def test_check_says_what_is_wrong_and_what_is_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a#b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    path = folder / "params.yaml"
    path.write_text("train: {max_steps: 5, warmup_steps: 9}\n")
    done = CliRunner().invoke(main, ["check"])
    warmup, queue = done.stderr.splitlines()
    assert done.exit_code == 0
    assert warmup.startswith("warning: train.warmup_steps: 9 of the training's 5 steps")
    assert queue.startswith(
        "warning: DVC runs no queued experiments in a folder whose path has '#'"
    )
    path.write_text("train: {max_steps: 0}\nsead: 1\n")
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == "Error: params.yaml has 2 problems"
    assert CliRunner().invoke(main, ["check", "--params", "nothing.yaml"]).exit_code == 1


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("missing.txt", "there is no file or folder missing.txt"),
        ("the-verdikt", "'the-verdikt' is no corpus (did you mean the-verdict?)"),
    ],
)
def test_check_looks_for_a_local_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(f"prepare: {{corpus: {corpus}}}\n")
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: prepare.corpus: {message}")
