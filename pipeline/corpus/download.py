"""Fetch a file once and keep it for the user, outside any repository.

The cache is `LOSSBOOK_CACHE`, or the platform's cache folder. A file whose digest is known is
asked for only when it is not there or not right; one whose digest nobody knows is asked for
every time, since nothing else shows whether the URL still holds the same, unless the caller
would rather keep it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import unquote

import requests

from pipeline.errors import UserError
from pipeline.system.files import remove_left, sha256_of, written_aside
from pipeline.system.http import (
    HTML,
    BadAnswer,
    ask,
    content_length,
    public,
    received,
    split_url,
    status_of,
)
from pipeline.system.progress import Progress
from pipeline.system.user_cache import cache_folder

TIMEOUT = (5, 30)  # seconds: to connect, and between two bytes
BEGINNING = 1 << 12  # bytes in which a web page shows itself
LONGEST = 100  # bytes of a name, which systems limit to 255
WEB_PAGE = "is a web page, not a text file"


def fetch(url: str, name: str, sha256: str | None = None, *, keep: bool = False) -> Path:
    """The cached copy of `url`, a file called `name`, fetched where it has to be.

    Args:
        keep: take the cached copy without asking, where nobody says what it must hash to.

    Raises:
        UserError: the URL does not answer, answers with an error or a web page, with more than
            `received` takes, or with a file that does not hash to `sha256`. What was cached before
            stays.
    """
    place = cache_folder() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    target = place / name
    if target.is_file() and (sha256_of(target) == sha256 if sha256 else keep):
        return target
    with written_aside(target) as aside:
        remove_left(target)
        try:
            _download(url, aside)
        except BadAnswer as error:
            raise UserError(
                f"{public(url)} {error}; prepare.corpus may also be the path of a local copy"
            ) from None
        if sha256:
            check_sha256(public(url), aside, sha256)
    return target


def check_sha256(name: str, path: Path, sha256: str) -> None:
    """Compare a file's digest with the one it must have.

    Raises:
        UserError: they differ; names both.
    """
    found = sha256_of(path)
    if found != sha256:
        raise UserError(f"{name}: its sha256 is {found}, not the expected {sha256}")


def file_name(url: str) -> str:
    """The last part of the URL's path, safe as a file name: no separators, no leading dot.

    Raises:
        UserError: it is no URL.
    """
    last = unquote(split_url(url).path).rstrip("/").rsplit("/", 1)[-1]
    safe = re.sub(r"[^\w.-]", "_", last).encode()[-LONGEST:].decode(errors="ignore")
    return safe.lstrip(".") or "index"


def _download(url: str, target: Path) -> None:
    with ask(url, TIMEOUT) as response:
        if response.status_code != requests.codes.ok:
            raise BadAnswer(f"answered {status_of(response)}")
        if response.headers.get("Content-Type", "").startswith(("text/html", "application/xhtml")):
            raise BadAnswer(WEB_PAGE)
        bar = Progress(content_length(response), f"fetch {public(url)}", unit="byte", speed=True)
        beginning = b""
        with bar, open(target, "wb") as file:
            for block in received(response, TIMEOUT[1]):
                if len(beginning) < BEGINNING:
                    beginning += block[:BEGINNING]
                    if HTML.match(beginning):
                        raise BadAnswer(WEB_PAGE)
                file.write(block)
                bar.advance(len(block))
