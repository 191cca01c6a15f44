"""Losses are linked to logged models and data sets, so that MLflow ranks models by them."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.system.files import sha256_of
from pipeline.tracking import paths
from pipeline.tracking.cursor import CURSOR
from pipeline.tracking.journal import JOURNAL
from pipeline.tracking.mlflow import logged_models
from pipeline.tracking.mlflow.send import JournalSender
from pipeline.tracking.mlflow.store import Store, connect
from pipeline.tracking.mlflow.sync import Synced, gather, synced
from pipeline.tracking.mlflow.ui import serve
from pipeline.tracking.run import start_run
from tests.helpers.chromium import chromium
from tests.helpers.servers import Proxy, free_port
from tests.tracking.test_publish import log_model

Registry = Callable[[Store], dict[str, dict[str, Any]]]
RECORD, BEST = Path("reports/train_run.json"), Path("models/scratch/best.pth")
LOSSES = {"scratch": 5.5, "124M": 3.4, "1558M": 3.1}


def data_set(split: str = "val", text: str = "a") -> dict[str, Any]:
    return {
        "name": f"verdict/{split}",
        "source": f"data/tokens/{split}",
        "digest": f"{text}{split}" * 16,
        "profile": {"windows": 3},
    }


def losses(val: float, text: str = "a") -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Of two splits, as evaluate and baseline log them."""
    return [
        (data_set("val", text), {"val_loss": val, "val_perplexity": math.inf}),
        (data_set("test", text), {"test_loss": val + 1}),
    ]


def train(repo: Path, seed: int = 1) -> str:
    """A run that publishes a model; its key."""
    with start_run("train", experiment="book", name=f"lr {seed}", record=RECORD) as run:
        log_model(run, repo, seed, val_loss=6.0)
    return run.key


def evaluate(weights: str | None = None) -> str:
    """A run that measures the model of the last training; its key."""
    with start_run("evaluate", experiment="book", parent=RECORD) as run:
        run.log_metrics({"best/val_loss": LOSSES["scratch"]})
        run.log_measured(weights or sha256_of(BEST), losses(LOSSES["scratch"]))
    return run.key


def baseline(size: str, val: float | None = None, text: str = "a", **params: str) -> str:
    with start_run("baseline", experiment="book", name=f"gpt2-{size}") as run:
        run.log_measured(
            size[0] * 64,
            losses(LOSSES[size] if val is None else val, text),
            name=f"gpt2-{size}",
            params={"parameters": 5, "precision": "fp32", **params},
        )
    return run.key


def ranked(store: Store, metric: str = "val_loss", **which: str) -> list[tuple[str, float]]:
    """What MLflow answers to one question: the models of a data set, the best first."""
    given = data_set(metric.removesuffix("_loss"), **which)
    where = {"dataset_name": given["name"], "dataset_digest": given["digest"][:36]}
    found = store.client.search_logged_models(
        [store.experiment_id("book")],
        datasets=[where],
        order_by=[{"field_name": f"metrics.{metric}", "ascending": True, **where}],
    )
    return [
        (model.name, m.value)
        for model in found
        for m in model.metrics
        if (m.key, m.dataset_digest) == (metric, where["dataset_digest"])
    ]


RANKED = [("gpt2-1558M", 3.1), ("gpt2-124M", 3.4), ("book", 5.5)]


def everything(store: Store) -> list[dict[str, Any]]:
    """All of the models in a store, without the ids that it makes up."""
    client = store.client
    models = client.search_logged_models([store.experiment_id("book")])
    keys = {
        run.info.run_id: run.data.tags["mlflow.lossbook.run"]
        for run in client.search_runs([store.experiment_id("book")])
    }
    measured_by: dict[str, set[str]] = {}
    for run_id, key in keys.items():
        for given in client.get_run(run_id).inputs.model_inputs:
            measured_by.setdefault(given.model_id, set()).add(key)
    return sorted(
        (
            {
                "name": model.name,
                "status": str(model.status),
                "tags": model.tags,
                "params": model.params,
                "from": keys[model.source_run_id],
                "measured by": measured_by.get(model.model_id, set()),
                "metrics": sorted(
                    (m.key, m.value, m.timestamp, m.step, keys[m.run_id], str(m.dataset_digest))
                    for m in model.metrics
                ),
            }
            for model in models
        ),
        key=str,
    )


def sync_now() -> list[Synced]:
    return list(synced(gather(Path("journals"))))


def outcomes(done: Iterable[Synced]) -> list[str]:
    return [one.outcome for one in done]


def write_runs(repo: Path) -> None:
    baseline("124M")
    train(repo)
    evaluate()
    baseline("1558M")


def test_one_search_ranks_scratch_and_gpt2(repo: Path, store: Store) -> None:
    write_runs(repo)
    assert ranked(store) == RANKED
    assert ranked(store, "test_loss") == [(name, loss + 1) for name, loss in RANKED]
    assert ranked(store, text="b") == []


def test_a_server_ranks_them_too(proxy: Proxy, bare_repo: Path) -> None:
    write_runs(bare_repo)
    assert ranked(connect()) == RANKED


def test_what_is_linked(repo: Path, store: Store) -> None:
    key, measured = train(repo), evaluate()
    baseline("124M")
    found = {model["name"]: model for model in everything(store)}
    scratch, gpt2 = found["book"], found["gpt2-124M"]
    assert (scratch["from"], scratch["measured by"]) == (key, {measured})
    assert gpt2["params"] == {"parameters": "5", "precision": "fp32"}
    assert gpt2["tags"] == {"lossbook.weights": "1" * 64, "mlflow.model.isExternal": "true"}
    assert gpt2["status"] == "READY"
    run = store.find_run(measured)
    assert run is not None
    assert run.data.metrics["val_loss"] == 5.5, "the run has it too"
    contexts = {i.dataset.name: i.tags[0].value for i in run.inputs.dataset_inputs}
    assert contexts == {"verdict/val": "evaluation", "verdict/test": "evaluation"}


def test_a_size_is_one_model_however_often_it_is_measured(repo: Path, store: Store) -> None:
    baseline("124M")
    baseline("124M", text="b", val=4.5)
    baseline("124M", val=3.3)
    (model,) = everything(store)
    assert len(model["measured by"]) == 3
    assert ranked(store, text="b") == [("gpt2-124M", 4.5)]
    assert ranked(store)[-1] == ("gpt2-124M", 3.3)
    baseline("124M", precision="bf16")
    assert len(everything(store)) == 2, "other numbers come from it"


def test_two_processes_that_create_a_size_at_once_leave_one(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look, and there is none; the first one's stays."""
    looked = logged_models.models_with
    answers = [[]]  # to the second's first look
    baseline("124M")
    monkeypatch.setattr(
        logged_models, "models_with", lambda *a: answers.pop() if answers else looked(*a)
    )
    baseline("124M", text="b", val=4.5)
    assert answers == []
    (model,) = everything(store)
    assert len(model["measured by"]) == 2


def test_a_loss_that_is_no_number_ranks_nowhere(repo: Path, store: Store) -> None:
    """MLflow would take it for a loss of 0."""
    write_runs(repo)
    key = baseline("124M", text="b", val=math.nan)
    assert ranked(store, text="b") == []
    run = store.find_run(key)
    assert run is not None
    assert math.isnan(run.data.metrics["val_loss"])
    assert outcomes(sync_now()) == ["there"] * 5


def test_an_empty_store_gets_them_all(
    repo: Path, store: Store, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(repo)
    baseline("124M", text="b", val=4.5)
    before = everything(store)
    shutil.copyfile(template, repo / "second.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///second.db")
    assert outcomes(sync_now()) == ["sent"] * 5
    assert everything(connect()) == before


def test_sending_everything_again_changes_nothing(repo: Path, store: Store) -> None:
    write_runs(repo)
    before = everything(store)
    assert outcomes(sync_now()) == ["there"] * 4
    for cursor in paths.journals().glob(f"*/{CURSOR}"):
        cursor.unlink()
    assert outcomes(sync_now()) == ["sent"] * 4
    assert everything(store) == before


def journals_of(stage: str) -> list[Path]:
    return sorted(paths.journals().glob(f"{stage}-*"))


def test_losses_that_come_before_their_model_are_linked_when_it_is_there(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
    train(repo)
    evaluate()
    (folder,) = journals_of("evaluate")
    child = JournalSender(folder, store)
    child.drain()
    child.send_missing()
    (remark,) = child.cursor.remarks()
    assert remark.endswith("the run that they come from has published no such model yet")
    assert ranked(store) == []
    assert outcomes(sync_now()) == ["sent", "sent"]
    assert ranked(store) == [("book", 5.5)]
    assert outcomes(sync_now()) == ["there", "there"]


@pytest.mark.parametrize("weights", ["here", "gone"])
def test_a_stage_sees_to_it_that_the_model_is_there_first(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    """The store was away while the training ended. Losses are of a model whose files are gone."""
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        train(repo)
    digest = sha256_of(BEST)
    if weights == "gone":
        BEST.unlink()
    evaluate(weights=digest)
    assert ranked(store) == [("book", 5.5)]


class Killed(BaseException):
    """As by SIGKILL: nothing that follows is done."""


def test_a_sender_that_is_killed_after_any_request_doubles_nothing(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store has taken the cursor has not noted: the next one sends it again."""
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        baseline("124M")
    (folder,) = journals_of("baseline")
    left = 0

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def request(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            answer = call(*arguments, **more)
            left -= 1
            if left == 0:
                raise Killed
            return answer

        return request

    for name in ("log_batch", "log_inputs", "create_logged_model", "finalize_logged_model"):
        monkeypatch.setattr(store.client, name, killing(getattr(store.client, name)))
    requests = 0
    while left == 0:
        requests += 1
        left = requests
        sender = JournalSender(folder, store)
        sender.abandon()  # it notes nothing
        with suppress(Killed):
            sender.drain()
    assert requests == 6, "each of them was the last one once"
    assert outcomes(sync_now()) == ["sent"]
    (model,) = everything(store)
    assert model["status"] == "READY"
    assert len(model["metrics"]) == 3
    assert ranked(store) == [("gpt2-124M", 3.4)]


def test_a_model_that_was_deleted_in_mlflow_stays_deleted(repo: Path, store: Store) -> None:
    write_runs(repo)
    for model in store.client.search_logged_models([store.experiment_id("book")]):
        if model.name == "gpt2-124M":
            store.client.delete_logged_model(model.model_id)
    assert outcomes(sync_now()) == ["there"] * 4
    assert [name for name, _ in ranked(store)] == ["gpt2-1558M", "book"]


def test_a_parent_that_comes_back_as_another_run_has_its_losses(repo: Path, store: Store) -> None:
    key = train(repo)
    evaluate()
    run = store.find_run(key)
    assert run is not None
    (model,) = run.outputs.model_outputs
    store.client.set_tag(run.info.run_id, "mlflow.lossbook.run", "no longer known")
    store.client.delete_logged_model(model.model_id)
    assert outcomes(sync_now()) == ["rebuilt", "rebuilt"]
    assert ranked(store) == [("book", 5.5)]


def test_a_journal_of_an_earlier_version_is_sent_as_before(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its evaluation names no model."""
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        train(repo)
        evaluate()
    for folder in journals_of("evaluate"):
        lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
        (folder / JOURNAL).write_bytes(b"".join(x for x in lines if b'"measured"' not in x))
    assert outcomes(sync_now()) == ["sent", "sent"]
    assert outcomes(sync_now()) == ["there", "there"]
    assert ranked(store) == []


@pytest.mark.slow
def test_mlflows_page_lists_them_with_their_data(repo: Path, store: Store, tmp_path: Path) -> None:
    write_runs(repo)
    page = f"experiments/{store.experiment_id('book')}/models?workflowType=machine_learning"
    with serve(free_port()) as (url, _), chromium(tmp_path / "profile") as browser:
        browser.set_window_size(2800, 900)  # no column is left out
        browser.get(f"{url}/#/{page}")
        deadline, shown = time.monotonic() + 120, ""
        while not all(text in shown for text in ("gpt2-124M", "gpt2-1558M", "verdict/val (#")):
            assert time.monotonic() < deadline, shown
            time.sleep(0.25)
            shown = browser.execute_script("return document.body.innerText")
    assert shown.count("Ready") == 3
