"""An open run, as a stage sees it: what it logs, and what it has logged already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.numbers import to_json
from pipeline.system.progress import say
from pipeline.tracking import artifacts
from pipeline.tracking.journal import (
    DAMAGED,
    JOURNAL,
    Artifact,
    Header,
    Input,
    Journal,
    Measured,
    RunState,
    artifact_path,
    now,
    points_of,
    read_run,
)
from pipeline.tracking.tags import (
    DESCRIPTION,
    TABLES,
    checked_name,
    param_text,
    tag_text,
    writable,
)

MAX_DIGEST = 36  # characters that MLflow takes
SAMPLES = "samples.json"
# MLflow's page groups by the first column and compares the second.
SAMPLE = ("prompt", "completion", "weights", "temperature", "top_k", "seed")


class Run:
    """An open run; its methods may be called from any thread.

    Attributes:
        folder: where the journal is written.
        state: the run as its journal has it.
        resumed: whether the run began in an earlier process.
    """

    def __init__(
        self,
        folder: Path,
        header: Header,
        tags: Mapping[str, str | None],
        params: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        state = _begun(folder)
        self.journal = Journal(folder)
        self.resumed = state is not None
        if state is None:
            self.journal.append({"create": header})
            state = read_run(folder)
            assert state is not None, "the journal has just been begun"
        self.state = state
        self._journalled = points_of(folder / JOURNAL)
        self._names: set[str] = set()
        if self.resumed:
            self._append({"resume": {}})
        if "error" in state.tags:
            tags = {**tags, "error": None}
        self.set_tags(tags)
        self.log_params({k: v for k, v in params.items() if k not in state.params})

    @property
    def key(self) -> str:
        """The run's name for itself, the same in every store."""
        return self.state.key

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def next_system_step(self) -> int:
        """System metrics count their own steps, on from where an earlier process stopped."""
        steps = self._journalled.get("system/cpu_utilization_percentage", ())
        return max(steps, default=-1) + 1

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Journal one point of each metric: microseconds, whatever the store does.

        Raises:
            ValueError: MLflow does not take such a name, or a value is no number.
            UserError: the journal cannot be written (a full disk).
        """
        if self._journalled or not self._names.issuperset(metrics):
            metrics = self._checked(metrics, step)
        if metrics:
            self.journal.append({"s": step, "m": metrics})

    def _checked(self, metrics: dict[str, float], step: int) -> dict[str, float]:
        """Those that the journal has not yet, under names that MLflow takes."""
        self._names.update(checked_name(key) for key in metrics)
        return {k: v for k, v in metrics.items() if not self._repeats(k, step)}

    def _repeats(self, key: str, step: int) -> bool:
        steps = self._journalled.get(key)
        if steps is None or step not in steps:
            return False
        steps.remove(step)
        if not steps:
            del self._journalled[key]
        return True

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Journal params, values other than text as JSON.

        Raises:
            ValueError: a param has another value already; MLflow's never change.
        """
        texts = {checked_name(k): param_text(v) for k, v in params.items()}
        for name, text in texts.items():
            known = self.state.params.get(name, text)
            if known != text:
                raise ValueError(f"param {name} is {known} already and cannot become {text}")
        self._append_texts("params", {k: v for k, v in texts.items() if k not in self.state.params})

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Journal tags; None takes a tag away."""
        texts = {checked_name(k): v if v is None else tag_text(v) for k, v in tags.items()}
        known = self.state.tags
        self._append_texts("tags", {k: v for k, v in texts.items() if known.get(k) != v})

    def log_input(
        self,
        name: str,
        source: str,
        digest: str,
        context: str = "training",
        profile: Mapping[str, Any] | None = None,
    ) -> Input:
        """Journal a data set that the run read; returns what is journalled.

        Args:
            source: a path or URL.
            digest: a hash of its content; MLflow keeps the first 36 characters.
            context: training, validation, ...
            profile: its size, in whatever terms fit.
        """
        given: Input = {
            "name": writable(name),
            "source": writable(source),
            "digest": digest[:MAX_DIGEST],
            "context": context,
            "profile": dict(profile or {}),
        }
        if given not in self.state.inputs:
            self._append({"input": given})
        return given

    def log_measured(
        self,
        weights: str,
        losses: Iterable[tuple[Mapping[str, Any], Mapping[str, float]]],
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Journal losses of one model, by which MLflow ranks models on a data set.

        Args:
            weights: the SHA-256 of the file that holds them.
            losses: a data set, as `log_input` takes it, and the metrics on it. No two data sets
                have a metric of the same name.
            name: of a model whose weights are not for the store; None: the model is the one that
                the parent run has published.
            params: of the model with this name.
        """
        event: Measured = {"weights": weights, "losses": []}
        for dataset, metrics in losses:
            given = self.log_input(**dataset, context="evaluation")
            numbers = to_json({checked_name(key): float(value) for key, value in metrics.items()})
            event["losses"].append(
                {"name": given["name"], "digest": given["digest"], "metrics": numbers}
            )
        if name is not None:
            texts = {checked_name(k): param_text(v) for k, v in (params or {}).items()}
            event["external"] = {"name": name, "params": texts}
        self._append({"measured": event})

    def log_artifact(
        self,
        path: Path,
        folder: str = "",
        *,
        copy: bool = True,
        upload: bool = True,
    ) -> None:
        """Journal a file as `folder/NAME`.

        Args:
            copy: False for a large file that DVC keeps: it is known by its path in the
                repository and its hashes, and must not change before the run ends.
            upload: False for a file that the journal knows and the store need not hold.

        Raises:
            UserError: the file cannot be read.
        """
        target = artifact_path(f"{folder}/{path.name}" if folder else path.name)
        if copy:
            artifact = artifacts.keep_copy(self.folder, path, target)
        else:
            artifact = artifacts.reference(path, target)
        self._add(artifact if upload else {**artifact, "stays": True})

    def log_model(
        self,
        code: Path,
        weights: Path,
        files: Sequence[Path],
        *,
        defaults: Mapping[str, float],
        metrics: Mapping[str, float],
        measured_on: str,
        requirements: Sequence[str],
    ) -> None:
        """Journal a model to be served and registered under the experiment's name.

        Args:
            code: the file that MLflow is to execute.
            weights: a state dict that `torch.save` wrote and DVC keeps; it is not copied.
            files: small ones that the code needs beside the weights.
            defaults: the params of a request, whose types are those of these values.
            metrics: the model's own, `val_loss` among them: the lowest is champion.
            measured_on: text and windows; losses are compared where it is equal.
            requirements: what a server must install, as pip reads it.

        Raises:
            UserError: a file cannot be read.
        """
        self.log_artifact(weights, "model", copy=False, upload=False)
        for path in (code, *files):
            self.log_artifact(path, "model")
        known = self.state.artifacts
        model = {
            "name": registered_name(self.state.experiment),
            "code": known[f"model/{code.name}"],
            "weights": known[f"model/{weights.name}"],
            "files": [known[f"model/{path.name}"] for path in files],
            "defaults": dict(defaults),
            "metrics": to_json({name: float(value) for name, value in metrics.items()}),
            "measured_on": measured_on,
            "requirements": list(requirements),
        }
        if model not in self.state.models:
            self._append({"model": model})

    def log_text(self, text: str, path: str) -> None:
        """Journal a text as the artifact `path`, e.g. `samples/epoch_01.md`."""
        data = writable(text).encode("utf-8")
        self._add(artifacts.keep_bytes(self.folder, data, artifact_path(path)))

    def log_table(self, rows: Sequence[Mapping[str, Any]], path: str) -> None:
        """Journal rows as a table that MLflow's UI compares side by side between runs.

        Every run that is to be compared uses the same `path` (.json) and the same columns.
        """
        columns = list(dict.fromkeys(column for row in rows for column in row))
        cells = to_json([[row.get(column) for column in columns] for row in rows])
        self.log_text(json.dumps({"columns": columns, "data": cells}, ensure_ascii=False), path)
        try:
            tables = list(json.loads(self.state.tags.get(TABLES, "[]")))
        except (ValueError, TypeError, RecursionError):  # of a run that goes on, and was edited
            tables = []
        if (table := {"path": path, "type": "table"}) not in tables:
            self.set_tags({TABLES: json.dumps([*tables, table])})

    def log_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Journal what models have written, in the table that is the same in every run."""
        if rows:
            self.log_table([{name: row.get(name) for name in SAMPLE} for row in rows], SAMPLES)

    def describe(self, text: str) -> None:
        """Journal a description, in Markdown, in the place of the one from before."""
        self.set_tags({DESCRIPTION: text})

    def sync(self) -> None:
        """Wait until the journal is on the disk; call it before a checkpoint is put in place."""
        self.journal.sync()

    def _add(self, artifact: Artifact) -> None:
        if self.state.artifacts.get(artifact["path"]) != artifact:
            self._append({"artifact": artifact})

    def _append_texts(self, kind: str, texts: Mapping[str, str | None]) -> None:
        if texts:
            self._append({kind: dict(texts)})

    def _append(self, event: dict[str, Any]) -> None:
        stamped: Any = {"t": now(), **event}
        self.journal.append(stamped)
        self.state.update(stamped)


def _begun(folder: Path) -> RunState | None:
    """The run that goes on; what is no journal is set aside, for a training must go on."""
    try:
        return read_run(folder)
    except UserError as error:
        problem = str(error)
    (folder / JOURNAL).rename(folder / DAMAGED)
    say(f"warning: {problem}; it is now {DAMAGED}, and another run begins")
    return None


def registered_name(experiment: str) -> str:
    """The experiment's name, without the characters that a registry refuses."""
    return "".join("-" if character in "/:.%\"'" else character for character in experiment)
