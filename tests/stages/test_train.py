"""train and evaluate, through their commands, into a real MLflow store."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from pipeline.system.checksums import check
from pipeline.tokens.token_losses import TokenLosses
from pipeline.tokens.unit_losses import VAL_UNITS, UnitLosses
from pipeline.tracking.journal import read_run

PARAMS = """
seed: 5
prepare: {corpus: story.txt}
split: {train_fraction: 0.8}
model: {n_layer: 1, n_head: 2, n_embd: 16, context_length: 64}
train: {epochs: 2, batch_size: 2, eval_every: 3, grad_clip: 1.0}
"""
STORY = Path(__file__).parents[2] / "pipeline/corpus/texts/what-seemed-likely.txt"


def invoke(command: str, *arguments: str) -> Result:
    from importlib import import_module

    return CliRunner().invoke(import_module(f"stages.{command}").main, list(arguments))


def tokenise() -> None:
    assert not invoke("prepare", "--corpus", "data/corpus", "--report", "c.json").exception
    split = ("--corpus", "data/corpus", "--tokens", "data/tokens", "--report", "s.json")
    assert not invoke("split", *split).exception


def train(folder: str = "models/scratch", reports: str = "reports") -> Result:
    written = ("--model", folder, "--reports", reports, "--journal", f"{reports}/journal")
    return invoke("train", "--tokens", "data/tokens", *written)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare, split, train and evaluate have run."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / ".dvc").mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "story.txt").write_text(STORY.read_text()[:4000])
    with chdir(folder):
        tokenise()
        assert train().exception is None
        done = invoke(
            "evaluate",
            *("--tokens", "data/tokens", "--model", "models/scratch"),
            *("--parent", "reports/train_run.json", "--report", "reports/evaluate.json"),
            *("--metrics", "reports/perplexity.json"),
            *("--token-losses", "reports/token_losses", "--journal", "journals/evaluate"),
        )
        assert done.exception is None, done.output
    return folder


@pytest.fixture
def repository(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, as the working folder of one test."""
    monkeypatch.chdir(made)
    return made


def read(name: str) -> dict:
    return json.loads(Path("reports", name).read_text())


def history() -> list[dict[str, float]]:
    with open("reports/history.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_writes_what_the_contract_names(repository: Path) -> None:
    model = {path.name for path in Path("models/scratch").iterdir()}
    weights = {"model.pth", "best.pth", "optimizer.pth"}
    assert model == weights | {"config.json", "start.json", "_SHA256SUMS"}
    for name in weights | {"config.json"}:
        check(Path("models/scratch"), [name], "")
    assert list(history()[0]) == [
        "step",
        "epoch",
        "tokens_seen",
        "train_loss",
        "val_loss",
        "learning_rate",
    ]
    assert Path("reports/loss.png").read_bytes().startswith(b"\x89PNG")
    assert torch.load("models/scratch/model.pth", weights_only=True)["wte.weight"].shape[1] == 16


def test_the_summary_is_of_the_history(repository: Path) -> None:
    rows, summary = history(), read("train.json")
    best = min(rows, key=lambda row: row["val_loss"])
    assert summary["best"] == {k: best[k] for k in ("step", "epoch", "val_loss")}
    assert summary["last"] == {k: rows[-1][k] for k in ("train_loss", "val_loss")}
    assert summary["overfit"] == rows[-1]["val_loss"] - best["val_loss"]


def test_evaluate_measures_three_models_on_two_splits(repository: Path) -> None:
    report = read("evaluate.json")
    for by_split in (report, report["best"], report["untrained"]):
        for split in ("train", "val"):
            losses = by_split[split]
            assert losses["perplexity"] == pytest.approx(math.exp(losses["loss"]))
            assert losses["tokens"] == losses["windows"] * 64
    # the same windows as training saw, in fp32: only the precision may differ
    assert report["val"]["loss"] == pytest.approx(history()[-1]["val_loss"], abs=0.02)
    assert report["untrained"]["val"]["loss"] == pytest.approx(history()[0]["val_loss"], abs=0.02)


def test_token_losses_add_up(repository: Path) -> None:
    kept, report = TokenLosses.open(Path("reports/token_losses")), read("evaluate.json")
    for version, losses in (("best", report["best"]), ("last", report)):
        found = kept.of(version, "val")
        assert found.size == losses["val"]["tokens"]
        assert found.mean(dtype="f8") == pytest.approx(losses["val"]["loss"], rel=1e-12)


def test_the_run_of_evaluate_keeps_losses_by_unit_of_text(repository: Path) -> None:
    found = UnitLosses.read(Path("journals/evaluate/artifacts") / VAL_UNITS)
    report = read("evaluate.json")
    for version, losses in (("best", report["best"]), ("last", report)):
        assert sum(found.tokens) == losses["val"]["tokens"]
        loss = sum(getattr(found, version)) / sum(found.tokens)
        assert loss == pytest.approx(losses["val"]["loss"], rel=1e-9)


def test_mlflow_holds_the_reports_numbers(repository: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    record = read("train_run.json")
    run = client.get_run(record["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "2"
    assert run.data.tags["corpus"] == "story.txt"
    points = client.get_metric_history(record["run_id"], "eval/val_loss")
    assert {int(p.step): p.value for p in points} == {
        int(row["step"]): row["val_loss"] for row in history()
    }
    steps = client.get_metric_history(record["run_id"], "train/loss")
    assert [point.step for point in steps] == list(range(1, len(steps) + 1))
    children = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{record['run_id']}'"
    )
    (evaluation,) = children
    assert evaluation.data.metrics["best/val_loss"] == read("evaluate.json")["best"]["val"]["loss"]
    names = {file.path for file in client.list_artifacts(record["run_id"])}
    assert {"figures", "samples", "samples.json", "history.csv"} <= names
    names = {file.path for file in client.list_artifacts(evaluation.info.run_id)}
    assert VAL_UNITS in names


def test_the_best_weights_are_champion_of_the_registry(repository: Path) -> None:
    import mlflow
    from safetensors.torch import load_file

    client = mlflow.MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    champion = client.get_model_version_by_alias("lossbook", "champion")
    assert champion.run_id == read("train_run.json")["run_id"]
    model = client.get_logged_model(champion.source.removeprefix("models:/"))
    losses = {metric.key: metric.value for metric in model.metrics}
    assert losses["model/val_loss"] == read("train.json")["best"]["val_loss"]
    assert model.params["train.batch_size"] == "2"
    weights = next((repository / "mlartifacts").rglob("model.safetensors"))
    best = torch.load("models/scratch/best.pth", weights_only=True)
    served = load_file(weights)
    assert all(torch.equal(served[name], tensor) for name, tensor in best.items())


def test_the_losses_of_the_best_weights_are_that_models_on_the_data_of_the_training(
    repository: Path,
) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    run = client.get_run(read("train_run.json")["run_id"])
    digests = {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs}
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    measured = {m.key: m for m in model.metrics if m.dataset_name}
    best = read("evaluate.json")["best"]
    for split in ("train", "val"):
        for name in ("loss", "perplexity", "bits_per_byte"):
            metric = measured.pop(f"{split}_{name}")
            assert metric.value == best[split][name]
            assert metric.dataset_digest == digests[metric.dataset_name]
            assert metric.dataset_name == f"story.txt/{split}"
    assert measured == {}


def test_the_journal_knows_both_weights_and_the_store_holds_one_copy(repository: Path) -> None:
    """By their hashes `lossbook generate --model RUN` finds them in DVC's cache."""
    story = read_run(Path("reports/journal"))
    assert story is not None
    for name in ("model.pth", "best.pth", "optimizer.pth"):
        assert story.artifacts[f"model/{name}"]["reference"] == f"models/scratch/{name}"
    assert not list((repository / "mlartifacts").rglob("*.pth"))
    assert len(list((repository / "mlartifacts").rglob("*.safetensors"))) == 1


@pytest.mark.usefixtures("offline")
def test_the_same_params_give_the_same_bytes(repository: Path) -> None:
    assert train("models/again", "again").exception is None
    for once, again in (
        ("models/scratch/model.pth", "models/again/model.pth"),
        ("models/scratch/best.pth", "models/again/best.pth"),
        ("reports/history.csv", "again/history.csv"),
        ("reports/train.json", "again/train.json"),
        ("reports/loss.png", "again/loss.png"),
    ):
        assert Path(once).read_bytes() == Path(again).read_bytes(), once


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("train: {batch_size: 5000}", "train.batch_size: 5000 x gradient_accumulation 1 asks"),
        ("train: {init_from: nowhere}", "train.init_from: nowhere: no such model"),
        ("train: {device: 'cuda:7'}", "train.device: cuda:7 asked for, but this machine has"),
        ("model: {context_length: 1000}", "tokens, too few for one window of model.context"),
        ("train: {init_from: models/scratch}", "init_from: models/scratch is what a training"),
        ("train: {init_from: models/copy}", "fits no such model: model.n_layer is 12"),
    ],
)
def test_what_cannot_be_trained_ends_in_one_line(repository: Path, section: str, said: str) -> None:
    Path("params.yaml").write_text(
        section + "\nmodel: {context_length: 64}" * ("model:" not in section)
    )
    shutil.copytree("models/scratch", "models/copy", dirs_exist_ok=True)
    try:
        result = train("models/wrong", "wrong")
    finally:
        Path("params.yaml").write_text(PARAMS)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert not Path("models/wrong").exists()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("which", ["run", "run_id"])
def test_a_run_is_trained_on_by_its_key_or_its_mlflow_id(
    repository: Path, tmp_path: Path, which: str, monkeypatch
) -> None:
    """Also when models/scratch is gone: DVC's cache holds what the journal names."""
    shutil.copytree(repository, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    cache = Path(".dvc/cache/files/md5")
    for name in ("model.pth", "optimizer.pth"):
        data = Path("models/scratch", name).read_bytes()
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        (cache / md5[:2]).mkdir(parents=True)
        (cache / md5[:2] / md5[2:]).write_bytes(data)
    last = history()[-1]
    run = read("train_run.json")[which]
    shutil.rmtree("models/scratch")
    Path("params.yaml").write_text(
        PARAMS.replace("train: {", f"train: {{ema_decay: 0.5, init_from: {run}, ")
    )
    done = train()
    assert done.exception is None, done.output
    assert history()[0]["val_loss"] == last["val_loss"]
    assert json.loads(Path("models/scratch/start.json").read_text())["init_from"] == run
    moments = torch.load("models/scratch/optimizer.pth", weights_only=True)["state"][0]
    assert moments["step"].item() == 2 * last["step"]
    average = {"step": last["step"], "val_loss": read("train.json")["ema"]["val_loss"]}
    assert read("train.json")["ema"] == average
    assert f"of the averaged weights {average['val_loss']:.3f}" in done.stderr
    check(Path("models/scratch"), ["ema.pth"], "")
    story = read_run(Path("reports/journal"))
    assert story is not None
    assert story.artifacts["model/ema.pth"]["reference"] == "models/scratch/ema.pth"


@pytest.mark.parametrize(
    ("init_from", "message"),
    [
        ("models/scratch", r"what a training replaces.*lossbook runs.*copy of the folder"),
        ("0123456789abcdef", "no such model; give `scratch`"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(
    repository: Path, tmp_path: Path, init_from: str, message: str
) -> None:
    Path(tmp_path / "params.yaml").write_text(
        PARAMS.replace("train: {", f"train: {{init_from: {init_from}, ")
    )
    done = invoke(
        "train",
        *("--params", str(tmp_path / "params.yaml"), "--tokens", "data/tokens"),
        *("--model", "models/scratch", "--reports", str(tmp_path), "--journal", str(tmp_path)),
    )
    assert done.exit_code == 1
    assert re.search(f"train.init_from: {init_from}.*{message}", done.output)
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.usefixtures("offline")
def test_a_disk_that_takes_no_weights_is_one_line_and_the_training_goes_on_from_its_checkpoint(
    repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    values = PARAMS.replace("seed: 5", "seed: 6").replace("epochs: 2", "max_steps: 3")
    Path("params.yaml").write_text(values.replace("train: {", "train: {checkpoint_every: 1, "))
    try:
        failed = train(f"{tmp_path}/file/scratch", str(tmp_path / "reports"))
        done = train(str(tmp_path / "model"), str(tmp_path / "reports"))
    finally:
        Path("params.yaml").write_text(PARAMS)
    assert failed.exit_code == 1
    line = failed.output.splitlines()[-1]
    assert line.startswith(f"Error: {tmp_path}/file/scratch")
    assert line.endswith(": Not a directory")
    assert done.exception is None, done.output
    assert "going on from the checkpoint of step" in done.output


def test_a_launcher_that_trains_nothing_is_no_success(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = Path("params.yaml").read_text()
    try:
        Path("params.yaml").write_text(PARAMS.replace("train: {", "train: {launcher: /bin/true, "))
        done = train()
    finally:
        Path("params.yaml").write_text(before)
    assert done.exit_code == 1
    assert "train.launcher: '/bin/true' ended well, but no process of it has trained" in done.stderr
