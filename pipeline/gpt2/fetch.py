"""Make sure that a size's weights are there: in the cache, from the network, or in a folder.

A size is available when every file is what was recorded when all of them could be read together,
to the last checksum. What a server sends can be of the right size and still be wrong, so fetched
checkpoints are read through once, in a process of their own, which keeps TensorFlow out of this
one.

Two processes that want the same size take turns: the second finds what the first has fetched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout

from pipeline.errors import Unavailable, UserError
from pipeline.gpt2 import hub, huggingface, release
from pipeline.gpt2.download import Download
from pipeline.gpt2.location import FileRecord, Layout, Location, locate, source_of
from pipeline.gpt2.network import Patience, reachable
from pipeline.gpt2.sizes import SIZES
from pipeline.params import Gpt2
from pipeline.reports import WeightsReport
from pipeline.system.files import sha256_of
from pipeline.system.http import public
from pipeline.system.progress import Progress, say

MEGABYTE = 10**6
LARGE = 16 * MEGABYTE  # a file that is worth a bar, and a look at its index beforehand

# (layout, folder, with the data): reads what is there; raises UserError where it is damaged
Verify = Callable[[Layout, Path, bool], None]


def fetch(
    size: str,
    settings: Gpt2,
    *,
    patience: Patience | None = None,
    verify: Verify | None = None,
) -> WeightsReport:
    """Fetch the weights of `size` where they are not there yet.

    Args:
        patience: how often and how long to try the network.
        verify: reads a checkpoint through; by default in a process of its own.

    Returns:
        The files, or the reason why the size is unavailable.

    Raises:
        UserError: `settings` cannot be right, the weights are not those that `gpt2.sha256` names,
            or the size cannot be had and `gpt2.required`.
    """
    source = source_of(settings)
    try:
        location = locate(size, settings)
        record = FileRecord(location)
        if not record.is_whole:  # what is whole needs no lock: the cache may be another user's
            with _locked(location):
                record = FileRecord(location)
                if not record.is_whole:
                    how = (patience or Patience(), verify or verify_apart)
                    _make_whole(location, record, settings, *how)
        check_digest(location, record, settings)
        return WeightsReport(
            model=size,
            status="available",
            source=source,
            host=record.weights.host,
            files=record.digests(),
        )
    except Unavailable as error:
        if settings.required:
            raise UserError(
                f"GPT-2 {size} cannot be had, and gpt2.required is true: {error}"
            ) from None
        return WeightsReport(model=size, status="unavailable", reason=str(error), source=source)


def check_digest(location: Location, record: FileRecord, settings: Gpt2) -> None:
    """Make sure that the weights are those that are asked for, or known, or were fetched first.

    Raises:
        UserError: `gpt2.sha256` names others.
        Unavailable: others are known; says how to accept these.
    """
    size, found = location.size, record.weights.sha256
    name = f"{location.files[-1]} from {record.weights.host or 'the folder'}"
    if (asked := settings.sha256.get(size)) is not None:
        if found != asked:
            raise UserError(f"gpt2.sha256: {size} is to be {asked}, but {name} has {found}")
        return
    known = SIZES[size].sha256.get(location.source)
    if known is None and location.urls and not location.any_architecture:
        known = record.first
    if known not in (None, found):
        raise Unavailable(
            f"{name} is not the file that is known: its SHA-256 is {found}, not {known}; "
            f"`gpt2.sha256: {{{size}: {found}}}` accepts it"
        )


def verify_apart(layout: Layout, folder: Path, data: bool) -> None:
    """`verify_here` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            pool.submit(verify_here, layout, folder, data).result()
        except BrokenProcessPool:
            raise Unavailable("the process that read the weights died; is memory short?") from None


def verify_here(layout: Layout, folder: Path, data: bool) -> None:
    """Read a checkpoint's index and, where asked to, all that it points to.

    Raises:
        UserError: it is damaged.
    """
    if layout == "huggingface":
        return huggingface.verify(folder) if data else None
    from pipeline.gpt2 import tf_checkpoint  # torch and TensorFlow stay in this process

    return tf_checkpoint.verify(folder) if data else tf_checkpoint.verify_index(folder)


@contextmanager
def _locked(location: Location) -> Iterator[None]:
    """Keep other processes that want the same weights waiting."""
    try:
        location.record.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(location.record.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"GPT-2 {location.size}: another process is fetching it; waiting")
            lock.acquire()
    except OSError as error:
        raise Unavailable(f"Lossbook's cache cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def _make_whole(
    location: Location, record: FileRecord, settings: Gpt2, patience: Patience, verify: Verify
) -> None:
    """Fetch or look at the files that are missing or changed."""
    if location.source == "local":
        return _from_folder(location, record, verify)
    changed = [name for name in location.files if record.knows(name) and not record.holds(name)]
    for name in changed:
        say(f"GPT-2 {location.size}: {name} is not what was fetched; fetching it again")
    record.forget(changed)
    if location.source == "huggingface":
        return _from_hub(location, record, verify)
    return _from_urls(location, record, settings, patience, verify)


def _from_folder(location: Location, record: FileRecord, verify: Verify) -> None:
    with _as_unavailable(location):
        for name in location.files:
            record.add(name, _digest(location.folder / name))
        _check_architecture(location, location.folder / location.files[0])
        _check(location, record, verify, data=True)
    record.mark_verified()


def _from_hub(location: Location, record: FileRecord, verify: Verify) -> None:
    if not all(record.holds(name) for name in location.files):
        reachable([hub.endpoint()])
    for name in location.files:
        if not record.holds(name):
            host = urlsplit(hub.endpoint()).hostname
            record.add(name, hub.download(location.size, name, location.folder), host)
        if name == huggingface.CONFIG:
            with _as_unavailable(location, SIZES[location.size].repository):
                _check_architecture(location, location.folder / name)
    with _as_unavailable(location, SIZES[location.size].repository):
        _check(location, record, verify, data=True)
    record.mark_verified()


def _from_urls(
    location: Location, record: FileRecord, settings: Gpt2, patience: Patience, verify: Verify
) -> None:
    """Fetch from the first address that has all files, undamaged."""
    reasons = []
    # A kill may have come between the last byte and the verification: that needs no network.
    here = all(record.holds(name) for name in location.files)
    with requests.Session() as session:
        session.headers["User-Agent"] = "lossbook"
        for url in location.urls if here else reachable(location.urls):
            try:
                with _as_unavailable(location, public(url)):
                    _from_url(location, record, settings, url, session, patience, verify)
                return record.mark_verified()
            except Unavailable as error:
                reasons.append(str(error))
    raise Unavailable("; ".join(reasons))


def _from_url(
    location: Location,
    record: FileRecord,
    settings: Gpt2,
    url: str,
    session: requests.Session,
    patience: Patience,
    verify: Verify,
) -> None:
    for name in location.files:
        expected, check = None, None
        if name == release.HPARAMS:
            check = partial(_check_architecture, location)
        elif name == release.DATA:
            expected = release.read_hparams(location.folder / release.HPARAMS).data_bytes
            if expected >= LARGE:
                _check(location, record, verify, data=False)
        if record.holds(name):
            continue
        target = location.folder / name
        with _Meter(f"GPT-2 {location.size}") as meter:
            download = Download(
                session,
                f"{url}/{name}",
                target,
                patience,
                expected=expected,
                check=check,
                on_progress=meter,
            )
            record.add(name, download.run(), urlsplit(url).hostname)
    if location.size not in settings.sha256:  # before anything reads what may be another's
        try:
            check_digest(location, record, settings)
        except Unavailable:
            record.forget(location.files)  # the index belongs to the weights
            raise
    _check(location, record, verify, data=True)


def _check(location: Location, record: FileRecord, verify: Verify, data: bool) -> None:
    """Read what is there through; forget what is damaged, so that it is fetched again.

    That is the index where the data is still to come, and the data where the index was found
    right before. Where the data is small, its index was not looked at alone: both are forgotten.
    """
    if data:
        say(f"GPT-2 {location.size}: reading the weights through")
    try:
        verify(location.layout, location.folder, data)
    except Unavailable:
        raise
    except UserError:
        *small, large = location.files
        if not data:
            record.forget(small)
        elif (location.folder / large).stat().st_size >= LARGE:
            record.forget([large])
        else:
            record.forget(location.files)
        raise


def _check_architecture(location: Location, path: Path) -> None:
    """Check the architecture in `hparams.json` or `config.json`.

    Raises:
        UserError: it is no architecture, or not that of the location's size.
    """
    reader = huggingface.read_config if location.layout == "huggingface" else release.read_hparams
    hparams = reader(path)
    if not location.any_architecture:
        release.check_size(path, hparams, location.size)


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise Unavailable(f"{path.name}: {error.strerror}") from None


@contextmanager
def _as_unavailable(location: Location, origin: str = "") -> Iterator[None]:
    """Raise any error of the files as `Unavailable`; the reason names no folder of ours."""
    try:
        yield
    except Unavailable:
        raise
    except UserError as error:
        text = str(error).replace(f"{location.folder}{os.sep}", "").replace(".part:", ":")
        raise Unavailable(f"{origin}/{text}" if origin else text) from None


class _Meter(ExitStack):
    """A progress bar in megabytes, for a large file."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self._bar: Progress | None = None

    def __call__(self, have: int, total: int | None) -> None:
        if total is None or total < LARGE:
            return
        done = have // MEGABYTE
        if self._bar is None:
            bar = Progress(total // MEGABYTE, self.title, unit="megabyte", done=done)
            self._bar = self.enter_context(bar)
        if done != self._bar.done:
            self._bar.advance(done - self._bar.done)
