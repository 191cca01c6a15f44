"""Checkpoints on disk: a training between two steps, whole or not there, the last two of them.

    weights-00000040.pth      the model's weights after a step; also the best
    optimizer-00000040.pth    AdamW's moments
    checkpoint-00000040.json  everything else, and which files with which checksums belong to it

The JSON is written last, so it is the mark of a whole checkpoint. Every file is written aside,
synced and renamed; length and CRC-32 are checked before anything is used. Weights are named by
their step and written once: the best weights of step 15 serve every later checkpoint. That is the
sharp edge: where such a shared file is damaged, no checkpoint is left, and training starts anew.

The `.pth` files are torch's, without its own checksums.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pipeline.model.saved import save_into
from pipeline.system.files import write_text, written_aside
from pipeline.training.snapshot import Snapshot

KEPT = 2
BLOCK = 2**23
RESERVE = 64_000_000  # bytes of the disk that a checkpoint leaves to the journal
MANIFEST = re.compile(r"checkpoint-(\d{8,})\.json")

Check = tuple[int, int]  # bytes, CRC-32


class Damaged(Exception):
    """A checkpoint's file is not what was written."""


class Cancelled(Exception):
    """The checkpoint is not needed any more."""


@dataclass(frozen=True)
class Checkpoint:
    """A training between two steps.

    Attributes:
        step: optimizer steps taken.
        weights: those of the model.
        best: those of the lowest validation loss; the same object where they are the same.
        optimizer: its state dict.
        record: history and whatever else fits into JSON.
    """

    step: int
    weights: Snapshot
    best: Snapshot
    optimizer: dict[str, Any]
    record: dict[str, Any]

    def without_tensors(self) -> Checkpoint:
        """For ranks that get their tensors from rank 0."""
        weights, best = (Snapshot(weights.step, {}) for weights in (self.weights, self.best))
        return Checkpoint(self.step, weights, best, {}, self.record)


class CheckpointFolder:
    """The checkpoints of one training; one process at a time writes here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checks: dict[str, Check] = {}  # of the files that are whole

    def write(
        self,
        checkpoint: Checkpoint,
        *,
        before_commit: Callable[[], None] = lambda: None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Write a checkpoint, and remove those before the last two.

        Raises:
            OSError: the disk is full, or fails; earlier checkpoints are as they were.
            Cancelled: `is_cancelled` said so.
        """
        files = _files_of(checkpoint)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._save_new(files, is_cancelled)
            names = {part: file for part, (file, _) in files.items()}
            body = {
                "step": checkpoint.step,
                "files": names,
                "checks": {file: self._checks[file] for file in names.values()},
                "record": checkpoint.record,
            }
            before_commit()
            write_text(self._manifest(checkpoint.step), _signed(body))
        finally:
            self._prune()

    def _save_new(
        self, files: dict[str, tuple[str, Any]], is_cancelled: Callable[[], bool]
    ) -> None:
        new = {file: value for file, value in files.values() if file not in self._checks}
        if shutil.disk_usage(self.folder).free < sum(map(_bytes, new.values())) + RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for file, value in new.items():
            self._checks[file] = _save(self.folder / file, value, is_cancelled)

    def read_latest(self, notify: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where there is none.

        Args:
            notify: gets a line for each that is damaged.
        """
        for step in reversed(self._steps()):
            try:
                return self._read(step)
            except Damaged as error:
                notify(f"the checkpoint of step {step} is damaged ({error})")
                self._manifest(step).unlink()
        return None

    def _read(self, step: int) -> Checkpoint:
        body = _verified(self._manifest(step))
        checks = {file: (size, crc) for file, (size, crc) in body["checks"].items()}
        for file, check in checks.items():
            if (found := _check_of(self.folder / file)) != check:
                raise Damaged(f"{file}: {_difference(found, check)}")
        values = {
            file: torch.load(self.folder / file, map_location="cpu", weights_only=True)
            for file in checks
        }
        weights = {
            file: Snapshot(int(file.removeprefix("weights-").removesuffix(".pth")), values[file])
            for file in checks
            if file.startswith("weights-")
        }
        self._checks = checks
        files = body["files"]
        return Checkpoint(
            step=step,
            weights=weights[files["weights"]],
            best=weights[files["best"]],
            optimizer=values[files["optimizer"]],
            record=body["record"],
        )

    def _manifest(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:08}.json"

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        found = (MANIFEST.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def _prune(self) -> None:
        """Remove what the last two checkpoints do not name, and what kills have left."""
        steps = self._steps()
        for step in steps[:-KEPT]:
            self._manifest(step).unlink()
        wanted: set[str] = set()
        for step in steps[-KEPT:]:
            try:
                wanted |= set(_verified(self._manifest(step))["checks"])
            except Damaged:
                self._manifest(step).unlink()
        for path in self.folder.iterdir():
            if path.suffix in (".pth", ".part") and path.name not in wanted:
                path.unlink()
        self._checks = {file: check for file, check in self._checks.items() if file in wanted}


def _files_of(checkpoint: Checkpoint) -> dict[str, tuple[str, Any]]:
    """Each part's file and content; parts that are the same weights share a file."""
    parts = {name: getattr(checkpoint, name) for name in ("weights", "best")}
    files = {name: (f"weights-{part.step:08}.pth", part.tensors) for name, part in parts.items()}
    return files | {"optimizer": (f"optimizer-{checkpoint.step:08}.pth", checkpoint.optimizer)}


def _bytes(value: Any) -> int:
    """What the tensors in nested dictionaries take."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_bytes, value.values())) if isinstance(value, dict) else 0


class _ChecksummedFile:
    """A file with the size and checksum of what has been written to it."""

    def __init__(self, file: BinaryIO, is_cancelled: Callable[[], bool]) -> None:
        self._file, self._is_cancelled = file, is_cancelled
        self.bytes = self.crc = 0
        self.error: Exception | None = None

    def write(self, data: memoryview) -> int:
        try:
            if self._is_cancelled():
                raise Cancelled
            self.crc = zlib.crc32(data, self.crc)
            self.bytes += len(data)
            return self._file.write(data)
        except Exception as error:
            self.error = error  # torch will raise one of its own on the way out
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(path: Path, value: Any, is_cancelled: Callable[[], bool]) -> Check:
    with written_aside(path) as aside, open(aside, "wb") as file:
        checked = _ChecksummedFile(file, is_cancelled)
        try:
            save_into(checked, value)
        except RuntimeError:
            if checked.error is None:
                raise
            raise checked.error from None
    return checked.bytes, checked.crc


def _check_of(path: Path) -> Check | None:
    size = crc = 0
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                size, crc = size + len(block), zlib.crc32(block, crc)
    except OSError:
        return None
    return size, crc


def _difference(found: Check | None, check: Check) -> str:
    if found is None:
        return "it cannot be read"
    if found[0] != check[0]:
        return f"{found[0]} bytes where {check[0]} were written"
    return "its checksum is another"


def _signed(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True)
    return json.dumps({"crc32": zlib.crc32(text.encode()), "body": body}, sort_keys=True) + "\n"


def _verified(path: Path) -> dict[str, Any]:
    """The body of a manifest.

    Raises:
        Damaged: it is not what was written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        body: dict[str, Any] = json.loads(text)["body"]
        if _signed(body) == text:
            return body
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise Damaged(f"{path.name}: its checksum is another")
