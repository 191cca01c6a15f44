"""A tiny model, published by a run and served by MLflow, says what the decoder says."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from safetensors.torch import load_file

from pipeline.generation.decode import complete
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.saved import load_model, save_config, save_weights
from pipeline.params import Sample
from pipeline.serving import PARAMS
from pipeline.serving.trained_model import CODE, requirements, served_defaults
from pipeline.tracking import paths
from pipeline.tracking.mlflow.publish import Publisher, as_default
from pipeline.tracking.mlflow.store import Store, connect
from pipeline.tracking.mlflow.sync import gather, synced
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import start_run
from pipeline.tracking.tags import RUN_KEY
from tests.helpers.model_server import ask, completions, serving
from tests.helpers.servers import Proxy, free_port

Registry = Callable[[Store], dict[str, dict[str, Any]]]
DEFAULTS = {"temperature": 0.8, "top_k": 25, "max_new_tokens": 8, "seed": 3}
PROMPTS = ["Every effort moves you", "He said", ""]


def train(
    repo: Path,
    seed: int,
    val_loss: float,
    measured_on: str = "corpus/16",
    state: Path | None = None,
    error: BaseException | None = None,
) -> str:
    """A run that logs a model of its own; the run's key."""
    with start_run("train", experiment="book", state=state, params={"lr": 1}) as run:
        log_model(run, repo, seed, val_loss, measured_on)
        if error is not None:
            raise error
    return run.key


def log_model(
    run: Run, repo: Path, seed: int, val_loss: float, measured_on: str = "corpus/16"
) -> None:
    """Log a tiny model, whose weights the seed decides."""
    config = GPTConfig(n_layer=1, n_head=2, n_embd=8, context_length=16)
    model = GPT(config)
    initialise(model, "pytorch", seed)
    folder = repo / "models" / "scratch"
    save_config(folder, config)
    save_weights(folder, model.state_dict(), "best")
    run.log_model(
        CODE,
        folder / "best.pth",
        [folder / "config.json"],
        defaults=DEFAULTS,
        metrics={"val_loss": val_loss},
        measured_on=measured_on,
        requirements=requirements(),
    )


def expected(repo: Path, **changes: Any) -> list[str]:
    settings = {**DEFAULTS, **changes}
    tokens = settings.pop("max_new_tokens")
    sampling = Sampling(**{**settings, "top_k": settings["top_k"] or None})
    model = load_model(repo / "models" / "scratch", "best")
    return [complete(model, prompt, sampling, tokens) for prompt in PROMPTS]


def champion(store: Store) -> Any:
    return store.client.get_model_version_by_alias("book", "champion")


def test_a_model_is_published_while_its_run_goes_on(repo: Path, store: Store) -> None:
    """What a stage does afterwards, hashing gigabytes, need not be over."""
    with start_run("train", experiment="book") as run:
        log_model(run, repo, seed=1, val_loss=6.0)
        deadline = time.monotonic() + 60
        while not store.client.search_model_versions("name = 'book'"):
            assert time.monotonic() < deadline, "nothing was published"
            time.sleep(0.1)
    assert int(champion(store).version) == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"top_p": 0.9}, "unknown params top_p; there are temperature, top_k"),
    ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
    ({"seed": None}, "seed must be a number, not None"),
    ({"seed": 0.5}, "seed"),
    ({"temperature": -1.0}, "temperature must be a number from 0 up"),
    ({"top_k": -1}, "top_k must be at least 1"),
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ({"seed": -1}, "seed must be at least 0"),
]


def test_a_served_model_says_what_the_decoder_says(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(repo, seed=1, val_loss=6.0)
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow puts the model's code before it
    with as_default(store.uri):
        loaded = mlflow.pyfunc.load_model("models:/book@champion")
    prompts = pd.DataFrame({"prompt": PROMPTS})
    for params in (
        {},
        {"temperature": 0.0},
        {"temperature": 2.0, "top_k": 0, "seed": 7, "max_new_tokens": 20},
    ):
        said = loaded.predict(prompts, params=params)
        assert said["completion"].tolist() == expected(repo, **params)
    for params, complaint in REFUSED:
        with pytest.raises(MlflowException, match=complaint) as raised:
            loaded.predict(prompts, params=params)
        assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


def test_what_is_published(repo: Path, store: Store) -> None:
    key = train(repo, seed=1, val_loss=6.25)
    assert "MLFLOW_TRACKING_URI" not in os.environ, "what MLflow sets on the way is taken back"
    run = store.find_run(key)
    assert run is not None
    version = champion(store)
    assert version.run_id == run.info.run_id
    model = store.client.get_logged_model(version.source.removeprefix("models:/"))
    assert model.source_run_id == run.info.run_id
    assert model.params["lr"] == "1"
    assert [(m.key, m.value) for m in model.metrics] == [("model/val_loss", 6.25)]
    assert run.data.metrics["model/val_loss"] == 6.25
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    files = [path for path in (repo / "mlartifacts").rglob("*") if path.is_file()]
    assert [path.name for path in files if path.suffix in (".pth", ".pkl")] == []
    (weights,) = (path for path in files if path.suffix == ".safetensors")
    trained = torch.load(repo / "models" / "scratch" / "best.pth", weights_only=True)
    served = load_file(weights)
    assert trained.keys() == served.keys()
    assert all(torch.equal(trained[name], served[name]) for name in trained)
    described = Model.load(str(weights.parents[2]))
    assert described.model_size_bytes is not None
    assert described.model_size_bytes > weights.stat().st_size
    assert [path.name for path in (repo / ".lossbook").glob("model-*")] == []


def test_a_model_may_have_an_infinite_metric(repo: Path, store: Store) -> None:
    key = train(repo, seed=1, val_loss=math.inf)
    run = store.find_run(key)
    assert run is not None
    assert run.info.status == "FINISHED"
    assert run.data.metrics["model/val_loss"] == pytest.approx(sys.float_info.max)
    assert champion(store).tags["val_loss"] == "inf"


def test_a_lost_store_gets_its_registry_again(
    repo: Path, store: Store, template: Path, registry_of: Registry, lossbook: Callable[..., Any]
) -> None:
    """Versions with their numbers, the champion, what is linked; the best was not the last."""
    for seed, val_loss in ((1, 6.0), (2, 5.5), (3, 7.0)):
        train(repo, seed, val_loss)
        os.link(repo / "models" / "scratch" / "best.pth", cached(repo))
    before = registry_of(store)
    assert {name: version["aliases"] for name, version in before.items()} == {
        "book/1": [],
        "book/2": ["champion"],
        "book/3": [],
    }
    for path in repo.glob("mlflow.db*"):
        path.unlink()
    shutil.copyfile(template, repo / "mlflow.db")
    done = json.loads(lossbook("sync", "--json").stdout)
    assert [one["outcome"] for one in done] == ["rebuilt"] * 3
    shutil.copyfile(repo / "mlflow.db", repo / "copy.db")
    assert registry_of(Store(f"sqlite:///{repo / 'copy.db'}")) == before


def cached(repo: Path) -> Path:
    """Where DVC's cache keeps what is now `best.pth`; the next training writes another."""
    data = (repo / "models" / "scratch" / "best.pth").read_bytes()
    path = paths.dvc_cached(hashlib.md5(data).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_server_gets_the_model_too(proxy: Proxy, bare_repo: Path, tmp_path: Path) -> None:
    """Artifacts go through the server; what is published is what was trained."""
    train(bare_repo, seed=1, val_loss=6.0)
    assert os.environ["MLFLOW_TRACKING_URI"] == proxy.url
    version = champion(connect())
    with as_default(proxy.url):
        folder = mlflow.artifacts.download_artifacts(f"models:/book/{version.version}")
    trained = torch.load(bare_repo / "models" / "scratch" / "best.pth", weights_only=True)
    served = load_file(Path(folder, "artifacts", "files", "model.safetensors"))
    assert all(torch.equal(trained[name], served[name]) for name in trained)


def test_the_rest_of_a_run_does_not_wait_for_its_model(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take minutes to send: metrics, files and the run's end go before it."""
    status = []

    def publish(publisher: Publisher, *arguments: Any) -> None:
        status.append(store.client.get_run(publisher.run_id).info.status)
        raise RuntimeError("not today")

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "publish", publish)
        train(repo, seed=1, val_loss=6.0)
    assert status == ["FINISHED"]
    (done,) = synced(gather(Path("journals")))
    assert (done.outcome, done.remarks) == ("sent", [])
    assert champion(store).run_id == done.run_id


def test_a_model_whose_files_the_store_lost_is_sent_again(repo: Path, store: Store) -> None:
    train(repo, seed=1, val_loss=6.0)
    before = registry(store)
    shutil.rmtree(repo / "mlartifacts" / "models")
    assert [one.outcome for one in synced(gather(Path("journals")))] == ["rebuilt"]
    assert registry(store) == before
    assert list((repo / "mlartifacts").rglob("model.safetensors"))


def test_the_lowest_validation_loss_is_champion(repo: Path, store: Store) -> None:
    def winner() -> str:
        run_id = champion(store).run_id
        return str(store.client.get_run(run_id).data.tags[RUN_KEY])

    first = train(repo, seed=1, val_loss=6.0)
    assert winner() == first
    train(repo, seed=2, val_loss=6.5)
    assert winner() == first
    third = train(repo, seed=3, val_loss=5.5)
    assert winner() == third
    other = train(repo, seed=4, val_loss=9.0, measured_on="another corpus/16")
    assert winner() == other, "losses on another corpus are not compared with these"
    train(repo, seed=5, val_loss=8.0)
    assert winner() == third


def test_publishing_again_changes_nothing(repo: Path, store: Store) -> None:
    train(repo, seed=1, val_loss=6.0)
    before = registry(store)
    (folder,) = paths.journals().iterdir()
    (folder / "shipped.json").unlink()
    assert [one.outcome for one in synced(gather(Path("journals")))] == ["sent"]
    assert registry(store) == before
    assert [one.outcome for one in synced(gather(Path("journals")))] == ["there"]


def registry(store: Store) -> list[Any]:
    versions = store.client.search_model_versions("name = 'book'")
    models = store.client.search_logged_models([store.experiment_id("book")])
    return [
        sorted((v.version, v.model_id, v.run_id, str(v.tags), str(v.aliases)) for v in versions),
        sorted((m.model_id, str(m.status), str(m.metrics)) for m in models),
    ]


def test_a_run_that_goes_on_publishes_once(repo: Path, store: Store) -> None:
    """Killed between its last line and its archive, it logs the same model again."""
    state = paths.state_folder("train", "1")
    with pytest.raises(KeyboardInterrupt):
        train(repo, seed=1, val_loss=6.0, state=state, error=KeyboardInterrupt())
    key = train(repo, seed=1, val_loss=6.0, state=state)
    run = store.find_run(key)
    assert run is not None
    points = store.client.get_metric_history(run.info.run_id, "model/val_loss")
    assert len(points) == 1
    assert len(store.client.search_model_versions("name = 'book'")) == 1


def test_a_model_whose_weights_are_gone_is_named_until_they_are_back(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        train(repo, seed=1, val_loss=6.0)
    weights = repo / "models" / "scratch" / "best.pth"
    weights.rename(repo / "aside")
    (done,) = synced(gather(Path("journals")))
    assert done.remarks == ["model/best.pth: the file is nowhere here"]
    (done,) = synced(gather(Path("journals")))
    assert done.outcome == "there", "nothing else is sent again"
    assert done.run_id is not None
    assert store.client.get_run(done.run_id).info.status == "FINISHED", "the rest has arrived"
    (repo / "aside").rename(weights)
    (done,) = synced(gather(Path("journals")))
    assert done.remarks == []
    assert champion(store).run_id == done.run_id


def test_a_model_that_cannot_be_published_holds_nothing_up(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = repo / "broken_model.py"
    broken.write_text("raise RuntimeError('not a model')")
    monkeypatch.setattr(sys.modules[__name__], "CODE", broken)
    key = train(repo, seed=1, val_loss=6.0)
    run = store.find_run(key)
    assert run is not None
    assert run.info.status == "FINISHED"
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert "mlflow.db lacks model/best.pth: " in warning
    assert "'broken_model.py' is no module of this version" in warning, "nobody's code is executed"


def test_a_model_goes_with_todays_code(
    repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal of an earlier version has code for another package, and a temperature of 0."""
    old = repo / CODE.name
    old.write_text("from pipeline.tracking.served_model import serve\nserve(None)\n")
    monkeypatch.setattr(sys.modules[__name__], "CODE", old)
    monkeypatch.setitem(DEFAULTS, "temperature", 0)
    train(repo, seed=1, val_loss=6.0)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with as_default(store.uri):
        loaded = mlflow.pyfunc.load_model("models:/book@champion")
    said = loaded.predict(pd.DataFrame({"prompt": PROMPTS}), params={"temperature": 0.5})
    assert said["completion"].tolist() == expected(repo, temperature=0.5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [None, 25])
def test_defaults_have_the_types_of_params(temperature: float, top_k: int | None) -> None:
    defaults = served_defaults(Sample(temperature=temperature, top_k=top_k, prompts=("x",)))
    assert {name: type(value) for name, value in defaults.items()} == PARAMS
    assert (defaults["temperature"], defaults["top_k"]) == (temperature, top_k or 0)


@pytest.mark.slow
def test_mlflow_serves_it_offline(repo: Path, store: Store, tmp_path: Path) -> None:
    """`mlflow models serve`, in a folder of its own, without our package on its path."""
    train(repo, seed=1, val_loss=6.0)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/book@champion"]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    (elsewhere := tmp_path / "elsewhere").mkdir()
    with serving(command, elsewhere, port, MLFLOW_TRACKING_URI=store.uri) as url:
        assert completions(ask(url, PROMPTS, seed=11)) == expected(repo, seed=11)
        refused = ask(url, PROMPTS, top_p=0.5)
    assert refused.status_code == 400
    assert refused.json() == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "unknown params top_p; there are temperature, top_k, max_new_tokens, seed",
    }
