"""A run's model in the store: logged with the run, registered, the best version `champion`.

The weights become safetensors on the way. A copy of the `pipeline` package goes with the code, so
that a model is served by the code that it was published with.

Sharp edge: losses are compared among versions that were measured on the same text in the same
windows, so another corpus begins a championship of its own, and whoever won last holds the alias.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.models import Model as Described
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

import pipeline
from pipeline.errors import UserError
from pipeline.system.files import written_aside
from pipeline.system.text import quoted
from pipeline.tracking import paths
from pipeline.tracking.journal import Artifact, Model
from pipeline.tracking.mlflow.logged_models import HASH, MODEL_TYPE, log_metrics, models_with
from pipeline.tracking.mlflow.store import Store, error_code, literal

CHAMPION = "champion"
WEIGHTS = "model.safetensors"
LOSS, MEASURED_ON = "val_loss", "lossbook.measured_on"
DEFAULT_STORE = "MLFLOW_TRACKING_URI"
Locate = Callable[[Artifact], Path]  # its file


class Publisher:
    """Puts one run's model into a store and its registry; doing it again changes nothing."""

    def __init__(self, store: Store, run_id: str, model: Model) -> None:
        self.store, self.client, self.run_id = store, store.client, run_id
        self.model = model
        self.hash = model["weights"]["sha256"]

    def publish(self, locate: Locate, timestamp: int) -> None:
        """Log the model, link its metrics, measured at the timestamp, to it, register it."""
        with as_default(self.store.uri):
            self._publish(locate, timestamp)

    def _publish(self, locate: Locate, timestamp: int) -> None:
        experiment = self.client.get_run(self.run_id).info.experiment_id
        logged = self._find(experiment) or self._create(experiment)
        if not self._is_whole(logged):
            self._send(logged, locate)
            self.client.finalize_logged_model(logged.model_id, "READY")
        outputs = self.client.get_run(self.run_id).outputs
        known = outputs.model_outputs if outputs is not None else []
        if logged.model_id not in (output.model_id for output in known):
            self.client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        metrics = {f"model/{name}": value for name, value in self.model["metrics"].items()}
        unlinked = [(metrics, None, None)]
        log_metrics(self.client, self.run_id, logged.model_id, timestamp, unlinked)
        self._register(logged.model_id)

    def lacks_files(self) -> bool:
        """Whether the store knows the model and has lost what it consists of."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        logged = self._find(experiment)
        return logged is not None and not self._is_whole(logged)

    def _is_whole(self, logged: LoggedModel) -> bool:
        if str(logged.status) != "READY":
            return False
        listed = self.client.list_logged_model_artifacts(logged.model_id)
        return "MLmodel" in {item.path for item in listed}

    def _send(self, logged: LoggedModel, locate: Locate) -> None:
        """Straight to its place where that is a folder here: it may be gigabytes."""
        place = paths.local_folder(logged.artifact_location)
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)  # what a kill left half-written
            self._save(place, logged.model_id, locate)
            return
        with TemporaryDirectory(dir=paths.states().parent, prefix="model-") as aside:
            self._save(Path(aside, "model"), logged.model_id, locate)
            self.client.log_model_artifacts(logged.model_id, str(Path(aside, "model")))

    def _find(self, experiment: str) -> LoggedModel | None:
        found = models_with(self.client, experiment, self.hash, "source_run_id", self.run_id)
        return found[0] if found else None

    def _create(self, experiment: str) -> LoggedModel:
        return self.client.create_logged_model(
            experiment,
            name=self.model["name"],
            source_run_id=self.run_id,
            tags={HASH: self.hash},
            params=self.client.get_run(self.run_id).data.params,
            model_type=MODEL_TYPE,
        )

    def _save(self, folder: Path, model_id: str, locate: Locate) -> None:
        """Write the model as MLflow reads it."""
        from mlflow.pyfunc import save_model  # takes a second, and few runs have a model

        with TemporaryDirectory() as aside:
            code = _own_code(self.model)
            files = Path(aside, "files")
            for artifact in self.model["files"]:
                _copy(artifact, files, locate)
            _hush()
            described = Described(run_id=self.run_id, model_id=model_id)
            save_model(
                str(folder),
                python_model=str(code),
                artifacts={"model": str(files)},
                signature=signature(self.model["defaults"]),
                pip_requirements=self.model["requirements"],
                code_paths=list(pipeline.__path__),
                mlflow_model=described,
            )
        weights = folder / "artifacts" / "files" / WEIGHTS
        to_safetensors(locate(self.model["weights"]), weights)
        described.model_size_bytes = (described.model_size_bytes or 0) + weights.stat().st_size
        described.save(str(folder / "MLmodel"))

    def _register(self, model_id: str) -> None:
        name = self.model["name"]
        try:
            self.client.create_registered_model(name)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self.client.search_model_versions(f"name = {literal(name)}")
        if not any(v.tags.get(HASH) == self.hash and v.run_id == self.run_id for v in versions):
            self.client.create_model_version(
                name,
                source=f"models:/{model_id}",
                run_id=self.run_id,
                model_id=model_id,
                await_creation_for=0,  # or it says that it waits
                tags={
                    HASH: self.hash,
                    LOSS: repr(float(self.model["metrics"][LOSS])),
                    MEASURED_ON: self.model["measured_on"],
                },
            )
        self._set_champion(name)

    def _set_champion(self, name: str) -> None:
        """Decided among all versions, so that of two runs that end at once the right one wins."""
        rivals = [
            v
            for v in self.client.search_model_versions(f"name = {literal(name)}")
            if v.tags.get(MEASURED_ON) == self.model["measured_on"] and LOSS in v.tags
        ]
        best = min(rivals, key=lambda v: (float(v.tags[LOSS]), int(v.version)))
        self.client.set_registered_model_alias(name, CHAMPION, best.version)


@contextmanager
def as_default(uri: str) -> Iterator[None]:
    """MLflow's registry looks models up in the default store, whatever store it belongs to."""
    variable = os.environ.get(DEFAULT_STORE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # takes the variable away, too
        if variable is not None:
            os.environ[DEFAULT_STORE] = variable


def _hush() -> None:
    """MLflow advises on what the signature says already, in colour, on every save."""
    warnings.filterwarnings("ignore", message=".*input example was not provided")
    for name in ("mlflow.models.signature", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.ERROR)


def signature(defaults: Mapping[str, Any]) -> ModelSignature:
    """Prompts to completions, with params of their defaults' types."""
    types = {float: DataType.double, int: DataType.long}
    if "temperature" in defaults:  # journals of earlier versions have 0.0 as 0
        defaults = {**defaults, "temperature": float(defaults["temperature"])}
    params = [ParamSpec(name, types[type(value)], value) for name, value in defaults.items()]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt")]),
        outputs=Schema([ColSpec(DataType.string, "completion")]),
        params=ParamSchema(params),
    )


def _own_code(model: Model) -> Path:
    """The file of this name in our package, a copy of which the model gets.

    The journal's own may be older than the package, and fit it no more, or be anybody's: MLflow
    executes it.

    Raises:
        UserError: the package has none.
    """
    name = Path(model["code"]["path"]).name
    modules = Path(pipeline.__path__[0]).rglob("*.py")
    if found := next((path for path in modules if path.name == name), None):
        return found
    raise UserError(f"{quoted(name)} is no module of this version of Lossbook")


def _copy(artifact: Artifact, folder: Path, locate: Locate) -> Path:
    folder.mkdir(exist_ok=True)
    return Path(shutil.copyfile(locate(artifact), folder / Path(artifact["path"]).name))


def to_safetensors(state_dict: Path, target: Path) -> None:
    """Rewrite a file that `torch.save` wrote, tensor for tensor, without holding it all."""
    import torch  # takes seconds, and few runs have a model
    from safetensors.torch import save_file

    state = torch.load(state_dict, map_location="cpu", mmap=True, weights_only=True)
    with written_aside(target) as aside:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, aside)
