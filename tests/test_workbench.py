"""A sweep of six by DVC's queue in a fresh clone, and what its users then read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from repository import Repository

REFUSED = "n_embd 16 is not a multiple of n_head 3"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Nothing has ever run there, MLflow's store included, when two workers start at once."""
    folder = tmp_path_factory.mktemp("workbench") / "lossbook"
    folder.mkdir()
    repository = Repository(folder)
    queue = ("dvc", "exp", "run", "--queue")
    repository.run(*queue, "-S", "train.learning_rate=4e-3,1e-3", "-S", "seed=1,2")
    repository.run(*queue, "-S", "train.learning_rate=1e-2", "-S", "seed=1")
    repository.run(*queue, "--name", "refused", "-S", "model.n_head=3", "-S", "seed=1")
    status = repository.sweep(jobs=2)
    assert status.count("Success") == 5, status
    assert status.count("Failed") == 1, status
    return repository


def test_the_failed_one_says_why_in_the_queues_logs(swept: Repository) -> None:
    logs = swept.run("dvc", "queue", "logs", "refused").stdout
    assert REFUSED in logs
    assert "Traceback" not in logs


def test_lossbook_sweep_is_right_about_all_six(swept: Repository) -> None:
    found = json.loads(swept.run("lossbook", "sweep", "--json").stdout)
    settings = {s["values"]["train.learning_rate"]: s for s in found["settings"]}
    assert {rate: len(s["runs"]) for rate, s in settings.items()} == {4e-3: 2, 1e-3: 2, 1e-2: 1}
    assert [s["mean"] for s in found["settings"]] == sorted(s["mean"] for s in found["settings"])
    (failed,) = found["failed"]
    assert (failed["experiment"], failed["stage"]) == ("refused", "identify")
    assert REFUSED in failed["error"]
    assert found["unfinished"] == []
    for setting in found["settings"]:
        for run in setting["runs"]:
            shown = swept.run("git", "show", f"{run['experiment']}:reports/train.json").stdout
            assert json.loads(shown)["best"]["val_loss"] == run["score"]
    for suffix in ("html", "md", "png"):
        assert (swept.folder / "reports" / f"sweep.{suffix}").exists()


def test_the_one_store_has_them_all(swept: Repository) -> None:
    rows = json.loads(swept.run("lossbook", "runs", "--json").stdout)
    trainings = [row["status"] for row in rows if row["stage"] == "train"]
    assert trainings == ["FINISHED"] * 5
    assert [row["status"] for row in rows if row["stage"] == "identify"] == ["FAILED"]
    stores = sorted(Path(p).name for p in swept.folder.glob("*.db"))
    assert stores == ["mlflow.db"]
