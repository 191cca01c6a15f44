"""Books from a mirror of Project Gutenberg into the user's cache, politely and once.

Project Gutenberg asks programs to stay off its own site and to use a mirror, with pauses between
requests (https://www.gutenberg.org/policy/robot_access.html). So few connections share one gate,
which lets one request through every `pause` seconds, and none at all while the mirror says that it
is busy. The User-Agent says what is asking.

A book lies in the cache under the name that it has on the mirror. What is there is not asked for
again; a number under which the mirror has nothing, or will not give it while it gives others, is
noted, and asked for again after `FORGET`. A process that is killed leaves whole files only, and
the next goes on from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import requests

from pipeline.corpus.download import TIMEOUT, check_sha256, fetch, file_name
from pipeline.errors import UserError
from pipeline.params import Gutenberg
from pipeline.system.files import given_path, remove_left, written_aside
from pipeline.system.http import (
    HTML,
    BadAnswer,
    ask,
    public,
    received,
    retry_after,
    status_of,
)
from pipeline.system.progress import Progress
from pipeline.system.text import quoted

BACKOFF = 1.0  # seconds to rest after the first refusal; doubled after each further one
PATIENCE = 300.0  # the longest rest, whatever the mirror asks for
ATTEMPTS = 8  # of one request
LARGEST = 1 << 26  # bytes of a book
FORGET = 7 * 24 * 3600.0  # seconds until a dead link is tried again
MISSING = "missing"
BUSY = {429, 500, 502, 503, 504}
GONE = {404, 410}


class Refused(UserError):
    """The mirror does not give a file, though it may be there."""


class Gate:
    """Lets requests through one at a time, `pause` seconds apart."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        """Return when it is this caller's turn."""
        while True:
            with self._lock:
                now = time.monotonic()
                if now >= self._next:
                    self._next = now + self._pause
                    return
                left = self._next - now
            time.sleep(left)

    def rest(self, seconds: float) -> None:
        """Let nobody through for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Mirror:
    """A mirror, and the folder of the user's cache where its books are kept."""

    def __init__(self, settings: Gutenberg, folder: Path) -> None:
        self.url = settings.mirror.rstrip("/")
        self._folder = folder
        self._connections = settings.connections
        self._gate = Gate(settings.pause)
        self._sessions = threading.local()
        self._in_vain = 0  # books refused since the mirror last gave anything

    def fetch(self, numbers: Iterable[int]) -> None:
        """Fetch the books that are not there.

        Raises:
            UserError: the mirror cannot be reached, refuses, or stays busy; what has come stays.
        """
        wanted = [number for number in numbers if not self._is_settled(number)]
        if not wanted:
            return
        refused: dict[int, Refused] = {}
        with (
            Progress(len(wanted), "fetch", unit="book", speed=True) as bar,
            ThreadPoolExecutor(self._connections, thread_name_prefix="gutenberg") as pool,
        ):
            running = {pool.submit(self._fetch, number): number for number in wanted}
            try:
                for done in as_completed(running):
                    if error := done.result():
                        refused[running[done]] = error
                    bar.advance(1)
            finally:
                for future in running:
                    future.cancel()
        if len(refused) == len(wanted):
            raise refused[wanted[0]]
        for number in refused:  # others came: it is these books, not the mirror
            self._note_missing(number)

    def find(self, number: int) -> Path | None:
        """The book's file in the cache; None where the mirror has none."""
        places = (self._folder / str(number) / Path(name).name for name in names(number))
        return next((place for place in places if place.is_file()), None)

    def _is_settled(self, number: int) -> bool:
        if self.find(number):
            return True
        note = self._folder / str(number) / MISSING
        return note.is_file() and time.time() - note.stat().st_mtime < FORGET

    def _fetch(self, number: int) -> Refused | None:
        """Fetch a book, or say why not; raises where the mirror gives no others either."""
        try:
            self._find_and_keep(number)
        except Refused as error:
            self._in_vain += 1
            if self._in_vain >= max(self._connections, 2):
                raise
            return error
        self._in_vain = 0
        return None

    def _find_and_keep(self, number: int) -> None:
        folder = self._folder / str(number)
        for name in names(number):
            content = self._get(f"{self.url}/{name}")
            if content is not None:
                target = folder / Path(name).name
                with written_aside(target) as aside:
                    remove_left(target)
                    aside.write_bytes(content)
                return
        self._note_missing(number)

    def _note_missing(self, number: int) -> None:
        with written_aside(self._folder / str(number) / MISSING) as aside:
            aside.write_text("\n".join(names(number)) + "\n")

    def _get(self, url: str) -> bytes | None:
        """The file; None where there is no such one."""
        reason = ""
        for attempt in range(ATTEMPTS):
            self._gate.wait()
            rest = BACKOFF * 2**attempt
            try:
                with ask(url, TIMEOUT, self._session()) as response:
                    if response.status_code in GONE:
                        return None
                    if response.status_code == requests.codes.ok:
                        content = b"".join(received(response, TIMEOUT[1], LARGEST))
                        if not HTML.match(content):
                            return content
                        reason = "is a web page, not a book"
                        break
                    reason = f"answered {status_of(response)}"
                    if response.status_code not in BUSY:
                        break
                    rest = retry_after(response.headers.get("Retry-After", "")) or rest
            except BadAnswer as error:
                reason = str(error)
            self._gate.rest(min(rest, PATIENCE))
        raise Refused(
            f"{public(url)} {reason}; what has come is kept, run it again to go on, "
            "or name another mirror in prepare.gutenberg.mirror"
        )

    def _session(self) -> requests.Session:
        """A connection of this thread's own."""
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
            self._sessions.session.headers["User-Agent"] = user_agent()
        session: requests.Session = self._sessions.session
        return session


def names(number: int) -> tuple[str, ...]:
    """Where mirrors keep a book's plain text, the likeliest and best encoded first.

    `cache/epub` holds what is made from the master files; those lie in a folder a digit, the last
    digit left out: 1342 in 1/3/4/1342. `-0` is UTF-8, `-8` some 8-bit encoding, neither is ASCII.
    """
    digits = "/".join(str(number)[:-1]) or "0"
    master = f"{digits}/{number}/{number}"
    return (
        f"cache/epub/{number}/pg{number}.txt",
        *(f"{master}{end}.txt" for end in ("-0", "-8", "")),
    )


def user_agent() -> str:
    try:
        number = version("lossbook")
    except PackageNotFoundError:  # run from a bare checkout
        number = "0"
    return f"Lossbook/{number} (a robot, collects texts to train a language model)"


def fetch_catalogue(settings: Gutenberg, sha256: str | None) -> Path:
    """The catalogue's file: a local one, or the cached copy of the URL, fetched where it must be.

    Raises:
        UserError: it cannot be had, or does not hash to `sha256`.
    """
    if "://" not in settings.catalogue:
        path = given_path(settings.catalogue, "prepare.gutenberg.catalogue")
        if not path.is_file():
            raise UserError(f"prepare.gutenberg.catalogue: there is no file {quoted(str(path))}")
        if sha256:
            check_sha256(path.name, path, sha256)
        return path
    return fetch(settings.catalogue, file_name(settings.catalogue), sha256, keep=True)
