"""Who is there, known fast, with proxies where the environment names them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
import requests

from pipeline.errors import Unavailable
from pipeline.gpt2.download import Download
from pipeline.gpt2.network import Patience, reachable
from tests.helpers.hostile import Hostile


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_who_answers_is_kept_in_order(hostile: Hostile, closed: str) -> None:
    other = hostile.address.replace("127.0.0.1", "localhost")
    assert reachable([other, closed, hostile.address]) == [other, hostile.address]


def test_nobody_is_one_line_that_says_why(closed: str) -> None:
    with pytest.raises(Unavailable, match=r"^127.0.0.1 cannot be reached \(Connection refused\)$"):
        reachable([closed])


def test_a_lookup_that_hangs_is_left_behind(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `getaddrinfo` does without a network, whatever timeout is asked for."""
    connect, over = socket.create_connection, threading.Event()

    def hang(address: tuple[str, int], timeout: float) -> socket.socket:
        if address[0] == "hangs.example":
            over.wait()
        return connect(address, timeout)

    monkeypatch.setattr(socket, "create_connection", hang)
    hangs = "https://hangs.example"
    try:
        assert reachable([hangs, hostile.address], seconds=0.5) == [hostile.address]
        with pytest.raises(Unavailable, match=r"hangs.example cannot be reached \(no answer\)"):
            reachable([hangs], seconds=0.05)
    finally:
        over.set()


def test_the_proxy_is_asked_in_place_of_the_host(
    hostile: Hostile, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", hostile.address)
    assert reachable(["http://models.example/gpt2"]) == ["http://models.example/gpt2"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert reachable([hostile.address, closed]) == [hostile.address]
    monkeypatch.setenv("http_proxy", closed.removeprefix("http://"))
    with pytest.raises(Unavailable, match=r"models\.example"):
        reachable(["http://models.example/gpt2"])


def test_a_download_goes_through_the_proxy(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", hostile.address)
    url = "http://models.example/124M/checkpoint"
    hostile.files[url] = b"through the proxy"  # a proxy is asked for whole URLs
    with requests.Session() as session:
        Download(session, url, tmp_path / "checkpoint", Patience()).run()
    assert (tmp_path / "checkpoint").read_bytes() == b"through the proxy"
