"""A run, as stages see it: `start_run` and the `Run` that it yields.

    with start_run("train", experiment="lossbook", state=folder, params=flat) as run:
        for step in ...:
            run.log_metrics({"train/loss": loss}, step=step)

Everything is written into the run's journal, which costs microseconds; another process sends it to
MLflow (`mlflow.sender_process`). A store that is slow, broken or away never slows or fails the
stage.

How a run ends: the block ends, FINISHED; SIGTERM or Ctrl-C, KILLED; any other exception, FAILED,
with the tag `error`. A run that did not finish stays in its state folder, and the next `start_run`
there goes on with it. One that finished is archived in `.lossbook/journals/`, and its state
folder, with whatever else the stage kept in it, is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params import flatten
from pipeline.reports import TrainRun
from pipeline.system.load import LoadMeter
from pipeline.system.markdown import inline
from pipeline.system.names import checked_name
from pipeline.system.process import Terminated, die_with_parent, sigterm_raises
from pipeline.system.progress import say
from pipeline.system.yaml_file import read_yaml
from pipeline.tracking import paths
from pipeline.tracking.journal import Header, Journal
from pipeline.tracking.lifecycle import archive, hand_over, revive, take
from pipeline.tracking.mlflow.sender_process import LIMIT, NoSender, SenderProcess, is_offline
from pipeline.tracking.open_run import Run
from pipeline.tracking.tags import DESCRIPTION, run_name_text, standard_tags, writable

KILLED_LIMIT = 5.0  # seconds that a run which is to stop may still spend on its record
SYSTEM_INTERVAL = 10.0  # seconds between two points of the machine's load
SECTIONS = ("seed", "model", "train")  # of params.yaml: a training run's params
SHORT = {
    "train.learning_rate": "lr",
    "train.batch_size": "bs",
    "train.epochs": "ep",
    "sample.temperature": "T",
    "sample.top_k": "k",
}

_begun: list[str] = []  # keys of this process's runs


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
        state: `paths.state_folder(stage, fingerprint)` for a stage that can go on after a kill;
            None for one that starts anew each time. What the stage keeps goes to `Run.folder`.
        name: what is special about the run, as the UI lists it; by default the stage's name, and
            which run it was made from.
        description: Markdown, at the top of the run's page.
        params: flat, e.g. `pipeline.params.flatten(params.train, "train.")`. A run that goes on
            keeps the params it began with.
        tags: further tags; the standard ones (`tags`) are always set.
        parent: another stage's `record`: this run becomes its child.
        record: where to write a `TrainRun` at a good end. Its `run` is the key that finds the run
            in every store; `run_id` is MLflow's, null where the store did not answer.
        journal: a folder, one of the stage's DVC outputs, that gets the whole journal at a good
            end.

    Raises:
        UserError: another process of this workspace works in `state`, or `parent` is no record.
    """
    die_with_parent()
    made_from = _read_parent(parent) if parent else None
    name = name or (f"{stage} of {made_from.name}" if made_from and made_from.name else stage)
    header: Header = {
        "run": secrets.token_hex(8),
        "stage": stage,
        "experiment": writable(experiment),
        "name": run_name_text(name),
        "parent": made_from.run if made_from else None,
        "state": state.name if state else None,
    }
    all_tags = {**standard_tags(stage), **(tags or {})}
    if description:
        all_tags[DESCRIPTION] = description
    folder = state or paths.states() / f"{stage}-{header['run']}"
    with sigterm_raises(), take(folder) as folder:
        if state is not None:
            revive(folder, state.name, handed_over=journal is not None)
        run = Run(folder, header, all_tags, params or {})
        _begun.append(run.key)
        helpers = _Helpers(run)
        try:
            yield run
        except BaseException as error:
            _break_off(run, helpers, error)
            raise
        _finish(run, helpers, record, journal)


def run_name(values: Mapping[str, Any], defaults: Mapping[str, Any], always: list[str]) -> str:
    """What is special about a run: `lr=4e-04 seed=2 n_layer=6`.

    Args:
        values: flat params, e.g. `{"train.learning_rate": 4e-4}`.
        defaults: the same keys with their defaults; what differs from them is named.
        always: keys that every name shows, first and in this order.
    """
    special = [key for key in values if key not in always and values[key] != defaults.get(key)]
    return " ".join(f"{_short(key)}={_value(key, values[key])}" for key in [*always, *special])


def setting(name: str, *decided_by: Any) -> str:
    """What runs have in common that differ in the seed alone: `lr=4e-04 n_layer=6 (1f2e3d4c)`.

    The digest tells apart what the name does not: it rounds, may be cut, and names only what
    differs from today's defaults.

    Args:
        name: `run_name` without the seed.
        decided_by: all else that decides a run, as JSON.
    """
    digest = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
    return f"{run_name_text(name)} ({digest[:8]})"


def record_failure(error: Exception, params_file: Path = Path("params.yaml")) -> None:
    """Leave a failed run for a DVC experiment that ended before a run could begin.

    A stage of a queued experiment has nobody at its terminal. Where it refuses its params, or its
    corpus cannot be read, this run has the error and what params there were, so that whoever reads
    the sweep in MLflow finds it. Nothing happens where a run has begun, or no experiment runs.
    """
    stage = os.environ.get("DVC_STAGE", "").partition("@")[0]
    if not stage or "DVC_EXP_NAME" not in os.environ or _begun:
        return
    params = _raw_params(params_file)
    experiment = params.get("tracking.experiment")
    try:
        with start_run(
            stage,
            experiment=experiment if isinstance(experiment, str) else "lossbook",
            name=f"{stage} failed",
            description=f"The experiment ended here, before a run had begun: {inline(str(error))}",
            params={k: v for k, v in params.items() if k.partition(".")[0] in SECTIONS},
        ):
            raise error
    except Exception:
        return  # the stage's own error is what must be reported, whatever hinders this


class _Helpers:
    """What runs beside an open run: who sends its journal, and who journals the machine's load."""

    def __init__(self, run: Run) -> None:
        self.sender: NoSender | SenderProcess = (
            NoSender() if is_offline() else SenderProcess(run.folder)
        )
        self.monitor = _SystemMonitor(run.journal, run.next_system_step)
        self.sender.start()
        self.monitor.start()

    def end(self, run: Run, status: str, limit: float) -> None:
        """Write the journal's last line and have it sent, within the limit."""
        self.monitor.stop()
        run.journal.append({"end": status})
        run.journal.sync()
        self.sender.finish(limit)
        run.journal.close()

    def kill(self) -> None:
        """End it without another word."""
        self.monitor.stop()
        self.sender.kill()

    def warn(self, folder: Path) -> None:
        """Print what the store lacks, and that nothing is lost."""
        place = os.path.relpath(folder)
        for line in self.sender.lacking():
            say(
                f"warning: {line}; this run's journal is safe in {place}, "
                "`lossbook sync` sends the rest"
            )


class _SystemMonitor(threading.Thread):
    """Journals the machine's load every ten seconds, under the keys of MLflow's own monitor."""

    def __init__(self, journal: Journal, first_step: int) -> None:
        super().__init__(name="lossbook-system", daemon=True)
        self._journal = journal
        self._step = first_step
        self._stopped = threading.Event()

    def run(self) -> None:
        meter = LoadMeter()
        while not self._stopped.wait(SYSTEM_INTERVAL):
            load = {f"system/{name}": value for name, value in meter.read().items()}
            with suppress(UserError):  # a full disk: the stage meets it too, and says so
                self._journal.append({"s": self._step, "m": load})
            self._step += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def _break_off(run: Run, helpers: _Helpers, error: BaseException) -> None:
    """End a run that an exception ended, FAILED or KILLED; one that can go on stays in place."""
    killed = isinstance(error, KeyboardInterrupt | Terminated)
    try:
        if not killed:
            run.set_tags({"error": " ".join(f"{type(error).__name__}: {error}".split())})
        helpers.end(run, "KILLED" if killed else "FAILED", KILLED_LIMIT if killed else LIMIT)
        can_go_on = run.state.state_folder is not None
        helpers.warn(run.folder if can_go_on else archive(run.folder, run.state.stage, run.key))
    except (UserError, OSError) as problem:  # a full disk; what ended the run is what counts
        say(f"warning: {problem}; how the run ended is not in its journal")
        helpers.kill()


def _finish(run: Run, helpers: _Helpers, record: Path | None, journal: Path | None) -> None:
    """End a run well: FINISHED, its journal and record handed to DVC, its state folder removed."""
    helpers.end(run, "FINISHED", LIMIT)
    if journal is not None:
        hand_over(run.folder, journal)
    if record is not None:
        TrainRun(
            run=run.key,
            run_id=helpers.sender.run_id,
            experiment=run.state.experiment,
            name=run.name,
        ).write(record)
    helpers.warn(archive(run.folder, run.state.stage, run.key))


def _read_parent(path: Path) -> TrainRun:
    record = TrainRun.read(path)
    if not record.run:
        raise UserError(f"{path}: must hold the key `run`; `dvc repro -f` rewrites it")
    checked_name(record.run, f"{path}: run")
    return record


def _raw_params(path: Path) -> dict[str, Any]:
    """The file's values as they stand, which may be wrong: nothing where it is no YAML."""
    try:
        return flatten(read_yaml(path))
    except UserError:
        return {}


def _short(key: str) -> str:
    return SHORT.get(key, key.rpartition(".")[2])


def _value(key: str, value: Any) -> str:
    if key.endswith("learning_rate"):
        return f"{value:.3g}" if value >= 0.01 else f"{value:.1e}".replace(".0e", "e")
    return "all" if key.endswith("top_k") and value is None else str(value)
