"""Where a size's weights lie, and the record by which a change of them is noticed.

Fetched weights lie in the user's cache, one folder for each source and size, so that a mirror's
are never taken for OpenAI's. A local folder is used where it is. A record holds each file's
SHA-256; a file of recorded size and modification time is taken to be unchanged, any other is
hashed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.errors import Unavailable, UserError
from pipeline.gpt2 import huggingface, release
from pipeline.gpt2.network import web_address
from pipeline.gpt2.sizes import SIZES
from pipeline.params import Gpt2
from pipeline.reports import WeightsFile
from pipeline.system.files import given_path, sha256_of
from pipeline.system.records import Record
from pipeline.system.text import quoted
from pipeline.system.user_cache import cache_folder

Source = Literal["openai", "mirror", "huggingface", "local"]
Layout = Literal["openai", "huggingface"]

FILES: dict[Layout, tuple[str, ...]] = {
    "openai": release.FILES,
    "huggingface": huggingface.FILES,
}
# The file by which a local folder's layout is recognised.
SIGNS: dict[Layout, str] = {"openai": release.INDEX, "huggingface": huggingface.WEIGHTS}


@dataclass(frozen=True)
class Location:
    """Where one size's weights are, or will be.

    Attributes:
        folder: holds `files`, in `layout`.
        record: the JSON file that holds their digests.
        urls: the addresses of the folder, in the order to try them.
        any_architecture: the files say their architecture, which need not be that of `size`.
    """

    size: str
    source: Source
    layout: Layout
    files: tuple[str, ...]
    folder: Path
    record: Path
    urls: tuple[str, ...] = ()
    any_architecture: bool = False


def source_of(settings: Gpt2) -> Source:
    """The source by its name in reports, which hold no path of a local folder."""
    if settings.mirror is not None:
        return "mirror"
    if settings.source == "openai":
        return "openai"
    return "huggingface" if settings.source == "huggingface" else "local"


def locate(size: str, settings: Gpt2) -> Location:
    """Find where the weights of `size` are, or will be, by the `settings`.

    Raises:
        UserError: there is no such size or no such local folder, or the mirror is no URL or goes
            with another source.
        Unavailable: the local folder holds no weights of this size.
    """
    if size not in SIZES:
        raise UserError(f"GPT-2 has no size {size}; its sizes are {', '.join(SIZES)}")
    source = source_of(settings)
    if source == "mirror":
        url = _mirror(settings)
        return _cached(
            size, source, f"mirror-{_short(url)}", (f"{url}/{size}",), any_architecture=True
        )
    if source == "openai":
        urls = (f"{release.OPENAI}/{size}", f"{release.FALLBACK}/{size}")
        return _cached(size, source, "openai", urls)
    if source == "huggingface":
        return _cached(size, source, "huggingface")
    return _local(size, settings.source)


def check_source(settings: Gpt2) -> None:
    """Refuse a source that is wrong for every size that is asked for, before any is fetched.

    Raises:
        UserError: as `locate` does.
    """
    for size in settings.sizes:
        with suppress(Unavailable):  # for fetch_gpt2 to say
            locate(size, settings)


def _mirror(settings: Gpt2) -> str:
    if settings.source != "openai":
        raise UserError(
            "gpt2.mirror stands in for OpenAI's address: with gpt2.source "
            f"{quoted(settings.source)} it must be null"
        )
    return web_address(settings.mirror or "", "gpt2.mirror")


def _cached(
    size: str, source: Source, name: str, urls: tuple[str, ...] = (), any_architecture: bool = False
) -> Location:
    layout: Layout = "huggingface" if source == "huggingface" else "openai"
    folder = cache_folder() / "gpt2" / name / size
    record = folder / "record.json"
    return Location(size, source, layout, FILES[layout], folder, record, urls, any_architecture)


def _local(size: str, source: str) -> Location:
    given = given_path(source, "gpt2.source")
    # In the workspace of a `dvc exp run`, folders that Git does not track are in the main repo.
    roots = (given, Path(os.environ.get("DVC_ROOT", ".")) / given)
    if not any(map(os.path.isdir, roots)):  # of any name, however long
        raise UserError(
            f"gpt2.source: {quoted(source)} is neither openai nor huggingface, nor a folder that "
            "is there"
        )
    for root in roots:
        for folder in (root / size, root):
            for layout, sign in SIGNS.items():
                if (folder / sign).is_file():
                    return _folder(size, layout, folder, any_architecture=folder != root)
    raise Unavailable(
        f"gpt2.source is neither openai nor huggingface, nor a folder that holds {size}/"
        f"{release.INDEX}, {size}/{huggingface.WEIGHTS}, or one of these files itself"
    )


def _folder(size: str, layout: Layout, folder: Path, any_architecture: bool) -> Location:
    files = tuple(
        name for name in FILES[layout] if name not in release.UNREAD or (folder / name).is_file()
    )
    # What was found right under one size's terms is not therefore right under another's.
    key = _short(f"{folder.resolve()} {size} {any_architecture}")
    record = cache_folder() / "gpt2" / f"local-{key}.json"
    return Location(size, "local", layout, files, folder, record, any_architecture=any_architecture)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _File(WeightsFile):
    mtime_ns: int
    host: str | None = None  # that it came from


class _RecordFile(Record):
    """Attributes:
    verified: whether all files together could be read.
    first: the SHA-256 of the first weights that could.
    """

    files: dict[str, _File] = Field(default_factory=dict)
    verified: bool = False
    first: str | None = None


class FileRecord:
    """The files of a location as last looked at: digests, and whether all could be read."""

    def __init__(self, location: Location) -> None:
        self.location = location
        try:
            found = _RecordFile.read(location.record)
        except UserError:
            found = _RecordFile()  # none yet, or not ours: everything is looked at again
        self._files, self._verified, self.first = dict(found.files), found.verified, found.first

    def holds(self, name: str) -> bool:
        """Whether the file is there and is what was recorded."""
        path, known = self.location.folder / name, self._files.get(name)
        if known is None or not path.is_file():
            return False
        now = path.stat()
        if now.st_size != known.bytes:
            return False
        if now.st_mtime_ns == known.mtime_ns:
            return True
        if sha256_of(path) != known.sha256:
            return False
        self._files[name] = known.model_copy(update={"mtime_ns": now.st_mtime_ns})
        with suppress(PermissionError):  # a cache that another user fills
            self._save()
        return True

    @property
    def is_whole(self) -> bool:
        """Whether every file is what was recorded when all of them together could be read."""
        return self._verified and all(self.holds(name) for name in self.location.files)

    @property
    def weights(self) -> _File:
        """The large one of the files, the last."""
        return self._files[self.location.files[-1]]

    def knows(self, name: str) -> bool:
        """Whether the file was there once."""
        return name in self._files

    def add(self, name: str, sha256: str, host: str | None = None) -> None:
        """Record a file as it is now; the whole has to be verified again."""
        now = (self.location.folder / name).stat()
        self._files[name] = _File(
            bytes=now.st_size, sha256=sha256, mtime_ns=now.st_mtime_ns, host=host
        )
        self._verified = False
        self._save()

    def mark_verified(self) -> None:
        """Record that all files together were read without an error."""
        self._verified, self.first = True, self.weights.sha256
        self._save()

    def forget(self, names: Iterable[str]) -> None:
        """Drop files from the record, and from the folder where it is Lossbook's own."""
        for name in names:
            self._files.pop(name, None)
            if self.location.source != "local":
                (self.location.folder / name).unlink(missing_ok=True)
        self._verified = False
        self._save()

    def digests(self) -> dict[str, WeightsFile]:
        """Each file's size and digest, for the report."""
        files = {name: self._files[name] for name in self.location.files}
        return {name: WeightsFile(bytes=f.bytes, sha256=f.sha256) for name, f in files.items()}

    def _save(self) -> None:
        record = _RecordFile(files=self._files, verified=self._verified, first=self.first)
        record.write(self.location.record)
