"""A run, as stages see it: `start_run` and the `Run` that it yields.

    with start_run("train", experiment="lossbook", state=folder, params=flat) as run:
        run.resume_at(first_step)
        for step in ...:
            run.log_metrics({"train/loss": loss}, step=step)

Everything is written into the run's journal, which costs microseconds; a background thread takes
it to MLflow (`courier`). A store that is slow, broken or away never slows or fails the stage.

How a run ends: the block ends, FINISHED; SIGTERM or Ctrl-C, KILLED; any other exception, FAILED,
with the tag `error`. A run that did not finish stays in its state folder, and the next `start_run`
there goes on with it. One that finished is archived in `.lossbook/journals/`, and its state
folder, with whatever else the stage kept in it, is removed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.process import die_with_parent, sigterm_raises
from pipeline.tracking import artifacts, home
from pipeline.tracking.archive import revive
from pipeline.tracking.ending import Helpers, break_off, finish
from pipeline.tracking.facts import standard_tags
from pipeline.tracking.journal import JOURNAL, Journal, points_of, read_story
from pipeline.tracking.limits import (
    MAX_DIGEST,
    checked_name,
    finite_or_none,
    param_text,
    tag_text,
)
from pipeline.tracking.locks import take
from pipeline.tracking.publish import registered_name, requirements

TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's UI finds tables to compare

_begun: list[str] = []  # keys of this process's runs


def begun() -> bool:
    """Whether this process has begun a run."""
    return bool(_begun)


@contextmanager
def start_run(
    stage: str,
    *,
    experiment: str,
    state: Path | None = None,
    name: str | None = None,
    description: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    parent: Path | None = None,
    record: Path | None = None,
    journal: Path | None = None,
) -> Iterator[Run]:
    """Open a run, or go on with the one that a kill left in `state`.

    Args:
        stage: the stage's name, also the tag `stage`.
        experiment: MLflow's experiment; created where there is none.
        state: `home.state_folder(stage, fingerprint)` for a stage that can go on after a kill;
            None for one that starts anew each time.
        name: what is special about the run, as the UI lists it; the stage's name by default.
        description: Markdown, at the top of the run's page.
        params: flat, e.g. `pipeline.params.flatten(params.train, "train.")`. A run that goes on
            keeps the params it began with.
        tags: further tags; the standard ones (`facts`) are always set.
        parent: another stage's `record`: this run becomes its child.
        record: where to write `{"run", "run_id", "experiment", "name"}` at a good end. `run` is
            the key that finds the run in every store; `run_id` is MLflow's, null where the store
            did not answer.
        journal: a folder, one of the stage's DVC outputs, that gets the whole journal at a good
            end.

    Raises:
        UserError: another process works in `state`, or `parent` is no record.
    """
    die_with_parent()
    header = {
        "run": secrets.token_hex(8),
        "stage": stage,
        "experiment": experiment,
        "name": name or stage,
        "parent": _key_in(parent) if parent else None,
        "state": state.name if state else None,
    }
    all_tags = {**standard_tags(stage), **(tags or {})}
    if description:
        all_tags["mlflow.note.content"] = description
    folder = state or home.states() / f"{stage}-{header['run']}"
    with sigterm_raises(), take(folder):
        if state is not None:
            revive(state, handed_over=journal is not None)
        run = Run(folder, header, all_tags, params or {})
        _begun.append(run.key)
        helpers = Helpers(run)
        try:
            yield run
        except BaseException as error:
            break_off(run, helpers, error)
            raise
        finish(run, helpers, record, journal)


class Run:
    """An open run; its methods may be called from any thread.

    Attributes:
        resumed: whether the run began in an earlier process.
        folder: where the journal is written.
    """

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        tags: Mapping[str, str | None],
        params: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.journal = Journal(folder)
        story = read_story(folder)
        self.resumed = story is not None
        if story is None:
            self.journal.append({"create": header})
            story = read_story(folder)
            assert story is not None, "the journal has just been begun"
        self._story = story
        self._journalled = points_of(folder / JOURNAL)
        self._names: set[str] = set()
        if self.resumed:
            self._append({"resume": {}})
        if "error" in story.tags:
            tags = {**tags, "error": None}
        self.set_tags(tags)
        self.log_params({k: v for k, v in params.items() if k not in story.params})

    @property
    def key(self) -> str:
        """The run's name for itself, the same in every store."""
        return self._story.run

    @property
    def stage(self) -> str:
        return self._story.stage

    @property
    def experiment(self) -> str:
        return self._story.experiment

    @property
    def name(self) -> str:
        return self._story.name

    @property
    def resumable(self) -> bool:
        """Whether a later process may go on with the run."""
        return self._story.state is not None

    @property
    def next_system_step(self) -> int:
        """System metrics count their own steps, on from where an earlier process stopped."""
        steps = self._journalled.get("system/cpu_utilization_percentage", ())
        return max(steps, default=-1) + 1

    def resume_at(self, step: int) -> None:
        """Say that the next metrics are those of `step`; 0 for all over again.

        A run that goes on from a checkpoint repeats what lay between the checkpoint and the
        kill; what is in the journal already is not written again, in any case. Saying where the
        repetition begins only makes that cheaper: steps before it are no longer looked for.
        """
        for key, steps in list(self._journalled.items()):
            rest = {s for s in steps if s >= step}
            if rest:
                self._journalled[key] = rest
            else:
                del self._journalled[key]

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Journal one point of each metric: microseconds, whatever the store does.

        Raises:
            ValueError: MLflow does not take such a name.
            UserError: the journal cannot be written (a full disk).
        """
        if not metrics.keys() <= self._names:
            self._names.update(checked_name(key) for key in metrics)
        if self._journalled:
            metrics = {k: v for k, v in metrics.items() if not self._repeats(k, step)}
        if metrics:
            self.journal.append_metrics({k: float(v) for k, v in metrics.items()}, step)

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
            known = self._story.params.get(name, text)
            if known != text:
                raise ValueError(f"param {name} is {known} already and cannot become {text}")
        self._tell("params", {k: v for k, v in texts.items() if k not in self._story.params})

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Journal tags; None takes a tag away."""
        texts = {checked_name(k): v if v is None else tag_text(v) for k, v in tags.items()}
        known = self._story.tags
        self._tell("tags", {k: v for k, v in texts.items() if known.get(k) != v})

    def log_input(
        self,
        name: str,
        source: str,
        digest: str,
        context: str = "training",
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """Journal a data set that the run read.

        Args:
            source: a path or URL.
            digest: a hash of its content; MLflow keeps the first 36 characters.
            context: training, validation, ...
            profile: its size, in whatever terms fit.
        """
        given = {
            "name": name,
            "source": source,
            "digest": digest[:MAX_DIGEST],
            "context": context,
            "profile": dict(profile or {}),
        }
        if given not in self._story.inputs:
            self._append({"input": given})

    def log_artifact(
        self, path: Path, folder: str = "", *, copy: bool = True, upload: bool = True
    ) -> None:
        """Journal a file as `folder/NAME`.

        Args:
            copy: False for a large file that DVC keeps: it is known by its path in the
                repository and its hashes, and must not change before the run ends.
            upload: False for a file that the journal knows and the store need not hold.

        Raises:
            UserError: the file cannot be read.
        """
        target = artifacts.artifact_path(path.name, folder)
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
    ) -> None:
        """Journal a model to be served and registered under the experiment's name.

        Args:
            code: the file that MLflow is to execute (`served_model`).
            weights: a state dict that `torch.save` wrote and DVC keeps; it is not copied.
            files: small ones that the code needs beside the weights.
            defaults: of `served_model.PARAMS`; `top_k` 0 keeps every token.
            metrics: the model's own, `val_loss` among them: the lowest is champion.
            measured_on: text and windows; losses are compared where it is equal.

        Raises:
            UserError: a file cannot be read.
        """
        self.log_artifact(weights, "model", copy=False, upload=False)
        for path in (code, *files):
            self.log_artifact(path, "model")
        known = self._story.artifacts
        model = {
            "name": registered_name(self.experiment),
            "code": known[f"model/{code.name}"],
            "weights": known[f"model/{weights.name}"],
            "files": [known[f"model/{path.name}"] for path in files],
            "defaults": dict(defaults),
            "metrics": {name: float(value) for name, value in metrics.items()},
            "measured_on": measured_on,
            "requirements": requirements(),
        }
        if model not in self._story.models:
            self._append({"model": model})

    def log_text(self, text: str, path: str) -> None:
        """Journal a text as the artifact `path`, e.g. `samples/epoch_01.md`."""
        data = text.encode("utf-8")
        self._add(artifacts.keep_bytes(self.folder, data, artifacts.artifact_path(path)))

    def log_table(self, rows: Sequence[Mapping[str, Any]], path: str) -> None:
        """Journal rows as a table that MLflow's UI compares side by side between runs.

        Every run that is to be compared uses the same `path` (.json) and the same columns.
        """
        columns = list(dict.fromkeys(column for row in rows for column in row))
        cells = [[finite_or_none(row.get(column)) for column in columns] for row in rows]
        self.log_text(json.dumps({"columns": columns, "data": cells}, ensure_ascii=False), path)
        tables = json.loads(self._story.tags.get(TABLES, "[]"))
        if (table := {"path": path, "type": "table"}) not in tables:
            self.set_tags({TABLES: json.dumps([*tables, table])})

    def sync(self) -> None:
        """Wait until the journal is on the disk; call it before a checkpoint is put in place."""
        self.journal.sync()

    def _add(self, artifact: dict[str, Any]) -> None:
        if self._story.artifacts.get(artifact["path"]) != artifact:
            self._append({"artifact": artifact})

    def _tell(self, what: str, texts: Mapping[str, str | None]) -> None:
        if texts:
            self._append({what: dict(texts)})

    def _append(self, event: dict[str, Any]) -> None:
        self.journal.append(event)
        self._story.tell(event)


def _key_in(parent: Path) -> str:
    record = read_json(parent)
    if not isinstance(record, dict) or not isinstance(record.get("run"), str):
        raise UserError(f"{parent}: must hold the key `run`; `dvc repro -f` rewrites it")
    return str(record["run"])
