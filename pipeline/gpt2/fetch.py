"""Make sure that a size's weights are there: in the cache, from the network, or in a folder.

A size is available when every file is what was recorded when all of them together could be read,
to the last checksum. What a server sends can be of the right size and still be wrong, so fetched
checkpoints are read through once, in a process of its own, which keeps TensorFlow out of this one.

Two processes that want the same size take turns: the second finds what the first has fetched.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import Unavailable, UserError
from pipeline.gpt2 import hub, huggingface, release
from pipeline.gpt2.cache import Layout, Place, Record, place_of, source_of
from pipeline.gpt2.network import Patience, reachable
from pipeline.params import Gpt2
from pipeline.system.files import sha256_of
from pipeline.system.http import public

if TYPE_CHECKING:
    from requests import Session

    from pipeline.system.progress import Progress

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
) -> dict[str, Any]:
    """Bring the weights of `size` where they are not there yet.

    Args:
        patience: how much is borne from the network.
        verify: reads a checkpoint through; by default in a process of its own.

    Returns:
        What `reports/gpt2/SIZE.json` holds; `status` is `available`, or `unavailable` with a
        `reason`.

    Raises:
        UserError: `settings` cannot be right, or the size cannot be had and `gpt2.required`.
    """
    report = {"model": size, "status": "available", "reason": None, "source": source_of(settings)}
    try:
        place = place_of(size, settings)
        with _alone(place):
            record = Record(place)
            if not record.is_whole:
                _bring(place, record, patience or Patience(), verify or verify_apart)
        return {**report, "files": record.digests()}
    except Unavailable as fault:
        if settings.required:
            raise UserError(
                f"GPT-2 {size} cannot be had, and gpt2.required is true: {fault}"
            ) from None
        return {**report, "status": "unavailable", "reason": str(fault), "files": {}}


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
    from pipeline.gpt2 import tf_checkpoint

    return tf_checkpoint.verify(folder) if data else tf_checkpoint.verify_index(folder)


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Keep other processes that want the same place waiting."""
    from filelock import FileLock, Timeout

    try:
        place.record.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.record.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _say(f"GPT-2 {place.size}: another process is fetching it; waiting")
            lock.acquire()
    except OSError as error:
        raise Unavailable(f"Lossbook's cache cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def _bring(place: Place, record: Record, patience: Patience, verify: Verify) -> None:
    """Make the place whole, by whatever its source allows."""
    if place.source == "local":
        return _from_folder(place, record, verify)
    changed = [name for name in place.files if record.knows(name) and not record.holds(name)]
    for name in changed:
        _say(f"GPT-2 {place.size}: {name} is not what was fetched; fetching it again")
    record.forget(changed)
    if place.source == "huggingface":
        return _from_hub(place, record, verify)
    return _from_urls(place, record, patience, verify)


def _from_folder(place: Place, record: Record, verify: Verify) -> None:
    with _in_plain_words(place):
        for name in place.files:
            record.add(name, _digest(place.folder / name))
        _check_architecture(place, place.folder / place.files[0])
        _check(place, record, verify, data=True)
    record.mark_verified()


def _from_hub(place: Place, record: Record, verify: Verify) -> None:
    if not all(record.holds(name) for name in place.files):
        reachable([hub.endpoint()])
    for name in place.files:
        if not record.holds(name):
            record.add(name, hub.download(place.size, name, place.folder))
        if name == huggingface.CONFIG:
            with _in_plain_words(place, hub.REPOSITORIES[place.size]):
                _check_architecture(place, place.folder / name)
    with _in_plain_words(place, hub.REPOSITORIES[place.size]):
        _check(place, record, verify, data=True)
    record.mark_verified()


def _from_urls(place: Place, record: Record, patience: Patience, verify: Verify) -> None:
    """Take the first address that has everything, and has it right."""
    import requests

    faults = []
    # A kill may have come between the last byte and the verification: that needs no network.
    here = all(record.holds(name) for name in place.files)
    with requests.Session() as session:
        session.headers["User-Agent"] = "lossbook"
        for url in place.urls if here else reachable(place.urls):
            try:
                with _in_plain_words(place, public(url)):
                    _from_url(place, record, url, session, patience, verify)
                return record.mark_verified()
            except Unavailable as fault:
                faults.append(str(fault))
    raise Unavailable("; ".join(faults))


def _from_url(
    place: Place, record: Record, url: str, session: Session, patience: Patience, verify: Verify
) -> None:
    from pipeline.gpt2.download import Download

    for name in place.files:
        expected, check = None, None
        if name == release.HPARAMS:
            check = partial(_check_architecture, place)
        elif name == release.DATA:
            expected = release.read_hparams(place.folder / release.HPARAMS).data_bytes
            if expected >= LARGE:
                _check(place, record, verify, data=False)
        if record.holds(name):
            continue
        target = place.folder / name
        with _Meter(f"GPT-2 {place.size}") as meter:
            download = Download(
                session,
                f"{url}/{name}",
                target,
                patience,
                expected=expected,
                check=check,
                on_progress=meter,
            )
            record.add(name, download.run())
    _check(place, record, verify, data=True)


def _check(place: Place, record: Record, verify: Verify, data: bool) -> None:
    """Read what is there through; forget what is damaged.

    That is the index where the data is still to come, and the data where the index was found
    right before; small data tells nothing of its index, and both are forgotten.
    """
    if data:
        _say(f"GPT-2 {place.size}: reading the weights through")
    try:
        verify(place.layout, place.folder, data)
    except Unavailable:
        raise
    except UserError:
        *small, large = place.files
        if not data:
            record.forget(small)
        elif (place.folder / large).stat().st_size >= LARGE:
            record.forget([large])
        else:
            record.forget(place.files)
        raise


def _check_architecture(place: Place, path: Path) -> None:
    """Look at `hparams.json` or `config.json`.

    Raises:
        UserError: it is no architecture, or not that of the place's size.
    """
    reader = huggingface.read_config if place.layout == "huggingface" else release.read_hparams
    hparams = reader(path)
    if not place.believed:
        release.check_size(path, hparams, place.size)


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise Unavailable(f"{path.name}: {error.strerror}") from None


@contextmanager
def _in_plain_words(place: Place, origin: str = "") -> Iterator[None]:
    """Any fault of the files makes the size unavailable; the reason names no folder of ours."""
    try:
        yield
    except Unavailable:
        raise
    except UserError as error:
        text = str(error).replace(f"{place.folder}{os.sep}", "").replace(".part:", ":")
        raise Unavailable(f"{origin}/{text}" if origin else text) from None


class _Meter(ExitStack):
    """Shows how far a large file is."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self._bar: Progress | None = None

    def __call__(self, have: int, total: int | None) -> None:
        if total is None or total < LARGE:
            return
        done = have // MEGABYTE
        if self._bar is None:
            from pipeline.system.progress import Progress

            bar = Progress(total // MEGABYTE, self.title, unit="megabyte", done=done)
            self._bar = self.enter_context(bar)
        if done != self._bar.done:
            self._bar.advance(done - self._bar.done)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
