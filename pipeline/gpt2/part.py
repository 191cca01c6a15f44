"""A partial download: `FILE.part`, and `FILE.part.json` that says what its bytes are of."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from pathlib import Path

from pydantic import ConfigDict, Field

from pipeline.errors import Unavailable, UserError
from pipeline.system.records import Record

SPARE = 64 << 20  # bytes of disk to leave free


class Note(Record):
    """What the bytes of a part belong to.

    Attributes:
        validator: the file's ETag or, where it has none, its date; for `If-Range`.
        total: bytes of the whole file; None where the server did not say.
        md5: of the whole file, in base64, where the server sent it.
    """

    model_config = ConfigDict(extra="forbid")

    url: str
    validator: str | None = Field(pattern=r"^[ -~\x80-\xff]*$")  # becomes a header's value
    total: int | None
    md5: str | None


class Part:
    """The bytes of `target` that have arrived from `url`, by this process or one before it."""

    def __init__(self, target: Path, url: str, expected: int | None) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note_file = target.with_name(f"{target.name}.part.json")
        self.note: Note | None = None
        target.parent.mkdir(parents=True, exist_ok=True)
        self._take_up(url, expected)

    @property
    def have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def is_whole(self) -> bool:
        return self.note is not None and self.have == self.note.total

    def begin(self, note: Note) -> None:
        """Start with no bytes, for the file that `note` describes.

        Raises:
            Unavailable: the disk has no room for it.
        """
        self.drop()
        check_room(self.target.parent, note.total or 0)
        self.note = note
        note.write(self._note_file)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note_file.unlink(missing_ok=True)
        self.note = None

    def digests(self) -> tuple[str, str]:
        """SHA-256 in hex and MD5 in base64, in one pass."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with open(self.path, "rb") as file:
            while block := file.read(1 << 20):
                sha256.update(block)
                md5.update(block)
        return sha256.hexdigest(), base64.b64encode(md5.digest()).decode()

    def finish(self) -> None:
        """Give the part its name."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.target)
        self._note_file.unlink(missing_ok=True)

    def _take_up(self, url: str, expected: int | None) -> None:
        """Keep what an earlier process left, where its note says that it is of this file."""
        try:
            note = Note.read(self._note_file)
            fits = note.total is not None and self.have <= note.total
            if note.url == url and fits and expected in (None, note.total):
                self.note = note
                return
        except UserError:
            pass  # none, torn or not ours
        self.drop()


def check_room(folder: Path, wanted: int) -> None:
    """Make sure that `wanted` bytes fit on the disk of `folder`.

    Raises:
        Unavailable: they do not.
    """
    if shutil.disk_usage(folder).free < wanted + SPARE:
        raise Unavailable(
            f"the disk of Lossbook's cache has no {wanted / 1e9:.1f} GB free; make room, or let "
            "LOSSBOOK_CACHE name a folder elsewhere"
        )
