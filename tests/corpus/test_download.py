"""Fetching over HTTP, from a server on this machine: once, whole, and right."""

from __future__ import annotations

import gzip
import hashlib
import os
import platform
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.corpus import download
from pipeline.corpus.download import cache_folder, fetch, file_name
from pipeline.errors import UserError
from pipeline.system import files, http
from pipeline.system.http import content_length, public, retry_after
from tests.helpers.hostile import Fault, Hostile

STORY = b"Once upon a time.\n"
SHA256 = hashlib.sha256(STORY).hexdigest()


def test_a_file_of_known_digest_is_fetched_once(web: Any, cache: Path) -> None:
    url = web.url("/story.txt", STORY)
    first = fetch(url, "story.txt", SHA256)
    assert first.read_bytes() == STORY
    assert first.is_relative_to(cache)
    assert fetch(url, "story.txt", SHA256) == first
    assert web.asked == ["/story.txt"]


def test_a_damaged_copy_is_fetched_again(web: Any, cache: Path) -> None:
    url = web.url("/story.txt", STORY)
    fetch(url, "story.txt", SHA256).write_bytes(STORY[:5])
    assert fetch(url, "story.txt", SHA256).read_bytes() == STORY
    assert len(web.asked) == 2


def test_a_file_of_unknown_digest_is_fetched_each_time(web: Any, cache: Path) -> None:
    url = web.url("/story.txt", "first")
    fetch(url, "story.txt")
    web.url("/story.txt", "second")
    assert fetch(url, "story.txt").read_text() == "second"


def test_a_wrong_digest_names_both_and_keeps_what_was_there(web: Any, cache: Path) -> None:
    kept = fetch(web.url("/story.txt", STORY), "story.txt")
    url = web.url("/story.txt", "another")
    with pytest.raises(UserError) as caught:
        fetch(url, "story.txt", "0" * 64)
    assert hashlib.sha256(b"another").hexdigest() in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert kept.read_bytes() == STORY
    assert [path.name for path in kept.parent.iterdir()] == ["story.txt"]


def test_redirects_are_followed(web: Any, cache: Path) -> None:
    there = web.url("/there.txt", STORY)
    here = web.url("/here.txt", status=302, headers={"Location": there})
    assert fetch(here, "here.txt").read_bytes() == STORY


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 404}, "answered 404 Not Found"),
        ({"status": 503}, "answered 503"),
        ({"body": "<p>hello", "headers": {"Content-Type": "text/html; charset=utf-8"}}, "web page"),
        ({"body": "\n<!DOCTYPE html>\n<html>"}, "web page"),
        ({"body": "<!-- a -->\n<HTML lang='en'>"}, "web page"),
        ({"body": "cut", "headers": {"Content-Length": "1000"}}, "cannot be fetched"),
        ({"silent": True}, "does not answer"),
    ],
)
def test_failures_are_named(
    web: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (0.5, 0.5))
    with pytest.raises(UserError, match=said) as caught:
        fetch(web.url("/story.txt", **answer), "story.txt")
    assert "path of a local copy" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"body": "x" * 100_001}, "has 100,001 bytes; up to 100,000 are"),
        ({"status": 302, "headers": {"Location": "/story.txt"}}, "redirects without end"),
        ({"status": 302, "headers": {"Location": "http://[::1"}}, "leads to one that is not"),
        ({"status": 302, "headers": {"Location": "http://.../"}}, "leads to one that is not"),
        ({"status": 302, "headers": {"Location": "file:///etc/passwd"}}, "leads to one that is"),
        ({"body": gzip.compress(bytes(90_000)), "headers": {"Content-Encoding": "gzip"}}, "unpack"),
        ({"body": "no gzip", "headers": {"Content-Encoding": "gzip"}}, "cannot be fetched"),
    ],
)
def test_answers_have_bounds(
    web: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(files, "ANY_UNPACKED", 1000)
    monkeypatch.setattr(http, "LARGEST", 100_000)
    with pytest.raises(UserError, match=said) as caught:
        fetch(web.url("/story.txt", **answer), "story.txt")
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_body_without_an_end_is_left(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "UNSAID", 100_000)
    with Hostile.running() as server:
        server.files["/a.txt"] = b"x" * 1_000_000
        server.always = Fault(chunked=True)
        with pytest.raises(UserError, match=r"more than the 100,000 bytes .* size is not said"):
            fetch(f"{server.address}/a.txt", "a.txt")
        server.files["/a.txt"] = STORY
        assert fetch(f"{server.address}/a.txt", "a.txt").read_bytes() == STORY


def test_a_drip_is_left(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.5))
    with Hostile.running() as server:
        server.files["/a.txt"] = b"x" * 1000
        server.always = Fault(stall=5, trickle=True)  # a byte every 50 ms
        with pytest.raises(UserError, match="sends less than 1,024 bytes per second"):
            fetch(f"{server.address}/a.txt", "a.txt")


def test_headers_that_drip_are_left(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not done.wait(0.05):
                    connection.sendall(b"X")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(UserError, match="does not answer"):
                fetch(f"http://127.0.0.1:{server.getsockname()[1]}/a.txt", "a.txt")
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize("length", ["abc", "-1", "1, 2", "9" * 5000, "²", ""])
def test_a_length_that_is_no_number_is_none(cache: Path, web: Any, length: str) -> None:
    response = requests.Response()
    response.headers["Content-Length"] = length
    assert content_length(response) is None
    if length in ("abc", ""):
        url = web.url("/story.txt", STORY, headers={"Content-Length": length})
        assert fetch(url, "story.txt").read_bytes() == STORY


def test_what_a_killed_process_left_is_removed(web: Any, cache: Path) -> None:
    url = web.url("/story.txt", STORY)
    target = fetch(url, "story.txt")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f".story.txt.{pid}{host}.part" for pid in (gone.pid, os.getpid()) for host in HOSTS]
    for name in names:
        target.with_name(name).write_bytes(b"half")
    fetch(url, "story.txt")
    left = {path.name for path in target.parent.iterdir()} - {"story.txt"}
    assert left == {
        f".story.txt.{gone.pid}@elsewhere.part",
        f".story.txt.{os.getpid()}.part",
        f".story.txt.{os.getpid()}@elsewhere.part",
    }


HOSTS = ("", f"@{platform.node()}", "@elsewhere")


def test_text_that_speaks_of_html_is_text(web: Any, cache: Path) -> None:
    body = "The tag <html> opens a page; <!DOCTYPE html> comes before it."
    assert fetch(web.url("/story.txt", body), "story.txt").read_text() == body


def test_nobody_listens(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match="Connection refused"):
        fetch(f"http://127.0.0.1:{port}/story.txt", "story.txt")


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a b/", "https://.../x.txt"])
def test_what_is_no_url(cache: Path, url: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch(url, "story.txt")
    assert "\n" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    url = "https://me:secret@example.org:8443/a/story.txt?token=secret#secret"
    assert public(url) == "https://example.org:8443/a/story.txt"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/story.txt.gz?x=1", "story.txt.gz"),
        ("https://example.org/a/My%20Story.md", "My_Story.md"),
        ("https://example.org/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://example.org/.hidden.txt", "hidden.txt"),
        ("https://example.org", "index"),
        ("https://example.org/" + "é" * 200 + ".txt", "é" * 48 + ".txt"),
    ],
)
def test_file_names_are_safe(url: str, name: str) -> None:
    assert file_name(url) == name


def test_the_cache_is_the_users_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSBOOK_CACHE", "~/elsewhere")
    assert cache_folder() == Path("~/elsewhere").expanduser()
    monkeypatch.delenv("LOSSBOOK_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder().name == "lossbook"


def test_a_cache_that_can_be_no_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSBOOK_CACHE", "~nosuchuser/cache")
    with pytest.raises(UserError, match=r"LOSSBOOK_CACHE: '~nosuchuser/cache' is not a path"):
        cache_folder()


def test_retry_after_is_a_number_or_a_date() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=90)
    assert retry_after("120") == 120
    assert retry_after(format_datetime(moment, usegmt=True)) == pytest.approx(90, abs=5)
    assert retry_after(format_datetime(moment - timedelta(days=1), usegmt=True)) == 0
    assert [retry_after(value) for value in ("", "soon", "-1", "1e9")] == [None] * 4
