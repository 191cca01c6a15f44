"""Corpora under URLs that fsspec opens; each protocol by its own client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.corpus.corpora import prepare
from pipeline.corpus.parquet import Corpus
from pipeline.params import Prepare

TALES = {
    "README.md": "A card, which is no tale.",
    "data/a.jsonl": '{"text": "one"}\n{"text": "two"}\n',
    "data/b.txt": "three",
    "data/notes.csv": "a,b",
}


@pytest.fixture
def hub(web: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub on this machine with one data set; what fsspec takes for the Hub."""
    listing = [
        {"type": "file", "path": name, "size": len(text), "oid": "0" * 40}
        for name, text in TALES.items()
    ]
    web.url("/api/datasets/me/tales", json.dumps({"id": "me/tales", "sha": "0" * 40}))
    for folder in ("", "/data"):
        found = [file for file in listing if str(file["path"]).startswith(folder.lstrip("/"))]
        web.url(f"/api/datasets/me/tales/tree/main{folder}", json.dumps(found))
    for name, text in TALES.items():
        web.url(f"/datasets/me/tales/resolve/main/{name}", text)
    address = f"http://127.0.0.1:{web.server_address[1]}"
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": address})
    return web


def test_a_data_set_of_the_hub(tmp_path: Path, hub: Any) -> None:
    url = "hf://datasets/me/tales"
    report = prepare(Prepare(corpus=url), tmp_path / "corpus")
    assert (report.corpus, report.documents, report.skipped) == (url, 3, {})
    rows = list(Corpus.open(tmp_path / "corpus").rows())
    assert [(row.source, row.text) for row in rows] == [
        ("data/a.jsonl:1", "one"),
        ("data/a.jsonl:2", "two"),
        ("data/b.txt", "three"),
    ]
    assert "/datasets/me/tales/resolve/main/README.md" not in hub.asked


def test_a_file_that_the_hub_has_lost_is_told_in_a_line(tmp_path: Path, hub: Any) -> None:
    del hub.answers["/datasets/me/tales/resolve/main/data/b.txt"]
    report = prepare(Prepare(corpus="hf://datasets/me/tales"), tmp_path / "corpus")
    assert report.skipped == {"unreadable": 1}
    (lost,) = Corpus.open(tmp_path / "corpus").left_out()
    assert lost["detail"].startswith("data/b.txt: ")
    assert "\n" not in lost["detail"]


def test_a_client_is_given_no_options_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3's ends in a TypeError where it is given the size of a read."""

    def strict(self: MemoryFileSystem) -> None:
        AbstractFileSystem.__init__(self)

    monkeypatch.setattr(MemoryFileSystem, "__init__", strict)
    url = f"memory://{tmp_path.name}/story.txt"
    fsspec.filesystem("memory").pipe(url, b"one")
    assert prepare(Prepare(corpus=url), tmp_path / "corpus").characters == 3
