"""`train.launcher` as a program: what it is run with, and how it ends."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from pipeline.distributed.launcher import run_launcher
from pipeline.distributed.world import LAUNCHED
from pipeline.errors import UserError

OPTIONS = {"--tokens": Path("data/tokens")}
SAYS_ARGUMENTS = """
import os, sys
open("arguments", "w").write("\\n".join([os.environ["LOSSBOOK_LAUNCHED"], *sys.argv[1:]]))
sys.exit(int(os.environ.get("STATUS", "0")))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A launcher that writes what it was run with, and ends with $STATUS."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launch it.py").write_text(SAYS_ARGUMENTS)
    return f"{shlex.quote(sys.executable)} 'launch it.py'"


def arguments() -> list[str]:
    return Path("arguments").read_text().splitlines()


def test_a_launcher_gets_the_stage_with_its_options(program: str) -> None:
    run_launcher(f"{program} --nodes 2", "stages.train", OPTIONS)
    stage = ["-m", "stages.train", "--tokens", "data/tokens"]
    assert arguments() == ["1", "--nodes", "2", sys.executable, *stage]
    run_launcher(f"{program} /opt/bin/torchrun --nnodes 2", "stages.train", OPTIONS)
    assert arguments() == ["1", "/opt/bin/torchrun", "--nnodes", "2", *stage]
    run_launcher(f"{program} -m torch.distributed.run", "stages.train", OPTIONS)
    assert arguments() == ["1", "-m", "torch.distributed.run", *stage]


def test_no_shell_reads_it(program: str) -> None:
    run_launcher(f"{program} '$HOME' '; touch X' *", "stages.train", {})  # params refuses these
    assert arguments()[1:4] == ["$HOME", "; touch X", "*"]
    assert not Path("X").exists()


def test_its_failure_is_the_stages(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATUS", "7")
    with pytest.raises(SystemExit) as ended:
        run_launcher(program, "stages.train", OPTIONS)
    assert ended.value.code == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: train.launcher: ")
    assert line.endswith("ended with status 7; the lines above say why")


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^train\.launcher: 'srunn': No such file .* on PATH$"):
        run_launcher("srunn --nodes 2", "stages.train", OPTIONS)
    with pytest.raises(UserError, match=r"^train\.launcher: .*: Permission denied"):
        run_launcher(str(tmp_path), "stages.train", OPTIONS)


def test_a_launcher_that_gives_no_rank_does_not_launch_for_ever(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAUNCHED, "1")
    with pytest.raises(UserError, match=r"^train\.launcher: .* no rank .* torchrun, or srun with"):
        run_launcher(program, "stages.train", OPTIONS)
    assert not Path("arguments").exists()
