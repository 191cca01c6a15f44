"""URLs without their secrets, requests and answers with bounds, network errors in people's words.

A server may send anything, at any pace. So an answer has `ANSWER` seconds to begin, redirects and
all; a body is read as a stream that ends where it is larger than is asked for, unpacks to far more
than was sent, or comes slower than a trickle.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

import requests
from requests import exceptions
from urllib3.exceptions import HTTPError, ReadTimeoutError

from pipeline.errors import UserError
from pipeline.system.files import most_unpacked
from pipeline.system.text import printable, quoted, shortened

# The beginning of a web page, where a file of text or weights was asked for. Possessive: what was
# matched once is not tried in another way, so that no bytes take longer than their number.
HTML = re.compile(
    rb"\s*+(?:<!--(?>.*?-->)\s*+)*+<(?:!doctype\s++html|html)[\s>]", re.IGNORECASE | re.DOTALL
)
ANSWER = 120.0  # seconds until the headers of an answer are there, after all redirects
LARGEST = 1 << 36  # bytes of a file that is fetched: 64 GiB
UNSAID = 1 << 30  # bytes of one whose size the server does not say beforehand
TRICKLE = 1024  # bytes per second: a connection below it stalls
BLOCK = 1 << 20


class BadAnswer(Exception):
    """An answer that is not used: what is wrong with it, to be said after its URL."""


def ask(
    url: str,
    timeout: tuple[float, float],
    session: requests.Session | None = None,
) -> requests.Response:
    """GET the URL; the body is still to be read, as `received` does.

    Args:
        timeout: seconds to connect, and between two bytes.

    Raises:
        BadAnswer: it is no URL, or nothing answers there within `ANSWER` seconds.
    """
    # identity: the bytes as they are stored, so that a .gz stays one and digests are the file's
    headers = {"Accept-Encoding": "identity"} | ({} if session else {"User-Agent": "lossbook"})
    answers: queue.Queue[requests.Response | Exception] = queue.Queue()

    # Names may be looked up, and headers drip in, for longer than any timeout that can be set: a
    # thread that takes too long is left behind.
    def get() -> None:
        try:
            asking = session or requests
            answers.put(asking.get(url, stream=True, timeout=timeout, headers=headers))
        except Exception as error:  # raised below
            answers.put(error)

    threading.Thread(target=get, daemon=True).start()
    try:
        found = answers.get(timeout=ANSWER)
        if isinstance(found, Exception):
            raise found
        return found
    except (queue.Empty, exceptions.Timeout):
        raise BadAnswer("does not answer") from None
    except exceptions.TooManyRedirects:
        raise BadAnswer("redirects without end") from None
    except ValueError as error:  # requests' own, and those that it lets through
        what = f"is not a valid URL, or leads to one that is not ({_words(error)})"
        raise BadAnswer(what) from None
    except exceptions.RequestException as error:
        raise BadAnswer(f"cannot be fetched ({reason_of(error)})") from None


def received(
    response: requests.Response, stall: float, largest: int | None = None
) -> Iterator[bytes]:
    """The body in blocks as they come.

    Args:
        stall: seconds after which a connection that gives less than a trickle is given up.
        largest: the bytes that the body may have; `LARGEST` where None.

    Raises:
        BadAnswer: it breaks off, stalls, is too large, or is packed and unpacks to far more than
            its size.
    """
    size, most = content_length(response), largest or LARGEST
    if size is None:
        most = min(most, UNSAID)
    elif size > most:
        raise BadAnswer(f"has {size:,} bytes; up to {most:,} are fetched")
    have = then = 0
    since = time.monotonic()
    while block := _next_block(response):
        have += len(block)
        if have > most:
            unsaid = " of a body whose size is not said" if size is None else ""
            raise BadAnswer(f"sends more than the {most:,} bytes that are fetched{unsaid}")
        if have > most_unpacked(response.raw.tell()):
            raise BadAnswer("is packed, and unpacks to far more than its size")
        yield block
        now = time.monotonic()
        if now - since >= stall:
            if have - then < TRICKLE * (now - since):
                raise BadAnswer(f"sends less than {TRICKLE:,} bytes per second")
            since, then = now, have


def _next_block(response: requests.Response) -> bytes:
    try:
        # read1 hands over what is there, so that a trickle is seen
        return bytes(response.raw.read1(BLOCK, decode_content=True))
    except ReadTimeoutError:
        raise BadAnswer("does not answer") from None
    except (HTTPError, OSError) as error:
        raise BadAnswer(f"cannot be fetched ({reason_of(error)})") from None


def content_length(response: requests.Response) -> int | None:
    """The bytes that the server says it sends; None where it does not say a number."""
    length = response.headers.get("Content-Length", "").strip()
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None


def status_of(response: requests.Response) -> str:
    """The status of an answer, with the server's word for it."""
    return f"{response.status_code} {_words(response.reason or '')}".rstrip()


def public(url: str) -> str:
    """The URL without user, password, query and fragment, which may hold secrets.

    Raises:
        UserError: it is no URL.
    """
    parts = split_url(url)
    shown = f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}"
    return shortened(printable(shown, keep=""), 200)


def split_url(url: str) -> SplitResult:
    """The URL in its parts.

    Raises:
        UserError: it is no URL.
    """
    try:
        return urlsplit(url)
    except ValueError:
        raise UserError(f"{quoted(url)} is not a valid URL") from None


def retry_after(value: str) -> float | None:
    """The seconds that a `Retry-After` header asks for, as a number or as a date."""
    try:
        if value.strip().isdigit():
            return float(value)
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, OverflowError):
        return None


def reason_of(error: BaseException) -> str:
    """The system's own words, found at the bottom of what wraps them."""
    reason = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return reason


def _words(of: object) -> str:
    return shortened(printable(" ".join(str(of).split()), keep=""))
