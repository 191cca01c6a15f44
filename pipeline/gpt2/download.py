"""Download one large file over an unreliable connection: resumed after a break, whole or absent.

An attempt that breaks is followed by another that asks for the rest by range, on condition that
the file is still the same; a server that ignores the range, or has another file by now, sends the
whole, and the part starts again. A whole part is checked for size, `Content-MD5` and content, and
only then takes the file's name.

Attempts in a row without progress are bounded, with growing, jittered waits between them; any
real progress starts the count again, so a connection that breaks every minute still gets 6 GB.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin

from requests import Request, Response, Session, exceptions
from urllib3.exceptions import HTTPError, ReadTimeoutError

from pipeline.errors import Unavailable, UserError
from pipeline.gpt2.network import Patience
from pipeline.gpt2.part import Note, Part
from pipeline.system.http import HTML, public, reason_of, retry_after

BLOCK = 1 << 18
PROGRESS = 1 << 16  # bytes: what counts as progress of an attempt
TRICKLE = 1024  # bytes per second: a connection below it stalls
SLOWEST = 16384  # bytes per second: the mean below which a file is given up, after an hour
SMALL = 64 << 20  # bytes: more than any file whose size is not known beforehand
WRONG_DIGESTS = 2  # a file that arrives wrong twice is wrong at its source
REDIRECTS = 10
LENGTH = re.compile(r"[0-9]{1,15}")
RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")
AGAIN = (408, 425, 429)  # and every 5xx: statuses after which a later attempt may succeed


class _Broken(Exception):
    """An attempt that failed where the next may not; `wait` is what the server asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Download:
    """The download of one file from `url` to `target`.

    Args:
        expected: the bytes that the file must have, where that is known beforehand.
        check: called with the path of the whole part; raises UserError where it is damaged.
        on_progress: called with (bytes there, bytes in all or None) as they come.
    """

    def __init__(
        self,
        session: Session,
        url: str,
        target: Path,
        patience: Patience,
        *,
        expected: int | None = None,
        check: Callable[[Path], None] | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        self.session, self.url, self.patience = session, url, patience
        self.expected, self.check, self.on_progress = expected, check, on_progress
        self.part = Part(target, url, expected)
        self._wrong_digests = 0
        self._started = patience.clock()

    def run(self) -> str:
        """Download the file; return its SHA-256.

        Raises:
            Unavailable: it cannot be had; a part that may go on is kept.
            UserError: its content is not right.
        """
        failures, most = 0, self.part.have
        while True:
            try:
                if not self.part.is_whole:
                    self._attempt()
                return self._finish()
            except _Broken as error:
                have = self.part.have
                failures = 1 if have >= most + PROGRESS else failures + 1
                most = max(most, have)
                if failures >= self.patience.attempts:
                    raise self._unavailable(f"{error}, {failures} times in a row") from None
                wait = self.patience.wait_after(failures) if error.wait is None else error.wait
                self.patience.sleep(wait)

    def _attempt(self) -> None:
        """One request, from where the part ends."""
        have, note = self.part.have, self.part.note
        headers = {"Accept-Encoding": "identity"}
        if have and note is not None:
            headers["Range"] = f"bytes={have}-"
            if note.validator:
                headers["If-Range"] = note.validator
        with self._request(headers) as response:
            try:
                self._accept(response, have)
                self._receive(response)
            except OSError as error:  # the disk's: those of the network are caught where they come
                name = self.part.target.name
                raise Unavailable(f"{name} cannot be written: {error.strerror}") from None

    def _request(self, headers: dict[str, str]) -> Response:
        try:
            return self._followed(headers)
        except (
            exceptions.InvalidSchema,
            exceptions.TooManyRedirects,
            ValueError,  # of what is no URL, by requests, urllib3 or Python
        ) as error:
            raise self._unavailable(f"cannot be followed ({type(error).__name__})") from None
        except exceptions.Timeout:
            raise _Broken("does not answer") from None
        except exceptions.RequestException as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise self._unavailable("has a certificate that cannot be trusted") from None
            raise _Broken(_breaks_off(error)) from None

    def _followed(self, headers: dict[str, str]) -> Response:
        """The answer at the end of all redirects, whose bodies requests would read to their end."""
        timeout = (self.patience.connect, self.patience.stall)
        session, url = self.session, self.url
        for _ in range(REDIRECTS):
            request = session.prepare_request(Request("GET", url, headers=headers))
            settings = session.merge_environment_settings(url, {}, True, None, None)
            send = session.get_adapter(url).send
            response = send(request, timeout=timeout, **settings)  # type: ignore[arg-type]
            target = session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            url = urljoin(url, target)
        raise exceptions.TooManyRedirects

    def _accept(self, response: Response, have: int) -> None:
        """Look at status and headers; afterwards the part is ready for the body's first byte."""
        status = response.status_code
        if status in AGAIN or status >= 500:
            raise _Broken(f"answers {status}", self._asked_to_wait(response))
        if status == 416 or (status == 206 and not self._continues(response, have)):
            self.part.drop()
            raise _Broken("does not send the range asked for")
        if status not in (200, 206):
            raise self._unavailable(f"answers {status} {response.reason}".rstrip())
        if response.headers.get("Content-Type", "").startswith(("text/html", "application/xhtml")):
            raise self._unavailable("is a web page, not the file")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._unavailable("comes compressed, although asked not to")
        if status == 200:
            self.part.begin(self._note(response))

    def _asked_to_wait(self, response: Response) -> float | None:
        wait = retry_after(response.headers.get("Retry-After", ""))
        if wait is not None and wait > self.patience.longest_wait:
            raise self._unavailable(f"answers {response.status_code} and asks for a long wait")
        return wait

    def _continues(self, response: Response, have: int) -> bool:
        """Whether a 206 goes on exactly where the part ends, in the same file."""
        note = self.part.note
        found = RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if note is None or not have or found is None:
            return False
        start, end, total = map(int, found.groups())
        etag = response.headers.get("ETag")
        if etag and (note.validator or "").startswith('"') and etag != note.validator:
            return False
        return (start, end, total) == (have, total - 1, note.total)

    def _note(self, response: Response) -> Note:
        """What `response`, a whole file, is; refused where its size cannot be right."""
        length = LENGTH.fullmatch(response.headers.get("Content-Length", ""))
        total = int(length[0]) if length else None
        if self.expected is not None and total not in (None, self.expected):
            raise self._unavailable(f"has {total:,} bytes, but must have {self.expected:,}")
        if self.expected is None and (total or 0) > SMALL:
            raise self._unavailable(f"has {total:,} bytes, far too many for such a file")
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if total is None and self.expected is None and not chunked:
            raise self._unavailable("does not say how long it is")
        etag = response.headers.get("ETag", "")  # a weak one, W/"…", does not stand for the bytes
        return Note(
            url=self.url,
            validator=etag if etag.startswith('"') else response.headers.get("Last-Modified"),
            total=self.expected if total is None else total,
            md5=response.headers.get("Content-MD5"),
        )

    def _receive(self, response: Response) -> None:
        """Append the body to the part."""
        assert self.part.note is not None, "an accepted response has left a note"
        have, total = self.part.have, self.part.note.total
        since, then = self.patience.clock(), have
        with open(self.part.path, "ab") as file:
            while True:
                try:
                    # read1 hands over what is there: a trickle is seen, and a break loses nothing
                    block = response.raw.read1(BLOCK)
                except ReadTimeoutError:
                    raise _Broken("stalls") from None
                except (HTTPError, OSError) as error:
                    raise _Broken(_breaks_off(error)) from None
                if not block:
                    return
                if not have and HTML.match(block):
                    raise self._unavailable("is a web page, not the file")
                file.write(block)
                have += len(block)
                if have > (SMALL if total is None else total):
                    return  # `_finish` says so
                if self.on_progress is not None:
                    self.on_progress(have, total)
                since, then = self._check_pace(since, then, have)

    def _check_pace(self, since: float, then: int, have: int) -> tuple[float, int]:
        """The moment and the bytes from which to look at the pace again."""
        assert self.part.note is not None, "something is being received"
        now, most = self.patience.clock(), self.part.note.total or SMALL
        if now - self._started > 3600 + most / SLOWEST:
            raise self._unavailable("takes too long; a later attempt goes on from there")
        if now - since < self.patience.stall:
            return since, then
        if have - then < TRICKLE * (now - since):
            raise _Broken("stalls")
        return now, have

    def _finish(self) -> str:
        """Check the part and give it its name."""
        assert self.part.note is not None, "an attempt that went well left a note"
        have, total = self.part.have, self.part.note.total
        if total is not None and have < total:
            raise _Broken(f"breaks off after {have:,} of {total:,} bytes")
        if have > (SMALL if total is None else total):
            self.part.drop()
            raise _Broken("sends more than it should")
        sha256, md5 = self.part.digests()
        if self.part.note.md5 not in (None, md5):
            self._refuse_digest()
        if self.check is not None:
            try:
                self.check(self.part.path)
            except UserError:
                self.part.drop()
                raise
        self.part.finish()
        return sha256

    def _refuse_digest(self) -> NoReturn:
        self.part.drop()
        self._wrong_digests += 1
        if self._wrong_digests >= WRONG_DIGESTS:
            raise self._unavailable("does not match its Content-MD5")
        raise _Broken("does not match its Content-MD5")

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(f"{public(self.url)} {what}")


def _breaks_off(error: BaseException) -> str:
    reason = reason_of(error)
    return "breaks off" if reason == type(error).__name__ else f"breaks off ({reason})"
