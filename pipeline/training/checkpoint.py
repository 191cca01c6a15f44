"""Checkpoints on disk: a training between two steps, whole or not there, the last two of them.

    weights-00000040.pth      the model's weights after a step; also the best
    optimizer-00000040.pth    AdamW's moments
    checkpoint-00000040.json  everything else, and which files with which checksums belong to it

The JSON is written last, so it is the mark of a whole checkpoint. Every file is written aside,
synced and renamed; length and CRC-32 are checked before anything is used. Weights are named by
their step and written once: the best weights of step 15 serve every later checkpoint. That is the
sharp edge: where such a shared file is damaged, no checkpoint is left, and training starts anew.

A checksum finds what a disk has done, not what a hand has: names, values and tensors are looked at
before they are used, and only files that bear a checkpoint's names are ever removed.

The `.pth` files are torch's, without its own checksums.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import StringConstraints
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model.saved import save_into
from pipeline.reports import HistoryRow
from pipeline.system.files import parse_json, write_text, written_aside
from pipeline.system.records import Record
from pipeline.training.snapshot import Snapshot

KEPT = 2
BLOCK = 2**23
LARGEST = 2**28  # bytes of a manifest
PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES}  # no file is worse for it
RESERVE = 64_000_000  # bytes of the disk that a checkpoint leaves to the journal
STEP = r"(\d{8,15})"
MANIFEST = re.compile(rf"checkpoint-{STEP}\.json")
OURS = re.compile(rf"\.?((weights|optimizer)-{STEP}\.pth|{MANIFEST.pattern})(\.\d+\.part)?")

Check = tuple[int, int]  # bytes, CRC-32
WeightsFile = Annotated[str, StringConstraints(pattern=rf"^weights-{STEP}\.pth$")]
OptimizerFile = Annotated[str, StringConstraints(pattern=rf"^optimizer-{STEP}\.pth$")]


class Damaged(UserError):
    """A checkpoint's file is not what was written."""


class Cancelled(Exception):
    """The checkpoint is not needed any more."""


class LoopState(Record):
    """What of a training fits into JSON.

    Attributes:
        losses: of the last steps, by which loss spikes are known.
        observer: its own.
    """

    history: tuple[HistoryRow, ...]
    losses: tuple[float, ...]
    observer: Any


class Parts(Record):
    """A checkpoint's files."""

    weights: WeightsFile
    best: WeightsFile
    optimizer: OptimizerFile


class Manifest(Record):
    """A checkpoint's JSON, without the checksum around it; `checks` are of its files."""

    step: int
    files: Parts
    checks: dict[WeightsFile | OptimizerFile, Check]
    record: LoopState


@dataclass(frozen=True)
class Checkpoint:
    """A training between two steps.

    Attributes:
        step: optimizer steps taken.
        weights: those of the model.
        best: those of the lowest validation loss; the same object where they are the same.
        optimizer: its state dict.
        record: the rest.
    """

    step: int
    weights: Snapshot
    best: Snapshot
    optimizer: dict[str, Any]
    record: LoopState

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
        self._remove_other_things()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._save_new(files, is_cancelled)
            names = {part: file for part, (file, _) in files.items()}
            manifest = Manifest(
                step=checkpoint.step,
                files=Parts(**names),
                checks={file: self._checks[file] for file in names.values()},
                record=checkpoint.record,
            )
            before_commit()
            write_text(self._manifest(checkpoint.step), _signed(manifest.model_dump()))
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

    def read_latest(
        self,
        notify: Callable[[str], None],
        check: Callable[[Checkpoint], None] = lambda checkpoint: None,
    ) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where there is none.

        Args:
            notify: gets a line for each that is damaged.
            check: raises UserError for one that is not of this training.
        """
        self._remove_other_things()
        for step in reversed(self._steps()):
            try:
                checkpoint, checks = self._read(step)
                check(checkpoint)
            except UserError as error:
                notify(f"the checkpoint of step {step} is damaged ({error})")
                _remove(self._manifest(step))
            else:
                self._checks = checks
                return checkpoint
        return None

    def _read(self, step: int) -> tuple[Checkpoint, dict[str, Check]]:
        manifest = _verified(self._manifest(step))
        files, checks = manifest.files, manifest.checks
        own = (manifest.step, _step_of(files.weights), _step_of(files.optimizer))
        if own != (step, step, step) or set(files.model_dump().values()) != checks.keys():
            raise Damaged(f"{self._manifest(step).name}: its files are another checkpoint's")
        for file, check in checks.items():
            if (found := _check_of(self.folder / file, check[0])) != check:
                raise Damaged(f"{file}: {_difference(found, check)}")
        values = {file: _load(self.folder / file) for file in checks}
        weights, best = (
            Snapshot(_step_of(file), values[file]) for file in (files.weights, files.best)
        )
        if files.weights == files.best:
            best = weights
        checkpoint = Checkpoint(step, weights, best, values[files.optimizer], manifest.record)
        return checkpoint, checks

    def _manifest(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:08}.json"

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        found = (MANIFEST.fullmatch(path.name) for path in self.folder.iterdir())
        steps = {int(match[1]) for match in found if match}
        return sorted(step for step in steps if os.path.lexists(self._manifest(step)))

    def _remove_other_things(self) -> None:
        """Whatever stands where the folder should; a link's target is nobody's checkpoints."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            _remove(self.folder)

    def _prune(self) -> None:
        """Remove what the last two checkpoints do not name, and what kills have left."""
        wanted: set[str] = set()
        for step in self._steps()[-KEPT:]:
            with suppress(Damaged):
                wanted |= {self._manifest(step).name, *_verified(self._manifest(step)).checks}
        for path in self.folder.iterdir():
            if OURS.fullmatch(path.name) and path.name not in wanted:
                _remove(path)
        self._checks = {file: check for file, check in self._checks.items() if file in wanted}


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, where that can be done."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _step_of(file: str) -> int:
    return int(file.partition("-")[2].removesuffix(".pth"))


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises many types for a damaged or foreign file
        raise Damaged(f"{path.name}: not torch's ({type(error).__name__})") from None


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

    def write(self, data: memoryview) -> int:
        if self._is_cancelled():
            raise Cancelled
        self.crc = zlib.crc32(data, self.crc)
        self.bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _save(path: Path, value: Any, is_cancelled: Callable[[], bool]) -> Check:
    with written_aside(path) as aside, open(aside, "wb") as file:
        checked = _ChecksummedFile(file, is_cancelled)
        save_into(checked, value)
    return checked.bytes, checked.crc


def _check_of(path: Path, expected: int) -> Check | None:
    """A regular file's bytes and checksum, which is not computed where the bytes differ.

    Raises:
        OSError: files cannot be opened at all.
    """
    crc = 0
    try:
        if (size := _regular_bytes(path)) != expected:
            return size, crc
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                crc = zlib.crc32(block, crc)
    except OSError as error:
        if error.errno in PASSING:
            raise
        return None
    return size, crc


def _regular_bytes(path: Path) -> int:
    """The size of a regular file; whatever else has its name fails as if it were not there."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return found.st_size


def _difference(found: Check | None, check: Check) -> str:
    if found is None:
        return "it cannot be read"
    if found[0] != check[0]:
        return f"{found[0]} bytes where {check[0]} were written"
    return "its checksum is another"


def _signed(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True)
    return json.dumps({"crc32": zlib.crc32(text.encode()), "body": body}, sort_keys=True) + "\n"


def _verified(path: Path) -> Manifest:
    """A manifest.

    Raises:
        Damaged: it is not what was written.
        OSError: files cannot be opened at all.
    """
    damaged = Damaged(f"{path.name}: its checksum is another")
    try:
        if _regular_bytes(path) > LARGEST:
            raise damaged
        text = path.read_text(encoding="utf-8")
        body = parse_json(text, path.name)["body"]
        signed = _signed(body)
    except (OSError, UserError, ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, OSError) and error.errno in PASSING:
            raise
        raise damaged from None
    if signed != text:
        raise damaged
    try:
        return Manifest.from_value(body, path.name)
    except UserError as error:
        raise Damaged(str(error)) from None
