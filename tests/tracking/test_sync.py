"""A store that was lost, fell behind or never heard of it is brought up from the journals."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import paths
from pipeline.tracking.cursor import CURSOR
from pipeline.tracking.journal import JOURNAL, Journal
from pipeline.tracking.mlflow.send import JournalSender
from pipeline.tracking.mlflow.store import Store
from pipeline.tracking.mlflow.sync import Synced, gather, synced
from pipeline.tracking.run import start_run
from pipeline.tracking.tags import RUN_KEY

Snapshot = Callable[[Store], dict[str, dict[str, Any]]]
Lossbook = Callable[..., "subprocess.CompletedProcess[str]"]


def write_runs(repo: Path) -> list[str]:
    """A train run, its child and one that failed, with everything a run can hold; their keys."""
    record = repo / "reports" / "train_run.json"
    weights = repo / "models" / "best.pth"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"w" * 100)
    with start_run(
        "train",
        experiment="e",
        state=paths.state_folder("train", "1"),
        name="lr=4e-04",
        description="**m**",
        params={"lr": 4e-4},
        record=record,
        journal=repo / "journals" / "train",
    ) as train:
        for step in range(1500):
            loss = math.inf if step == 3 else math.nan if step == 4 else 1 / (step + 1)
            train.log_metrics({"loss": loss}, step=step)
        train.log_input("verdict", "https://example.org/v.txt", "0" * 64, profile={"n": 1})
        train.log_text("a", "samples/a.md")
        train.log_table([{"prompt": "x"}], "samples.json")
        train.log_artifact(weights, folder="model", copy=False)
        train.set_tags({"gone": "x"})
        train.set_tags({"gone": None})
    with start_run("evaluate", experiment="e", parent=record) as child:
        child.log_metrics({"val/loss": 6.4})
    with pytest.raises(ZeroDivisionError), start_run("sample", experiment="other") as failed:
        raise ZeroDivisionError
    return [train.key, child.key, failed.key]


def outcomes(done: list[Synced]) -> list[str]:
    return [one.outcome for one in done]


def sync_now() -> list[Synced]:
    return list(synced(gather(Path("journals"))))


def test_a_lost_store_is_made_again(
    repo: Path, store: Store, snapshot_of: Snapshot, lossbook: Lossbook, template: Path
) -> None:
    keys = write_runs(repo)
    before = snapshot_of(store)
    assert before.keys() == set(keys)
    # The database is lost; this process still holds it open, so another one looks at the new.
    for path in repo.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(repo / "mlartifacts")
    shutil.copyfile(template, repo / "mlflow.db")
    done = json.loads(lossbook("sync", "--json").stdout)
    assert [one["outcome"] for one in done] == ["rebuilt"] * 3
    copy = repo / "copy.db"
    for path in repo.glob("mlflow.db*"):
        shutil.copyfile(path, repo / path.name.replace("mlflow", "copy"))
    assert snapshot_of(Store(f"sqlite:///{copy}")) == before


def test_syncing_again_changes_nothing(repo: Path, store: Store, snapshot_of: Snapshot) -> None:
    write_runs(repo)
    before = snapshot_of(store)
    assert outcomes(sync_now()) == ["there"] * 3
    assert snapshot_of(store) == before


def test_sending_everything_again_changes_nothing(
    repo: Path, store: Store, snapshot_of: Snapshot
) -> None:
    """Lost cursors: all of it is sent, and found to be there."""
    write_runs(repo)
    before = snapshot_of(store)
    for cursor in paths.journals().glob(f"*/{CURSOR}"):
        cursor.unlink()
    assert outcomes(sync_now()) == ["sent"] * 3
    assert snapshot_of(store) == before


def test_a_store_that_fell_behind_is_brought_up(
    repo: Path, store: Store, snapshot_of: Snapshot
) -> None:
    """As after going back to an older copy: the cursors know more than the store."""
    keys = write_runs(repo)
    before = snapshot_of(store)
    run = store.find_run(keys[1])
    assert run is not None
    store.client.set_terminated(run.info.run_id, "KILLED")
    shutil.rmtree(repo / "mlartifacts")
    assert outcomes(sync_now()) == ["rebuilt", "rebuilt", "there"]
    assert snapshot_of(store) == before


def test_what_was_journalled_offline_is_sent_in_order(
    repo: Path, store: Store, snapshot_of: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        keys = write_runs(repo)
    assert snapshot_of(store) == {}
    assert outcomes(sync_now()) == ["sent"] * 3
    found = snapshot_of(store)
    assert found[keys[1]]["tags"]["mlflow.parentRunId"] == keys[0]
    assert len(found[keys[0]]["metrics"]["loss"]) == 1500


def test_a_fresh_clone_takes_in_what_dvc_brings(
    repo: Path, store: Store, snapshot_of: Snapshot, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what DVC tracks is there: the train run's journal, and the model."""
    train, *_ = write_runs(repo)
    before = snapshot_of(store)[train]
    shutil.rmtree(repo / ".lossbook")
    shutil.copyfile(template, repo / "second.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///second.db")
    assert outcomes(sync_now()) == ["sent"]
    assert snapshot_of(Store(f"sqlite:///{repo / 'second.db'}")) == {train: before}


def test_a_child_follows_its_parent_to_a_new_id(repo: Path, store: Store) -> None:
    """As after `mlflow gc` of a deleted parent: it comes back as another run."""
    parent, child, _ = write_runs(repo)
    run = store.find_run(parent)
    assert run is not None
    store.client.set_tag(run.info.run_id, RUN_KEY, "no longer known")
    assert outcomes(sync_now()) == ["rebuilt", "rebuilt", "there"]
    parent_run, child_run = store.find_run(parent), store.find_run(child)
    assert parent_run is not None
    assert child_run is not None
    assert child_run.data.tags["mlflow.parentRunId"] == parent_run.info.run_id != run.info.run_id


def test_a_run_deleted_in_mlflow_stays_deleted(repo: Path, store: Store) -> None:
    keys = write_runs(repo)
    run = store.find_run(keys[2])
    assert run is not None
    store.client.delete_run(run.info.run_id)
    assert outcomes(sync_now()) == ["there", "there", "deleted"]
    assert store.client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"


def test_an_experiment_deleted_in_mlflow_stays_deleted(repo: Path, store: Store) -> None:
    write_runs(repo)
    experiment = store.experiment_id("e")
    store.client.delete_experiment(experiment)
    assert outcomes(sync_now()) == ["deleted", "deleted", "there"]
    assert store.client.get_experiment(experiment).lifecycle_stage == "deleted"


def test_a_run_at_work_is_left_to_itself(repo: Path, store: Store) -> None:
    with start_run("train", experiment="e"):
        assert outcomes(sync_now()) == ["at work"]


def test_what_a_user_wrote_in_the_ui_is_kept(repo: Path, store: Store) -> None:
    keys = write_runs(repo)
    run = store.find_run(keys[0])
    assert run is not None
    store.client.set_tag(run.info.run_id, "mlflow.note.content", "my own words")
    assert outcomes(sync_now()) == ["there"] * 3
    run = store.find_run(keys[0])
    assert run is not None
    assert run.data.tags["mlflow.note.content"] == "my own words"


def test_a_large_file_that_is_gone_is_named_and_sent_when_it_is_back(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        write_runs(repo)
    weights = repo / "models" / "best.pth"
    weights.write_bytes(b"v" * 100)  # another training's, by now
    (train, *_) = sync_now()
    assert train.remarks == ["model/best.pth: the file is nowhere here"]
    md5 = hashlib.md5(b"w" * 100).hexdigest()
    cached = repo / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"w" * 100)
    (train, *_) = sync_now()
    assert train.remarks == []
    assert train.run_id is not None
    path = store.client.download_artifacts(train.run_id, "model/best.pth")
    assert Path(path).read_bytes() == b"w" * 100


def test_a_crash_between_creating_a_run_and_noting_its_id_makes_no_second(
    repo: Path, store: Store, snapshot_of: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        with start_run("train", experiment="e") as run:
            run.log_metrics({"loss": 1.0})
    (folder,) = paths.journals().iterdir()
    crashed = JournalSender(folder, store)
    crashed.abandon()  # it will write no cursor
    crashed.drain()
    assert not (folder / CURSOR).exists()
    assert outcomes(sync_now()) == ["sent"]
    assert list(snapshot_of(store)) == [run.key]


def test_what_the_store_refuses_is_left_out_and_named(
    repo: Path, store: Store, snapshot_of: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        with start_run("train", experiment="e") as run:
            for step in range(20):
                run.log_metrics({"loss": 1.0}, step=step)
            run.journal.append({"params": {"bad@name": "1", "good": "1"}})
            run.journal.append({"s": 0, "m": {"bad@metric": 1.0}})
    (done,) = sync_now()
    assert {remark.partition(":")[0] for remark in done.remarks} == {"bad@name", "bad@metric"}
    (found,) = snapshot_of(store).values()
    assert found["params"] == {"good": "1"}
    assert len(found["metrics"]["loss"]) == 20
    assert found["status"] == "FINISHED"
    assert outcomes(sync_now()) == ["there"], "it is not tried again each time"


def test_journals_of_two_stores_do_not_disturb_each_other(
    repo: Path, store: Store, snapshot_of: Snapshot, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(repo)
    shutil.copyfile(template, repo / "second.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///second.db")
    assert outcomes(sync_now()) == ["sent"] * 3
    second = Store(f"sqlite:///{repo / 'second.db'}")
    assert snapshot_of(second) == snapshot_of(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert outcomes(sync_now()) == ["there"] * 3


def test_a_killed_run_is_sent_up_to_its_last_line(
    repo: Path, store: Store, snapshot_of: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paths.state_folder("train", "1")
    header = {"run": "k", "stage": "train", "experiment": "e", "name": "n", "parent": None}
    journal = Journal(folder)
    journal.append({"create": {**header, "state": "train-1"}})
    journal.append({"s": 0, "m": {"loss": 1.0}})
    journal.close()
    with open(folder / JOURNAL, "ab") as file:
        file.write(b'{"t":1,"s":1,"m":{"lo')
    assert outcomes(sync_now()) == ["sent"]
    found = snapshot_of(store)["k"]
    assert found["status"] == "KILLED"
    assert len(found["metrics"]["loss"]) == 1
