"""Fetching over HTTP, from a server on this machine: once, whole, and right."""

from __future__ import annotations

import hashlib
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus import download
from pipeline.corpus.download import cache_folder, fetch, file_name
from pipeline.errors import UserError
from pipeline.system.http import public, retry_after

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


def test_retry_after_is_a_number_or_a_date() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=90)
    assert retry_after("120") == 120
    assert retry_after(format_datetime(moment, usegmt=True)) == pytest.approx(90, abs=5)
    assert retry_after(format_datetime(moment - timedelta(days=1), usegmt=True)) == 0
    assert [retry_after(value) for value in ("", "soon", "-1", "1e9")] == [None] * 4
