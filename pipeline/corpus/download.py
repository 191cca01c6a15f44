"""Fetch a file once and keep it for the user, outside any repository.

The cache is `LOSSBOOK_CACHE`, or the platform's cache folder. A file whose digest is known is
asked for only when it is not there or not right; one whose digest nobody knows is asked for
every time, since nothing else shows whether the URL still holds the same, unless the caller
would rather keep it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import requests

from pipeline.errors import UserError
from pipeline.system.files import sha256_of, written_aside
from pipeline.system.http import HTML, public, reason_of, split_url
from pipeline.system.progress import Progress
from pipeline.system.user_cache import cache_folder

TIMEOUT = (5, 30)  # seconds: to connect, and between two bytes
BLOCK = 1 << 20


def fetch(url: str, name: str, sha256: str | None = None, *, keep: bool = False) -> Path:
    """The cached copy of `url`, a file called `name`, fetched where it has to be.

    Args:
        keep: take the cached copy without asking, where nobody says what it must hash to.

    Raises:
        UserError: the URL does not answer, answers with an error or a web page, or holds a file
            that does not hash to `sha256`. What was cached before stays.
    """
    place = cache_folder() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:16]
    target = place / name
    if target.is_file() and (sha256_of(target) == sha256 if sha256 else keep):
        return target
    with written_aside(target) as aside, _faults_named(url):
        _download(url, aside)
        if sha256:
            check_sha256(url, aside, sha256)
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
    return re.sub(r"[^\w.-]", "_", last).lstrip(".")[-100:] or "index"


def _download(url: str, target: Path) -> None:
    # identity: the bytes as they are stored, so that a .gz stays one and digests are the file's
    headers = {"User-Agent": "lossbook", "Accept-Encoding": "identity"}
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        if response.status_code != requests.codes.ok:
            raise _failed(url, f"answered {response.status_code} {response.reason}".rstrip())
        _refuse_html(url, response)
        size = int(response.headers.get("Content-Length") or 0) or None
        bar = Progress(size, f"fetch {public(url)}", unit="byte", speed=True)
        with bar, open(target, "wb") as file:
            for block in response.iter_content(BLOCK):
                if not file.tell() and HTML.match(block):
                    raise _web_page(url)
                file.write(block)
                bar.advance(len(block))


def _refuse_html(url: str, response: requests.Response) -> None:
    if response.headers.get("Content-Type", "").startswith(("text/html", "application/xhtml")):
        raise _web_page(url)


@contextmanager
def _faults_named(url: str) -> Iterator[None]:
    try:
        yield
    except requests.exceptions.Timeout:
        raise _failed(url, "does not answer") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
        raise _failed(url, "is not a valid URL") from None
    except requests.RequestException as error:
        raise _failed(url, f"cannot be fetched ({reason_of(error)})") from None


def _failed(url: str, what: str) -> UserError:
    return UserError(f"{public(url)} {what}; prepare.corpus may also be the path of a local copy")


def _web_page(url: str) -> UserError:
    return _failed(url, "is a web page, not a text file")
