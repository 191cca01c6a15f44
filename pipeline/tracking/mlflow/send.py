"""From a journal to a store: what is new is sent, by byte offset, as often as it takes.

Everything may be sent again without harm: a metric's point is known by its step, time and value,
a run by its key, a file by its path.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from pipeline.tracking.artifacts import locate
from pipeline.tracking.cursor import Batch, Cursor, batches, read_cursors, write_cursor
from pipeline.tracking.journal import JOURNAL, Artifact, Event, Header, Input, Model, read_header
from pipeline.tracking.lifecycle import SHIP, acquire
from pipeline.tracking.mlflow.logged_models import link_losses
from pipeline.tracking.mlflow.publish import Publisher
from pipeline.tracking.mlflow.store import Store, error_code, one_line
from pipeline.tracking.tags import PARENT, RUN_KEY, run_name_text

HELD_BACK = "not sent yet"


class RunDeletedError(Exception):
    """Somebody deleted the run in the store; that is respected."""


class JournalSender:
    """Sends one journal to one store; one at a time, so hold the folder's `ship.lock`.

    Attributes:
        answers: grows with each answer of the store, a sign of life.
        publishing: a model is on its way, gigabytes perhaps, without an answer in between.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.answers = 0
        self.publishing = False
        self._saving = threading.Lock()
        self._abandoned = False
        self.cursor = read_cursors(folder).get(store.name, Cursor())
        self._header = read_header(folder)

    @property
    def has_begun(self) -> bool:
        """Whether the journal holds its first line."""
        return self._header is not None

    @property
    def header(self) -> Header:
        assert self._header is not None, "only a journal with a whole line has a run"
        return self._header

    def drain(self) -> None:
        """Send all that the journal holds by now.

        Raises:
            RunDeletedError: the run was deleted in the store.
            Exception: what a store, a driver or a network raises; nothing is lost, try again.
        """
        try:
            self._drain()
        except Exception as error:
            if error_code(error) != "RESOURCE_DOES_NOT_EXIST" or self.find_run() is not None:
                raise
            self.start_over()  # another store stands in the place of the one we knew
            self._drain()

    def bring_up(self) -> None:
        """Send all, link the run to its parent, and try again with what could not be sent.

        Raises:
            RunDeletedError, Exception: as `drain` does.
        """
        self.drain()
        self.link()
        self.send_missing()

    def find_run(self) -> Run | None:
        """The store's run for this journal.

        Raises:
            RunDeletedError: there is one, deleted.
        """
        run = self.store.find_run(self.header["run"], self.header["experiment"])
        if run is not None and run.info.lifecycle_stage == "deleted":
            raise RunDeletedError(f"run {run.info.run_id} was deleted in {self.store.name}")
        return run

    def start_over(self) -> None:
        """Forget what was sent; the next `drain` sends everything again."""
        self.cursor = Cursor()
        self.store.forget()

    def abandon(self) -> None:
        """From now on write no cursor: the folder is about to be moved."""
        with self._saving:
            self._abandoned = True

    def _drain(self) -> None:
        for batch in batches(self.folder / JOURNAL, self.cursor.offset):
            if len(batch) > 0:
                self._send_batch(batch)
            if batch.event is not None:
                self._send_event(batch.event)
            self.cursor.offset = batch.end
            self._save()

    def _send_event(self, event: Event) -> None:
        client = self.store.client
        if "create" in event:
            self.cursor.run_id = self._find_or_create(event)
        elif "resume" in event:
            client.update_run(self.run_id, status="RUNNING")
        elif "input" in event:
            self._send_input(event["input"])
        elif "artifact" in event or "measured" in event:
            if why := self._send_files(event):
                self._lacks(event, why)
        elif "model" in event:  # may be gigabytes: when all the rest is there
            self._lacks(event, HELD_BACK)
        elif "end" in event:
            client.set_terminated(self.run_id, status=event["end"], end_time=event["t"])
        self.answers += 1

    def _lacks(self, event: Event, why: str) -> None:
        self.cursor.missing.append({**event, "why": why})

    @property
    def run_id(self) -> str:
        """The store's, which it has from the journal's first line on."""
        assert self.cursor.run_id is not None, "a journal's first line creates the run"
        return self.cursor.run_id

    def _find_or_create(self, event: Event) -> str:
        """The store may have created the run for a process that died before it wrote that down."""
        run = self.find_run()
        if run is None:
            run = self.store.client.create_run(
                self.store.experiment_id(self.header["experiment"]),
                start_time=event["t"],
                tags={RUN_KEY: self.header["run"], **event.get("tags", {})},
                run_name=run_name_text(self.header["name"]),
            )
        return str(run.info.run_id)

    def link(self) -> bool:
        """Make the run its parent's child; False where the store does not know the parent yet."""
        parent = self.header.get("parent")
        if parent is None or self.cursor.linked:
            return True
        run = self.store.find_run(parent)
        if run is None:
            return False
        self.store.client.set_tag(self.run_id, PARENT, run.info.run_id)
        self.cursor.linked = True
        self._save()
        return True

    def _send_batch(self, batch: Batch) -> None:
        """What the store refuses is found by halving, noted, and left out."""
        try:
            self._log_batch(batch)
        except Exception as error:
            if not self._is_refusal(error):
                raise
            if len(batch) > 1:
                for half in batch.halves():
                    self._send_batch(half)
            else:
                names = [*(m[0] for m in batch.metrics), *batch.params, *batch.tags]
                self.cursor.refused.update({name: one_line(error) for name in names})
        self.answers += 1

    def _log_batch(self, batch: Batch) -> None:
        client = self.store.client
        client.log_batch(
            self.run_id,
            metrics=[Metric(*point) for point in batch.metrics],
            params=[Param(name, text) for name, text in batch.params.items()],
            tags=[RunTag(name, text) for name, text in batch.tags.items() if text is not None],
        )
        for name in (name for name, text in batch.tags.items() if text is None):
            try:
                client.delete_tag(self.run_id, name)
            except Exception as error:
                if error_code(error) != "RESOURCE_DOES_NOT_EXIST":
                    raise

    def _is_refusal(self, error: Exception) -> bool:
        """A store that answers for the run, and still will not take this, never will."""
        if error_code(error) != "INVALID_PARAMETER_VALUE":
            return False
        return self.find_run() is not None

    def _send_input(self, given: Input) -> None:
        dataset = Dataset(
            name=given["name"],
            digest=given["digest"],
            source_type="local" if "://" not in given["source"] else "http",
            source=json.dumps({"uri": given["source"]}),
            profile=json.dumps(given["profile"]),
        )
        tag = InputTag("mlflow.data.context", given["context"])
        self.store.client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])

    @property
    def has_unsent(self) -> bool:
        """Whether something waits whose sending was never tried."""
        return any(event["why"] == HELD_BACK for event in self.cursor.missing)

    def send_missing(self) -> None:
        """Try again with what could not be sent."""
        for event in list(self.cursor.missing):
            if why := self._send_files(event):
                event["why"] = why
            else:
                self.cursor.missing.remove(event)
            self._save()

    def _send_files(self, event: Event) -> str | None:
        """None once the store has them, else why not: that must not hold up the rest.

        Raises:
            Exception: the store itself is away.
        """
        try:
            if "model" in event:
                self.publishing = True
                self.publisher(event["model"]).publish(self._file, event["t"])
            elif "measured" in event:
                parent = self.header.get("parent")
                link_losses(self.store, self.run_id, parent, event["measured"], event["t"])
            else:
                self._send_artifact(event["artifact"])
        except Exception as error:
            self.find_run()
            return one_line(error)
        finally:
            self.publishing = False
        return None

    def publisher(self, model: Model) -> Publisher:
        """The publisher of one of the journal's models."""
        return Publisher(self.store, self.run_id, model)

    def _file(self, artifact: Artifact) -> Path:
        path = locate(self.folder, artifact)
        if path is None:
            raise FileNotFoundError("the file is nowhere here")
        self.answers += 1
        return path

    def _send_artifact(self, artifact: Artifact) -> None:
        if artifact.get("stays"):
            return
        path = self._file(artifact)
        folder, _, name = artifact["path"].rpartition("/")
        with TemporaryDirectory() as aside:
            named = Path(aside, name)  # MLflow takes the name from the file
            named.symlink_to(path.resolve())
            self.store.client.log_artifact(self.run_id, str(named), folder or None)

    def _save(self) -> None:
        with self._saving:
            if not self._abandoned:
                write_cursor(self.folder, self.store.name, self.cursor)


def send(folder: Path, store: Store) -> None:
    """Send one journal, if nobody else is at it."""
    lock = acquire(folder / SHIP)
    if lock is None:
        return
    try:
        journal = JournalSender(folder, store)
        if journal.has_begun:
            journal.bring_up()
    except RunDeletedError:
        pass
    finally:
        lock.release()
