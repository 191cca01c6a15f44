from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.system.process import Process
from pipeline.tracking import paths
from pipeline.tracking.journal import JOURNAL, Journal, read_events, read_header, read_run
from pipeline.tracking.journals import entries, tidy
from pipeline.tracking.lifecycle import EXITED, discard, mark_exited, reap, take
from pipeline.tracking.mlflow.store import Store
from pipeline.tracking.run import start_run
from pipeline.tracking.tags import HOST, PID, RUN_KEY, SPACE, STARTED, process_of, process_tags

KILLED_AT_WORK = """
import os
from pathlib import Path
from pipeline.tracking.run import start_run

with start_run("train", experiment="e", state=STATE) as run:
    run.log_metrics({"loss": 1.0}, step=7)
    os.kill(os.getpid(), 9)
"""
Python = Callable[..., "subprocess.Popen[str]"]


def killed(python: Python, state: str = "None") -> None:
    assert python(KILLED_AT_WORK.replace("STATE", state)).wait() == -9


def test_a_run_whose_process_is_gone_is_ended(offline: Path, python: Python) -> None:
    killed(python)
    (state,) = paths.states().iterdir()
    (folder,) = reap()
    assert folder.parent == paths.journals()
    assert not state.exists()
    run_state = read_run(folder)
    assert run_state is not None
    last_heard = max(e["t"] for e in read_events(folder / JOURNAL) if "end" not in e)
    assert (run_state.status, run_state.ended) == ("KILLED", last_heard)
    assert reap() == []


def test_a_run_that_can_go_on_stays_where_its_next_start_looks(
    offline: Path, python: Python
) -> None:
    killed(python, "Path('.lossbook/state/train-1').absolute()")
    (folder,) = reap()
    assert folder == paths.state_folder("train", "1")
    run_state = read_run(folder)
    assert run_state is not None
    assert run_state.status == "KILLED"
    assert reap() == [], "it is ended once"
    with start_run("train", experiment="e", state=folder) as run:
        assert run.key == run_state.key


def test_a_run_that_could_go_on_is_given_up(offline: Path, python: Python) -> None:
    state = paths.state_folder("train", "1")
    killed(python, f"Path({str(state)!r})")
    (state / "checkpoint.pth").write_bytes(b"large")
    with start_run("evaluate", experiment="e"):
        (folder,) = discard()
    run_state = read_run(folder)
    assert run_state is not None
    assert (run_state.stage, run_state.status) == ("train", "KILLED")
    assert not state.exists()
    assert not (folder / "checkpoint.pth").exists()


def test_a_journal_whose_last_line_is_garbled_is_ended(offline: Path, python: Python) -> None:
    killed(python)
    (state,) = paths.states().iterdir()
    with open(state / JOURNAL, "ab") as file:
        file.write(b"\0\0\0\n")
    (folder,) = reap()
    run_state = read_run(folder)
    assert run_state is not None
    assert run_state.status == "KILLED"


def test_a_run_at_work_is_left_alone(offline: Path) -> None:
    with start_run("train", experiment="e") as run:
        assert reap() == []
        run_state = read_run(run.folder)
    assert run_state is not None
    assert run_state.status == "RUNNING"


def test_the_next_run_sees_to_it(repo: Path, python: Python, store: Store) -> None:
    killed(python)
    (left,) = paths.states().iterdir()
    run_state = read_run(left)
    assert run_state is not None
    with start_run("evaluate", experiment="e") as run:
        while (found := store.find_run(run_state.key)) is None or found.info.status != "KILLED":
            run.log_metrics({"waiting": 1.0})
    assert found.data.metrics == {"loss": 1.0}


@pytest.mark.parametrize(
    ("changes", "reaped"),
    [
        ({PID: "999999999"}, True),
        ({STARTED: "1.00"}, True),  # the number is another process's now
        ({}, False),
        ({PID: "999999999", HOST: "elsewhere"}, False),
        ({PID: "999999999", SPACE: "another container"}, False),
    ],
)
def test_runs_that_only_the_store_knows_are_judged_by_their_tags(
    store: Store, changes: dict[str, str], reaped: bool
) -> None:
    experiment = store.experiment_id("e")
    run = store.client.create_run(experiment, tags={**process_tags(), **changes})
    assert (store.reap([experiment]) == [run.info.run_id]) == reaped
    status = store.client.get_run(run.info.run_id).info.status
    assert status == ("KILLED" if reaped else "RUNNING")


def test_a_run_that_can_go_on_is_not_ended_in_the_store(store: Store) -> None:
    """Its journal stands for it: its next start may be sending it this very moment."""
    with start_run("train", experiment="e") as run:
        dead = {**process_tags(), PID: "999999999", RUN_KEY: run.key}
        experiment = store.experiment_id("e")
        store.client.create_run(experiment, tags=dead)
        assert store.reap([experiment]) == []


def test_this_process_lives() -> None:
    me = Process.current()
    assert me.pid == os.getpid()
    assert me.is_alive() is True
    assert process_of(process_tags()) is not None
    assert process_of({}) is None


def test_a_link_among_the_runs_is_not_followed(
    offline: Path, python: Python, tmp_path: Path
) -> None:
    """Whoever gives up runs gives up nothing that lies elsewhere."""
    killed(python, "Path('.lossbook/state/train-1').absolute()")
    elsewhere = tmp_path / "elsewhere"
    paths.state_folder("train", "1").rename(elsewhere)
    (elsewhere / "thesis.txt").write_text("years of work")
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    for place in (paths.states(), paths.journals()):
        place.mkdir(parents=True, exist_ok=True)
        (place / "train-1").symlink_to(elsewhere)
    assert discard() == []
    tidy()
    assert entries() == []
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before


def test_no_run_works_in_a_folder_that_is_a_link(offline: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "dir").mkdir(parents=True)
    (elsewhere / "dir" / "thesis.txt").write_text("years of work")
    paths.states().mkdir(parents=True)
    (paths.states() / "train-1").symlink_to(elsewhere)
    with pytest.raises(UserError, match="train-1: is a link; remove it"):  # noqa: SIM117
        with take(paths.state_folder("train", "1")):
            pass
    assert [path.name for path in elsewhere.iterdir()] == ["dir"]


def test_files_that_links_in_a_runs_folder_lead_to_stay_as_they_are(
    offline: Path, python: Python, tmp_path: Path
) -> None:
    killed(python, "None")
    (state,) = paths.states().iterdir()
    other, new, folder = (tmp_path / name for name in ("other.jsonl", "new", "folder"))
    folder.mkdir()
    header = read_header(state)
    assert header is not None
    (paths.journals()).mkdir(parents=True)
    (paths.journals() / f"{header['stage']}-{header['run']}").symlink_to(folder)
    (state / EXITED).symlink_to(new)
    (ended,) = reap()
    with pytest.raises(OSError, match="symbolic link"):
        mark_exited(ended)
    assert not ended.is_symlink()
    assert (list(folder.iterdir()), new.exists()) == ([], False)

    (ended / JOURNAL).rename(other)
    text = other.read_text() + '{"torn'
    other.write_text(text)
    linked = paths.states() / "train-2"
    linked.mkdir()
    (linked / JOURNAL).symlink_to(other)
    assert reap() == []
    with pytest.raises(UserError, match="symbolic links"):
        Journal(linked)
    assert other.read_text() == text
