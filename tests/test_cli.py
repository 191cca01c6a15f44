"""The `lossbook` command, as its users call it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner, Result

from pipeline.cli import COMMANDS, main
from pipeline.tracking.run import start_run

Lossbook = Callable[..., Result]


@pytest.fixture
def lossbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lossbook:
    """`lossbook ARGUMENTS` in an empty repository, journals only."""
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    return call


def train() -> str:
    with start_run("train", experiment="e", name="lr=4e-04") as run:
        run.log_metrics({"val/loss": 6.4}, step=3)
    return run.key


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0, done.output
    assert command in CliRunner().invoke(main, ["--help"]).output


def test_help_loads_nothing_heavy() -> None:
    program = """
import sys
from click.testing import CliRunner
from pipeline.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
assert CliRunner().invoke(main, ["runs", "--help"]).exit_code == 0
heavy = {"mlflow", "torch", "tensorflow", "pandas", "matplotlib", "rich", "numpy"}
print(sorted(heavy & sys.modules.keys()))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_command(lossbook: Lossbook) -> None:
    done = lossbook("tidy")
    assert done.exit_code == 2
    assert "No such command 'tidy'" in done.output


def test_no_runs_yet(lossbook: Lossbook) -> None:
    assert lossbook("runs").output == "no runs yet; `dvc repro` makes some\n"
    assert json.loads(lossbook("runs", "--json").output) == []


def test_runs_are_plain_in_a_pipe(lossbook: Lossbook) -> None:
    train()
    header, line = lossbook("runs", "--metric", "val/loss").output.splitlines()
    assert header.split("\t") == ["run", "stage", "status", "started", "val/loss", "reports"]
    assert line.split("\t")[:3] == ["lr=4e-04", "train", "FINISHED"]
    assert line.split("\t")[4] == "6.4"


def test_runs_as_json(lossbook: Lossbook) -> None:
    key = train()
    (row,) = json.loads(lossbook("runs", "--json").output)
    assert (row["key"], row["metrics"]) == (key, {"val/loss": 6.4})


def test_runs_in_a_terminal(lossbook: Lossbook, tmp_path: Path) -> None:
    """A pseudo-terminal gets a table in colour."""
    train()
    project = Path(__file__).parents[1]
    main_end, other_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "runs"],
        env={**os.environ, "PYTHONPATH": str(project), "TERM": "xterm-256color", "COLUMNS": "120"},
        stdout=other_end,
    )
    os.close(other_end)
    shown = b""
    while True:
        try:
            chunk = os.read(main_end, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait() == 0
    assert b"\x1b[32mFINISHED" in shown
    assert b"\t" not in shown


def test_reap_reports_what_it_ended(lossbook: Lossbook) -> None:
    program = """
import os
from pipeline.tracking.run import start_run
with start_run("train", experiment="e") as run:
    os.kill(os.getpid(), 9)
"""
    project = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": project}
    subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert lossbook("reap").output.startswith("killed: train-")
    assert lossbook("reap").output == "no run needs to be ended\n"
    assert json.loads(lossbook("reap", "--json").output) == {"killed": [], "discarded": []}
    assert json.loads(lossbook("sync", "--json").output)[0]["outcome"] == "there"


def test_ui_names_the_server_that_is_already_there(
    lossbook: Lossbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    assert lossbook("ui").output == "MLflow: https://mlflow.example.org\n"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_ui_serves_until_it_is_ended(
    lossbook: Lossbook, number: signal.Signals, status: int
) -> None:
    train()
    project = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "ui"],
        env={**os.environ, "PYTHONPATH": project},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().split()[1]
    assert requests.get(f"{url}/health", timeout=10).text == "OK"
    process.send_signal(number)
    assert process.wait() == status
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=10)
