"""Runs against a real SQLite store."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.system.process import Terminated
from pipeline.tracking import paths
from pipeline.tracking.journal import JOURNAL, points_of, read_run
from pipeline.tracking.mlflow.store import Store
from pipeline.tracking.mlflow.sync import gather, synced
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import start_run
from pipeline.tracking.tags import DESCRIPTION

Snapshot = Callable[[Store], dict[str, dict[str, Any]]]
STATE = "0123"


def state() -> Path:
    return paths.state_folder("train", STATE)


@contextmanager
def broken_off(**more: Any) -> Iterator[Run]:
    """A run that fails after the block and can go on."""
    with suppress(RuntimeError), start_run("train", experiment="e", state=state(), **more) as run:
        yield run
        raise RuntimeError("no more")


def archived() -> list[Path]:
    return sorted(paths.journals().glob("*"))


@pytest.fixture
def run(offline: Path) -> Iterator[Run]:
    with start_run("train", experiment="e") as run:
        yield run


def test_everything_arrives(repo: Path, store: Store, snapshot_of: Snapshot) -> None:
    figure = repo / "loss.png"
    figure.write_bytes(b"\x89PNG")
    before = time.time_ns() // 1_000_000
    with start_run(
        "train",
        experiment="book",
        state=state(),
        name="lr=4e-04",
        description="**fast**",
        params={"lr": 4e-4, "clip": None, "sizes": ["124M"], "corpus": "text"},
        tags={"corpus": "abc"},
        record=repo / "reports" / "train_run.json",
        journal=repo / "journals" / "train",
    ) as run:
        for step in range(3):
            run.log_metrics({"val/loss": 6.0 - step, "odd": math.nan if step else 1.0}, step=step)
        run.log_input("verdict", "data/corpus", "f" * 64, profile={"documents": 1})
        run.log_artifact(figure, folder="figures")
        run.log_text("# ä", "samples/epoch_01.md")
    (found,) = snapshot_of(store).values()
    assert found["name"] == "lr=4e-04"
    assert found["status"] == "FINISHED"
    assert before <= found["times"][0] <= found["times"][1]
    assert found["params"] == {
        "lr": "0.0004",
        "clip": "null",
        "sizes": '["124M"]',
        "corpus": "text",
    }
    assert found["tags"]["corpus"] == "abc"
    assert found["tags"]["stage"] == "train"
    assert found["tags"]["mlflow.note.content"] == "**fast**"
    losses = [(step, value) for step, _, value in found["metrics"]["val/loss"]]
    assert losses == [(0, "6.0"), (1, "5.0"), (2, "4.0")]
    assert [value for _, _, value in found["metrics"]["odd"]] == ["1.0", "nan", "nan"]
    ((name, digest, _, profile, context),) = found["inputs"]
    assert (name, digest, json.loads(profile)) == ("verdict", "f" * 36, {"documents": 1})
    assert "training" in context
    assert found["artifacts"] == {
        "figures/loss.png": b"\x89PNG",
        "samples/epoch_01.md": "# ä".encode(),
    }
    experiment = store.client.get_experiment_by_name("book")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_good_end_hands_the_journal_to_dvc_and_clears_the_state(repo: Path, store: Store) -> None:
    record, journal = repo / "reports" / "train_run.json", repo / "journals" / "train"
    with start_run("train", experiment="e", state=state(), record=record, journal=journal) as run:
        (run.folder / "checkpoint.pth").write_bytes(b"large")
        run.log_text("hello", "a.md")
        key = run.key
    written = json.loads(record.read_text())
    run_id = store.find_run(key).info.run_id  # type: ignore[union-attr]
    assert written == {"run": key, "run_id": run_id, "experiment": "e", "name": "train"}
    assert (journal / "artifacts" / "a.md").read_text() == "hello"
    assert not state().exists()
    (kept,) = archived()
    assert kept.name == f"train-{key}"
    assert (kept / JOURNAL).read_bytes() == (journal / JOURNAL).read_bytes()
    assert not (kept / "checkpoint.pth").exists()


def test_a_child_knows_its_parent(repo: Path, store: Store, snapshot_of: Snapshot) -> None:
    record = repo / "train_run.json"
    with start_run("train", experiment="e", record=record) as run:
        parent = run.key
    with start_run("evaluate", experiment="e", parent=record) as run:
        child = run.key
    found = snapshot_of(store)
    assert found[child]["tags"]["mlflow.parentRunId"] == parent
    assert "mlflow.parentRunId" not in found[parent]["tags"]


def test_a_description_is_the_stages_until_somebody_edits_it(repo: Path, store: Store) -> None:
    record = repo / "train_run.json"
    with start_run("train", experiment="e", name="lr=[1]", record=record):
        pass
    parent_id = json.loads(record.read_text())["run_id"]
    with start_run("evaluate", experiment="e", description="Soon.", parent=record) as child:
        child.describe("It went **well**.")
    child_id = store.find_run(child.key).info.run_id  # type: ignore[union-attr]
    assert store.client.get_run(child_id).data.tags[DESCRIPTION] == "It went **well**."
    assert DESCRIPTION not in store.client.get_run(parent_id).data.tags
    assert child.name == "evaluate of lr=[1]"
    store.client.set_tag(child_id, DESCRIPTION, "My own words.")
    assert {one.outcome for one in synced(gather(Path("journals")))} == {"there"}
    assert store.client.get_run(child_id).data.tags[DESCRIPTION] == "My own words."


def test_the_tags_that_a_person_sees(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's page hides those that begin with `mlflow.`."""
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setenv("DVC_EXP_NAME", "ropey-sook")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    with start_run("train", experiment="e", tags={"corpus": "story"}) as run:
        pass
    found = store.find_run(run.key)
    assert found is not None
    assert {name for name in found.data.tags if not name.startswith("mlflow.")} == {
        *("stage", "corpus", "dvc.stage", "dvc.exp_name", "dvc.baseline"),
        *("lossbook.version", "lossbook.python", "lossbook.torch"),
    }


def test_a_child_of_a_deleted_parent_is_whole(repo: Path, store: Store) -> None:
    record = repo / "train_run.json"
    with start_run("train", experiment="e", record=record):
        pass
    parent_id = json.loads(record.read_text())["run_id"]
    store.client.delete_run(parent_id)
    with start_run("evaluate", experiment="e", parent=record) as child:
        child.log_metrics({"loss": 1.0})
    found = store.find_run(child.key)
    assert found is not None
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 1.0}
    assert found.data.tags["mlflow.parentRunId"] == parent_id


def test_a_parent_that_the_store_lost_is_brought_from_its_journal(
    repo: Path, store: Store, snapshot_of: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, journal = repo / "train_run.json", repo / "journals" / "train"
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        with start_run("train", experiment="e", record=record, journal=journal) as run:
            run.log_metrics({"loss": 1.0}, step=1)
    (kept,) = archived()
    for path in (*kept.glob("*"), kept):  # as in a fresh clone, where DVC brings journals/ alone
        path.rmdir() if path.is_dir() else path.unlink()
    with start_run("evaluate", experiment="e", parent=record) as child:
        pass
    found = snapshot_of(store)
    assert found[child.key]["tags"]["mlflow.parentRunId"] == run.key
    assert [step for step, _, _ in found[run.key]["metrics"]["loss"]] == [1]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("train.learning_rate: too\nhigh"), "FAILED"),
        (ZeroDivisionError("division by zero"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Terminated(), "KILLED"),
    ],
)
def test_how_a_run_ends(offline: Path, error: BaseException, status: str) -> None:
    record = offline / "run.json"
    with (
        pytest.raises(type(error)),
        start_run("train", experiment="e", record=record, journal=offline / "j"),
    ):
        raise error
    (kept,) = archived()
    run_state = read_run(kept)
    assert run_state is not None
    assert run_state.status == status
    assert ("error" in run_state.tags) == (status == "FAILED")
    if isinstance(error, UserError):
        assert run_state.tags["error"] == "UserError: train.learning_rate: too high"
    assert not record.exists()
    assert not (offline / "j").exists()


def test_a_broken_off_run_goes_on_as_the_same_run(
    repo: Path, store: Store, snapshot_of: Snapshot
) -> None:
    with broken_off() as run:
        key = run.key
        for step in range(6):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
    assert snapshot_of(store)[key]["status"] == "FAILED"
    with start_run("train", experiment="e", state=state()) as run:
        assert run.resumed
        for step in range(4, 8):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
    (found,) = snapshot_of(store).items()
    assert found[0] == key
    assert found[1]["status"] == "FINISHED"
    assert "error" not in found[1]["tags"]
    assert [step for step, _, _ in found[1]["metrics"]["loss"]] == list(range(8))


@pytest.mark.parametrize("first", [0, 3, 5])
def test_nothing_is_journalled_twice(offline: Path, first: int) -> None:
    """Wherever the repetition begins, and whatever the order of keys."""
    with broken_off() as run:
        for step in range(6):
            run.log_metrics({"a": step, "b": step}, step=step)
        run.log_metrics({"late": 5}, step=5)
    with start_run("train", experiment="e", state=state()) as run:
        for step in range(first, 8):
            run.log_metrics({"a": step, "b": step}, step=step)
            run.log_metrics({"late": step}, step=step)
    (kept,) = archived()
    lines = [line for line in (kept / JOURNAL).read_text().splitlines() if '"a"' in line]
    assert len(lines) == 8
    assert points_of(kept / JOURNAL)["b"] == set(range(8))
    assert 5 in points_of(kept / JOURNAL)["late"]


def test_two_processes_never_share_a_state_folder(offline: Path) -> None:
    with start_run("train", experiment="e", state=state()) as run:
        run.log_metrics({"a": 1})
        with (
            pytest.raises(UserError, match="is at work here"),
            start_run("train", experiment="e", state=state()),
        ):
            pass
    (kept,) = archived()
    run_state = read_run(kept)
    assert run_state is not None
    assert run_state.status == "FINISHED"


def test_params_never_change(run: Run) -> None:
    run.log_params({"lr": 0.1})
    run.log_params({"lr": 0.1})
    with pytest.raises(ValueError, match=r"lr is 0\.1 already"):
        run.log_params({"lr": 0.2})


def test_a_run_that_goes_on_keeps_its_params(offline: Path) -> None:
    with broken_off(params={"processes": 1}):
        pass
    with start_run("train", experiment="e", state=state(), params={"processes": 2, "new": 1}):
        pass
    (kept,) = archived()
    run_state = read_run(kept)
    assert run_state is not None
    assert run_state.params == {"processes": "1", "new": "1"}


@pytest.mark.parametrize("name", ["", "/a", "a//b", "a/../b", "..", "loss@5", "é,", "x" * 251])
def test_a_name_that_mlflow_would_refuse_is_refused_at_once(run: Run, name: str) -> None:
    with pytest.raises(ValueError, match="is named with"):
        run.log_metrics({name: 1.0})
    with pytest.raises(ValueError, match="is named with"):
        run.log_params({name: 1.0})


def test_long_texts_are_cut_to_what_mlflow_keeps(run: Run) -> None:
    run.log_params({"p": "x" * 7000})
    run.set_tags({"t": "x" * 9000})
    run_state = read_run(run.folder)
    assert run_state is not None
    assert len(run_state.params["p"]) == 6000
    assert len(run_state.tags["t"]) == 8000
    assert run_state.tags["t"].endswith("…")


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b"])
def test_an_artifact_stays_inside_the_run(run: Run, path: str) -> None:
    with pytest.raises(ValueError, match="stays inside the run"):
        run.log_text("x", path)


def test_a_missing_artifact_is_the_users_to_mend(run: Run) -> None:
    with pytest.raises(UserError, match=r"none\.png"):
        run.log_artifact(Path("none.png"))


def test_mlflow_reads_the_table_and_lists_it_for_comparison(repo: Path, store: Store) -> None:
    rows = [{"prompt": "Every", "temperature": 0.7, "completion": "é"}, {"prompt": "x", "k": None}]
    with start_run("sample", experiment="e") as run:
        run.log_table(rows, "samples.json")
        run.log_table(rows, "samples.json")
        run.log_table([{"a": math.nan}], "more.json")

    found = store.find_run(run.key)
    assert found is not None
    table = store.client.load_table(found.info.experiment_id, "samples.json", [found.info.run_id])
    assert table["completion"].fillna("").tolist() == ["é", ""]
    assert table["temperature"].fillna(0).tolist() == pytest.approx([0.7, 0])
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "samples.json", "type": "table"},
        {"path": "more.json", "type": "table"},
    ]


def test_samples_are_the_same_table_in_every_run(offline: Path) -> None:
    with start_run("train", experiment="e") as run:
        run.log_samples([{"weights": "epoch 1", "completion": "a", "prompt": "x", "epoch": 1}])
        train = (run.folder / "artifacts" / "samples.json").read_text()
    with start_run("baseline", experiment="e") as run:
        run.log_samples([{"prompt": "x", "completion": "b", "temperature": 0.0, "seconds": 2.0}])
        baseline = (run.folder / "artifacts" / "samples.json").read_text()
    columns = ["prompt", "completion", "weights", "temperature", "top_k", "seed"]
    assert json.loads(train)["columns"] == json.loads(baseline)["columns"] == columns
    assert json.loads(train)["data"] == [["x", "a", "epoch 1", None, None, None]]
    assert json.loads(baseline)["data"] == [["x", "b", None, 0.0, None, None]]
    with start_run("compare", experiment="e") as run:
        run.log_samples([])
        assert not (run.folder / "artifacts").exists()


def test_a_large_file_is_named_and_not_copied(repo: Path, store: Store) -> None:
    weights = repo / "models" / "best.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"w" * 1000)
    with start_run("train", experiment="e") as run:
        run.log_artifact(weights, folder="model", copy=False)
    (kept,) = archived()
    assert not list(kept.rglob("*.pth"))
    found = store.find_run(run.key)
    assert found is not None
    assert [f.path for f in store.client.list_artifacts(found.info.run_id, "model")] == [
        "model/best.pth"
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[]", r"train_run\.json: input should be a valid dictionary"),
        ("{}", r"train_run\.json: must hold the key `run`"),
        ('{"run": 3}', r"train_run\.json: run: input should be a valid string"),
    ],
)
def test_a_parent_must_be_a_record(offline: Path, content: str, complaint: str) -> None:
    record = offline / "train_run.json"
    record.write_text(content)
    with (
        pytest.raises(UserError, match=complaint),
        start_run("evaluate", experiment="e", parent=record),
    ):
        pass


def test_the_machine_is_watched(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.run.SYSTEM_INTERVAL", 0.01)

    def watched(folder: Path) -> list[int]:
        return sorted(points_of(folder / JOURNAL).get("system/cpu_utilization_percentage", ()))

    with broken_off() as run:
        while len(watched(run.folder)) < 3:
            time.sleep(0.01)
    before = watched(state())
    with start_run("train", experiment="e", state=state()) as run:
        while len(watched(run.folder)) == len(before):
            time.sleep(0.01)
    (kept,) = archived()
    assert watched(kept) == list(range(len(watched(kept)))), "steps go on where they were"
