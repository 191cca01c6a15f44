"""The whole pipeline through real DVC and real MLflow, in a repository of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.gpt2.export import export
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.tokens.tokenizer import VOCABULARY
from tests.helpers.repository import Repository, stages_run

STAGED = ("124M", "1558M")  # a size that is asked for, and one that is not
# Where the store is not looked at, its records need not be sent again.
OFFLINE = {"LOSSBOOK_OFFLINE": "1"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("pipeline") / "lossbook"
    folder.mkdir()
    repository = Repository(folder)
    pipeline = folder / "dvc.yaml"  # its sizes are `test_dvc_yaml`'s
    text, count = re.subn(r"size: \[.*\]", f"size: [{', '.join(STAGED)}]", pipeline.read_text())
    assert count == 1
    pipeline.write_text(text)
    assert repository.repro() == [
        "prepare",
        "split",
        "train",
        "evaluate",
        "sample",
        *(f"baseline@{size}" for size in STAGED),  # the one not asked for says so
        "compare",
    ]
    repository.commit()
    return repository


def test_every_stage_leaves_its_report(repository: Repository) -> None:
    reports = {path.name for path in (repository.folder / "reports").iterdir()}
    assert reports >= {
        "corpus.json",
        "split.json",
        "history.csv",
        "loss.png",
        "train.json",
        "train_run.json",
        "evaluate.json",
        "samples.json",
        "samples.md",
        "comparison.csv",
        "comparison.md",
        "comparison.html",
        "comparison.png",
        "comparison.json",
    }
    assert repository.read("gpt2/124M.json")["status"] == "unavailable"
    table = (repository.folder / "reports/comparison.csv").read_text()
    assert "unavailable" in table.splitlines()[-1]


def test_where_nothing_changed_but_the_experiment_s_name_nothing_runs(
    repository: Repository,
) -> None:
    repository.set("tracking.experiment", "elsewhere")
    assert repository.repro() == []
    repository.set("tracking.experiment", "lossbook")
    assert repository.run("git", "status", "--porcelain").stdout == ""


def ranked_by_mlflow(repository: Repository) -> list[tuple[str, float]]:
    """The models that were measured on the windows of the current training, the best first.

    Of a model that was measured again, the losses that differ.
    """
    synced = json.loads(repository.run("lossbook", "sync", "--json").stdout)
    ids = {one["run"]: one["run_id"] for one in synced}
    client = MlflowClient(f"sqlite:///{repository.folder / 'mlflow.db'}")
    run = client.get_run(ids[repository.read("train_run.json")["run"]])
    val = next(i.dataset for i in run.inputs.dataset_inputs if i.dataset.name.endswith("/val"))
    data = {"dataset_name": val.name, "dataset_digest": val.digest}
    models = client.search_logged_models(
        [run.info.experiment_id],
        datasets=[data],
        order_by=[{"field_name": "metrics.val_loss", "ascending": True, **data}],
    )
    measured = [
        (model.name, metric.value)
        for model in models
        for metric in model.metrics
        if (metric.key, metric.dataset_digest) == ("val_loss", val.digest)
        and model.source_run_id in (run.info.run_id, *of_gpt2(client, run.info.experiment_id))
    ]
    return list(dict.fromkeys(measured))


def of_gpt2(client: MlflowClient, experiment: str) -> set[str]:
    return {r.info.run_id for r in client.search_runs([experiment], "tags.role = 'baseline'")}


def test_one_run_with_its_children(repository: Repository) -> None:
    rows = json.loads(repository.run("lossbook", "runs", "--json").stdout)
    text = json.dumps(rows)
    for stage in ("train", "evaluate", "sample", "compare"):
        assert f'"{stage}"' in text
    assert repository.read("train_run.json")["run_id"] in text


def test_a_learning_rate_trains_is_compared_and_going_back_restores(
    repository: Repository,
) -> None:
    before = (repository.folder / "models/scratch/model.pth").read_bytes()
    record = repository.read("train_run.json")
    repository.set("train.learning_rate", "1e-3")
    assert repository.repro("train", **OFFLINE) == ["train"]
    assert (repository.folder / "models/scratch/model.pth").read_bytes() != before
    changed = json.loads(repository.run("dvc", "status", "--json").stdout)
    looking_outside = {"identify", *(f"fetch_gpt2@{size}" for size in STAGED)}
    assert changed.keys() - looking_outside == {"evaluate", "sample", "compare"}
    check_the_comparison_with_the_commit(repository)
    repository.set("train.learning_rate", "4.0e-4")
    assert repository.repro() == []
    assert (repository.folder / "models/scratch/model.pth").read_bytes() == before
    assert repository.read("train_run.json") == record


@pytest.mark.slow
def test_an_ensemble_of_runs_that_dvc_keeps_measures_and_compares_and_nothing_else(
    repository: Repository,
) -> None:
    runs = [repository.read("train_run.json")["run"]]
    repository.set("train.learning_rate", "2e-3")
    assert repository.repro("train", **OFFLINE) == ["train"]
    runs.append(repository.read("train_run.json")["run"])
    repository.set("train.learning_rate", "4.0e-4")
    repository.set("evaluate.ensemble", json.dumps(runs))
    assert repository.repro(**OFFLINE) == ["evaluate", "compare"]
    row = repository.read("comparison.json")["rows"][3]
    assert row["model"] == "ensemble of 2"
    assert row["parameters"] == 2 * repository.read("train.json")["parameters"]
    repository.set("evaluate.ensemble", "[]")
    assert repository.repro(**OFFLINE) == []


def check_the_comparison_with_the_commit(repository: Repository) -> None:
    diff = json.loads(repository.run("dvc", "metrics", "diff", "--json").stdout)
    change = diff["reports/train.json"]["best.val_loss"]
    assert change["new"] == repository.read("train.json")["best"]["val_loss"]
    assert change["diff"] == pytest.approx(change["new"] - change["old"])

    drawn = json.loads(repository.run("dvc", "plots", "diff", "--json").stdout)["data"]
    for title in ("Validation loss", "Training loss"):
        (plot,) = drawn[title]
        points = plot["content"]["data"]["values"]
        assert {point["rev"] for point in points} == {"HEAD", "workspace"}


HEADLINES = {
    "train.json": {"parameters", "steps", "tokens_seen", "overfit", "best.step", "best.epoch"}
    | {"best.val_loss", "last.train_loss", "last.val_loss"}
    | {"step_losses.steps", "step_losses.mean"},
    "train_run.json": {"run", "run_id", "experiment", "name"},
    "perplexity.json": {"val_perplexity", "val_bits_per_byte"}
    | {"best_val_perplexity", "best_val_bits_per_byte"},
    "diversity.json": {"distinct_2", "repetition", "copied", "longest_copy"},
}


def leaves(values: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        inner = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}"}
    return found


def test_dvc_compares_runs_by_what_matters_and_by_nothing_else(repository: Repository) -> None:
    shown = json.loads(repository.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert {Path(name).name: leaves(file["data"]) for name, file in shown.items()} == HEADLINES


def test_a_wrong_value_ends_in_a_line_that_names_it(repository: Repository) -> None:
    done = repository.run("dvc", "exp", "run", "-S", "train.learning_rate=abc", check=False)
    assert done.returncode != 0
    lines = (done.stdout + done.stderr).splitlines()
    assert "train.learning_rate: input should be a valid number, not 'abc'" in lines
    assert "Traceback" not in done.stdout + done.stderr
    repository.run("git", "checkout", "params.yaml")


@pytest.mark.slow
def test_an_experiment_with_a_temperature_runs_sample_alone(repository: Repository) -> None:
    tried = ("dvc", "exp", "run", "-S", "sample.temperature=0.5")
    assert stages_run(repository.run(*tried, **OFFLINE).stdout) == ["sample"]
    assert "T=0.5 k=25" in repository.run("lossbook", "runs", "--json").stdout
    repository.run("git", "reset", "--quiet", "--hard")
    repository.run("dvc", "checkout")


@pytest.mark.slow
def test_a_temperature_runs_sample_alone_by_a_queue_of_two_workers(
    repository: Repository,
) -> None:
    """`test_workbench` has two workers train, and send to the one store."""
    repository.run("dvc", "exp", "run", "--queue", "-S", "sample.temperature=0.6,0.7")
    status = repository.sweep(jobs=2, **OFFLINE)
    assert status.count("Success") == 2, status
    shown = repository.run("lossbook", "runs", "--json").stdout
    names = re.findall(r"(?m)^\w{7} +([\w-]+) .* Success", status)
    assert len(names) == 2, status
    for name in names:
        logs = repository.run("dvc", "queue", "logs", name).stdout
        assert stages_run(logs) == ["sample"]
    for temperature in ("0.6", "0.7"):
        assert f"T={temperature} k=25" in shown
    repository.set("sample.temperature", "0.6")
    assert repository.repro() == []  # restored from the cache
    repository.run("git", "reset", "--quiet", "--hard")
    repository.run("dvc", "checkout")


@pytest.mark.slow
def test_a_gpt2_that_comes_late_runs_its_baseline_and_compare(repository: Repository) -> None:
    assert repository.read("baselines/124M.json")["status"] == "unavailable"
    model = GPT(GPTConfig(1, 2, 8, 64, VOCABULARY, qkv_bias=True, tie_weights=True))
    initialise(model, "gpt2", 0)
    export(model, repository.folder.parent / "gpt2" / "124M")
    assert repository.repro(**OFFLINE) == ["baseline@124M", "compare"]
    found = repository.read("baselines/124M.json")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (found["status"], found["parameters"]) == ("measured", parameters)
    row = (repository.folder / "reports/comparison.csv").read_text().splitlines()[-1]
    assert f",{parameters}," in row
    assert "unavailable" not in row
    assert ranked_by_mlflow(repository) == sorted(
        [
            ("gpt2-124M", found["val"]["loss"]),
            ("lossbook", repository.read("evaluate.json")["best"]["val"]["loss"]),
        ],
        key=lambda one: one[1],
    )
    assert repository.repro("baseline@124M") == []
