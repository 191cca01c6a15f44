"""A mirror on this machine, with everything that the real ones have: what comes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.corpora import prepare
from pipeline.corpus.gutenberg import mirror
from pipeline.corpus.parquet import Corpus
from pipeline.errors import UserError
from pipeline.params import Gutenberg, Prepare
from tests.helpers.bookshop import Shop, furnish, modern, tale
from tests.helpers.hostile import Fault, Hostile

STORM = Fault(status=503, headers={"Retry-After": "1"})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "BACKOFF", 0.001)
    monkeypatch.setattr(mirror, "PATIENCE", 0.01)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return furnish()


def settings_for(server: Hostile, **given: Any) -> Prepare:
    server.files.setdefault("/pg_catalog.csv.gz", b"")
    settings: dict[str, Any] = {
        "mirror": server.address,
        "catalogue": f"{server.address}/pg_catalog.csv.gz",
        "limit": None,
        "pause": 0.0,
        "connections": 4,
    }
    return Prepare(corpus="gutenberg", gutenberg=Gutenberg(**settings | given))


def stock(server: Hostile, shop: Shop) -> None:
    server.files = {**shop.files, "/pg_catalog.csv.gz": shop.catalogue()}


def number_of(row: Any) -> int:
    return int(row.id.removeprefix("pg"))


def answered(server: Hostile) -> Counter[str]:
    """How often each path was answered with a file."""
    return Counter(request.path for request in server.requests if request.sent)


def test_the_right_books_in_and_the_right_reasons_out(
    tmp_path: Path, cache: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "ATTEMPTS", 26)  # one request may meet the whole storm
    with Hostile.running() as server:
        stock(server, shop)
        server.faults = [*[Fault()] * 60, *[STORM] * 25]
        report = prepare(settings_for(server), tmp_path / "corpus")
        agents = {request.headers["User-Agent"] for request in server.requests}
        twice = [path for path, count in answered(server).items() if count > 1]
    corpus = Corpus.open(tmp_path / "corpus")
    assert {number_of(row): row.text for row in corpus.rows()} == shop.kept
    assert report.skipped == Counter(shop.left_out.values())
    left_out = {int(row["source"][2:].split(".")[0]): row for row in corpus.left_out()}
    assert {number: row["reason"] for number, row in left_out.items()} == shop.left_out
    assert (left_out[1001]["detail"], left_out[1011]["detail"]) == ("fr", "de")
    assert left_out[1021]["detail"] == "pg21"
    assert left_out[1031]["title"] == "Tale No. 1031, with a second line"
    assert (report.chosen, report.source) == (len(shop.rows) - 3, server.address)
    assert twice == []
    assert any("robot" in name for name in agents)


def test_what_is_there_is_not_asked_for_again(tmp_path: Path, cache: Path) -> None:
    shop = furnish(20)
    with Hostile.running() as server:
        stock(server, shop)
        first = prepare(settings_for(server), tmp_path / "one")
        before = len(server.requests)
        assert prepare(settings_for(server), tmp_path / "two") == first
        assert len(server.requests) == before  # dead links and the catalogue included
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


PREPARE = """
import sys
from pathlib import Path
from pipeline.corpus.corpora import prepare
from pipeline.params import Prepare

prepare(Prepare.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def test_killed_and_resumed(tmp_path: Path, cache: Path) -> None:
    shop = furnish(60)
    with Hostile.running() as server:
        stock(server, shop)
        settings = settings_for(server, pause=0.005)
        command = [sys.executable, "-c", PREPARE, settings.model_dump_json()]
        process = subprocess.Popen(
            [*command, str(tmp_path / "corpus")],
            env={**os.environ, "LOSSBOOK_CACHE": str(cache)},
            stderr=subprocess.DEVNULL,
        )
        while len(server.requests) < 40 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        time.sleep(0.1)  # for the answers under way to be counted
        assert not (tmp_path / "corpus").exists()
        before = answered(server)
        whole = {p.name for p in (cache / "gutenberg").rglob("*.txt") if p.name[0] != "."}
        prepare(settings, tmp_path / "corpus")
        again = answered(server) - before
    assert 10 < len(whole) < 70
    assert not {Path(path).name for path in again} & whole
    corpus = Corpus.open(tmp_path / "corpus")
    assert {number_of(row): row.text for row in corpus.rows()} == shop.kept


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(status=403), "answered 403"),
        (Fault(status=503), "answered 503"),
        (Fault(body=b"<!DOCTYPE html><html>Please log in to this network"), "is a web page"),
        (Fault(cut=9), "cannot be fetched"),
    ],
)
def test_a_mirror_that_refuses_ends_the_work_and_keeps_what_came(
    tmp_path: Path, cache: Path, fault: Fault, said: str
) -> None:
    with Hostile.running() as server:
        stock(server, furnish(20))
        server.faults = [Fault()] * 10
        server.always = fault
        with pytest.raises(UserError, match=f"{said}.*prepare.gutenberg.mirror") as caught:
            prepare(settings_for(server), tmp_path / "corpus")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "corpus").exists()
    assert len(list((cache / "gutenberg").rglob("*.txt"))) > 3


@pytest.mark.parametrize("connections", [1, 4])
def test_a_file_that_the_mirror_cannot_give_is_one_dead_link(
    tmp_path: Path, cache: Path, connections: int
) -> None:
    shop = furnish(12)
    with Hostile.running() as server:
        stock(server, shop)
        server.always_at = {"/cache/epub/3/pg3.txt": Fault(status=500)}
        only = settings_for(server, ids=(3,), connections=connections)
        with pytest.raises(UserError, match="answered 500"):
            prepare(only, tmp_path / "corpus")
        settings = settings_for(server, ids=tuple(range(1, 13)), connections=connections)
        report = prepare(settings, tmp_path / "corpus")
        assert (report.documents, report.skipped) == (11, {"dead link": 1})
        before = len(server.requests)
        assert prepare(settings, tmp_path / "corpus") == report
        assert len(server.requests) == before


def test_one_refusal_holds_all_connections_back(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    rest = mirror.Gate.rest
    monkeypatch.setattr(mirror, "PATIENCE", 0.05)

    def noted(gate: mirror.Gate, seconds: float) -> None:
        rests.append(seconds)
        rest(gate, seconds)

    monkeypatch.setattr(mirror.Gate, "rest", noted)
    with Hostile.running() as server:
        stock(server, furnish(6))
        server.faults = [Fault(), Fault(status=503, headers={"Retry-After": "86400"})]
        prepare(settings_for(server, connections=1), tmp_path / "corpus")
    assert rests == [0.05]


def test_the_gate_spaces_requests() -> None:
    gate = mirror.Gate(0.02)
    started = time.monotonic()
    for _ in range(4):
        gate.wait()
    assert time.monotonic() - started >= 0.06
    gate.rest(0.05)
    started = time.monotonic()
    gate.wait()
    assert time.monotonic() - started >= 0.04


def test_another_language_may_be_asked_for(tmp_path: Path, cache: Path) -> None:
    shop = Shop()
    for number, language in ((1, "fr"), (2, "en"), (3, "fr")):
        shop.list(number, language=language)
        shop.put(f"cache/epub/{number}/pg{number}.txt", modern(tale(number)))
    from tests.helpers.bookshop import FRENCH

    shop.put("cache/epub/3/pg3.txt", modern(FRENCH * 10))
    with Hostile.running() as server:
        stock(server, shop)
        report = prepare(settings_for(server, language="fr"), tmp_path / "corpus")
    assert report.skipped == {"language": 1}
    assert [row.id for row in Corpus.open(tmp_path / "corpus").rows()] == ["pg3"]


def test_nothing_chosen_is_said(tmp_path: Path, cache: Path) -> None:
    with Hostile.running() as server:
        stock(server, furnish(3))
        with pytest.raises(UserError, match=r"prepare\.gutenberg: no text of the catalogue"):
            prepare(settings_for(server, authors=("Nobody",)), tmp_path / "corpus")


def test_nothing_left_is_said_with_the_reasons(tmp_path: Path, cache: Path) -> None:
    with Hostile.running() as server:
        stock(server, furnish(3))
        settings = settings_for(server, ids=(1001, 1031))
        with pytest.raises(UserError, match=r"gutenberg is empty: .* are 1 language, 1 dead link"):
            prepare(settings, tmp_path / "corpus")
