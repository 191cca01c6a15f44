"""Checkpoints on disk: a training between two steps, whole or not there, the last two of them.

    weights-00000040.pth      the model's weights after a step; also the best
    optimizer-00000040.pth    AdamW's moments
    checkpoint-00000040.json  everything else, and which files with which checksums belong to it

The JSON is written last, so it is the mark of a whole checkpoint. Every file is written aside,
synced and renamed; length and CRC-32 are checked before anything is used. Weights are named by
their step and written once: the best weights of step 15 serve every later checkpoint. That is the
sharp edge: where such a shared file is damaged, no checkpoint is left, and training starts anew.

Of a sharded model each rank writes its own rows, and rank 0 the JSON once all have:

    weights-00000040-2of4.pth      the second of four ranks' shards
    optimizer-00000040-2of4.pth

Any number of ranks reads them, each mapping all files and copying its rows. This is not the format
of `torch.distributed.checkpoint`, whose index is a pickle: to read one is to run what is in it.

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from uuid import uuid4

import torch
from pydantic import Field, StringConstraints
from torch import Tensor

from pipeline.distributed.notes import Notes
from pipeline.distributed.shards import WHOLE, Shard, joined
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
TENSORS = rf"(weights|optimizer)-{STEP}(-\d+of\d+)?\.pth"
TOKEN = re.compile(r"shared-[0-9a-f]{32}")
OURS = re.compile(rf"\.?({TENSORS}|{MANIFEST.pattern}|{TOKEN.pattern})(\.\d+(@.*)?\.part)?")

Check = tuple[int, int]  # bytes, CRC-32
WeightsFile = Annotated[str, StringConstraints(pattern=rf"^weights-{STEP}\.pth$")]
OptimizerFile = Annotated[str, StringConstraints(pattern=rf"^optimizer-{STEP}\.pth$")]
TensorsFile = Annotated[str, StringConstraints(pattern=rf"^{TENSORS}$")]


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
    """A checkpoint's files; where there are several shards, each stands for a file a shard."""

    weights: WeightsFile
    best: WeightsFile
    optimizer: OptimizerFile


class Note(Record):
    """What a process reports of its shard: the checksums of new files, or an error's number."""

    checks: dict[TensorsFile, Check] | None = None
    error: int | None = None


class Manifest(Record):
    """A checkpoint's JSON, without the checksum around it; `checks` are of its files."""

    step: int
    shards: Annotated[int, Field(ge=1, le=10**5)] = 1
    files: Parts
    checks: dict[TensorsFile, Check]
    record: LoopState

    @property
    def best_step(self) -> int:
        return _step_of(self.files.best)


@dataclass(frozen=True)
class Checkpoint:
    """A training between two steps, or a rank's shard of it.

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


@dataclass(frozen=True)
class Stored:
    """A checkpoint as it was found.

    Attributes:
        parts: what every shard holds of each part, by the part's name; empty on ranks that get
            their tensors from rank 0.
    """

    manifest: Manifest
    parts: dict[str, list[Any]]

    @property
    def step(self) -> int:
        return self.manifest.step

    def joined(self, part: str, shard: Shard = WHOLE) -> Any:
        """A part's state dict, whole or a shard of it."""
        return joined(self.parts[part], shard) if part in self.parts else {}


class CheckpointFolder:
    """The checkpoints of one training.

    One process at a time writes here, or one for each shard, all for the same checkpoint.

    Attributes:
        checks: of the files that are whole.
    """

    def __init__(self, folder: Path, shard: Shard = WHOLE, notes: Notes | None = None) -> None:
        """
        Args:
            shard: what this process writes and reads.
            notes: by which processes that write other shards report them.
        """
        self.folder, self._shard, self._notes = folder, shard, notes
        self.checks: dict[str, Check] = {}

    def write(
        self,
        checkpoint: Checkpoint,
        *,
        before_commit: Callable[[], None] = lambda: None,
        is_cancelled: Callable[[], bool] = lambda: False,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Write a checkpoint, and remove those before the last two.

        The process of the first shard does so once the others have written theirs.

        Args:
            is_over: whether the others write no more.

        Raises:
            OSError: the disk is full, or fails; earlier checkpoints are as they were.
            Cancelled: `is_cancelled` said so, or another shard's process.
        """
        if self._shard.number:
            self._write_shard(checkpoint, is_cancelled)
            return
        self.prepare()
        try:
            try:
                self._save_new(checkpoint, is_cancelled)
            finally:  # nothing is removed while other ranks write
                self._collect(checkpoint.step, lambda: is_cancelled() or is_over())
            names = {part: file for part, (file, _) in _files_of(checkpoint).items()}
            files = _shards_of(names.values(), self._shard.of)
            manifest = Manifest(
                step=checkpoint.step,
                shards=self._shard.of,
                files=Parts(**names),
                checks={file: self.checks[file] for file in files},
                record=checkpoint.record,
            )
            before_commit()
            write_text(self._manifest(checkpoint.step), _signed(manifest.model_dump()))
        finally:
            self._prune()

    def _write_shard(self, checkpoint: Checkpoint, is_cancelled: Callable[[], bool]) -> None:
        """Write what is another shard than the first, and leave a note of how it went."""
        assert self._notes is not None, "several processes write"
        before, note = set(self.checks), Note()
        try:
            self._save_new(checkpoint, is_cancelled)
            new = {file: check for file, check in self.checks.items() if file not in before}
            note = Note(checks=new)
        except OSError as error:
            note = Note(error=error.errno or errno.EIO)
        finally:
            self._notes.leave(f"checkpoint/{checkpoint.step}", note.model_dump_json())

    def _collect(self, step: int, is_over: Callable[[], bool]) -> None:
        """Wait for the other shards."""
        if self._notes is None:
            return
        texts = self._notes.collect(f"checkpoint/{step}", is_over)
        if texts is None:
            raise Cancelled
        for note in (Note.parse(text, "a note") for text in texts):
            if note.error is not None:
                raise OSError(note.error, os.strerror(note.error))
            if note.checks is None:
                raise Cancelled
            self.checks |= note.checks

    def _save_new(self, checkpoint: Checkpoint, is_cancelled: Callable[[], bool]) -> None:
        """Write this process's shard of what is not there yet."""
        files = _files_of(checkpoint).values()
        named = {_shard_of(file, self._shard): value for file, value in files}
        new = {file: value for file, value in named.items() if file not in self.checks}
        size = self._shard.of * sum(map(_bytes, new.values()))
        if shutil.disk_usage(self.folder).free < size + RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for file, value in new.items():
            self.checks[file] = _save(self.folder / file, value, is_cancelled)

    def read_latest(
        self,
        notify: Callable[[str], None],
        check: Callable[[Stored], None] = lambda stored: None,
    ) -> Stored | None:
        """The newest checkpoint that is whole; None where there is none.

        Args:
            notify: gets a line for each that is damaged.
            check: raises UserError for one that is not of this training.
        """
        self._remove_other_things()
        for step in reversed(self._steps()):
            try:
                stored = self._read(step)
                check(stored)
            except UserError as error:
                notify(f"the checkpoint of step {step} is damaged ({error})")
                _remove(self._manifest(step))
            else:
                self.checks = dict(stored.manifest.checks)
                return stored
        return None

    def _read(self, step: int) -> Stored:
        manifest = _verified(self._manifest(step))
        files, checks = manifest.files, manifest.checks
        own = (manifest.step, _step_of(files.weights), _step_of(files.optimizer))
        names = dict(files.model_dump())
        if own != (step, step, step) or (
            set(_shards_of(names.values(), manifest.shards)) != checks.keys()
        ):
            raise Damaged(f"{self._manifest(step).name}: its files are another checkpoint's")
        for file, check in checks.items():
            if (found := _check_of(self.folder / file, check[0])) != check:
                raise Damaged(f"{file}: {_difference(found, check)}")
        return self.load(manifest)

    def load(self, manifest: Manifest) -> Stored:
        """What the files hold of a checkpoint that has been found whole.

        Raises:
            Damaged: a file is not torch's.
        """
        mapped = manifest.shards > 1 or self._shard != WHOLE
        names = dict(manifest.files.model_dump())
        files = {
            file: [
                _load(self.folder / shard, mapped=mapped)
                for shard in _shards_of([file], manifest.shards)
            ]
            for file in dict.fromkeys(names.values())
        }
        return Stored(manifest, {part: files[file] for part, file in names.items()})

    def _manifest(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step:08}.json"

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        found = (MANIFEST.fullmatch(path.name) for path in self.folder.iterdir())
        steps = {int(match[1]) for match in found if match}
        return sorted(step for step in steps if os.path.lexists(self._manifest(step)))

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            OSError: that fails.
        """
        self._remove_other_things()
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def token(self) -> Iterator[Path | None]:
        """A file for other processes to look for; None where it cannot be written."""
        token = self.folder / f"shared-{uuid4().hex}"
        try:
            self.prepare()
            token.touch()
        except OSError:
            yield None
            return
        try:
            yield token
        finally:
            _remove(token)

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
        self.checks = {file: check for file, check in self.checks.items() if file in wanted}


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, where that can be done."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _step_of(file: str) -> int:
    return int(file.partition("-")[2].removesuffix(".pth"))


def _shard_of(file: str, shard: Shard) -> str:
    """The name of a shard of a part's file."""
    if shard.of == 1:
        return file
    return f"{file.removesuffix('.pth')}-{shard.number + 1}of{shard.of}.pth"


def _shards_of(files: Iterable[str], shards: int) -> list[str]:
    """The names of all shards of parts' files."""
    return [_shard_of(file, Shard(number, shards)) for file in files for number in range(shards)]


def _load(path: Path, *, mapped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
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
