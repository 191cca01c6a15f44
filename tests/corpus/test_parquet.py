"""The corpus on disk: counted, digested, cut into rows, groups and files that stay small."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.corpus import parquet
from pipeline.corpus.documents import Document
from pipeline.corpus.parquet import Corpus, CorpusMeta, CorpusWriter
from pipeline.errors import UserError


def write(folder: Path, *texts: str | list[str]) -> CorpusMeta:
    """A corpus of these texts; a list is a document in parts."""
    folder.mkdir()
    writer = CorpusWriter(folder)
    for number, text in enumerate(texts):
        parts: Iterable[str] = [text] if isinstance(text, str) else text
        writer.write(Document(f"id{number}", f"No. {number}", f"{number}.txt", parts))
    return writer.close("mine")


def test_a_row_a_document(tmp_path: Path) -> None:
    meta = write(tmp_path / "corpus", "naïve", "two\r\n")
    assert (meta.documents, meta.characters, meta.bytes) == (2, 10, 11)
    frame = pd.read_parquet(tmp_path / "corpus")  # the folder as it is, _meta.json and all
    assert frame.to_dict("records") == [
        {"id": "id0", "title": "No. 0", "source": "0.txt", "text": "naïve"},
        {"id": "id1", "title": "No. 1", "source": "1.txt", "text": "two\r\n"},
    ]
    assert list(Corpus.open(tmp_path / "corpus").ids()) == ["id0", "id1"]
    assert [tuple(row) for row in Corpus.open(tmp_path / "corpus").rows()] == [
        tuple(row) for row in frame.itertuples(index=False)
    ]


def test_the_digest_of_one_document_is_its_texts(tmp_path: Path) -> None:
    meta = write(tmp_path / "one", ["A sto", "ry"])
    assert meta.sha256 == hashlib.sha256(b"A story").hexdigest()
    assert meta.sha256 == write(tmp_path / "whole", "A story").sha256


def test_the_digest_distinguishes_documents(tmp_path: Path) -> None:
    corpora = [["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"]]
    metas = [write(tmp_path / str(n), *texts) for n, texts in enumerate(corpora)]
    assert len({meta.sha256 for meta in metas}) == len(corpora)


def test_a_long_document_goes_on_in_the_next_rows(tmp_path: Path) -> None:
    meta = write(tmp_path / "corpus", ["a", "b", "c"], "d")
    rows = list(Corpus.open(tmp_path / "corpus").rows())
    assert [(row.id, row.text) for row in rows] == [
        ("id0", "a"),
        ("id0", "b"),
        ("id0", "c"),
        ("id1", "d"),
    ]
    assert meta.documents == 2


def test_documents_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    writer = CorpusWriter(tmp_path / "corpus")
    for number, parts in enumerate([[], [""], [" \n\t"], ["x"], [" ", "x"]]):
        writer.write(Document(str(number), "", str(number), parts))
    assert (writer.documents, writer.left_out) == (2, {"empty": 3})


def test_files_and_row_groups_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP", 10)
    monkeypatch.setattr(parquet, "SHARD", 30)
    texts = [f"text{n:02d}" for n in range(20)]  # 6 bytes each
    meta = write(tmp_path / "corpus", *texts)
    assert [shard.rows for shard in meta.shards] == [6, 6, 6, 2]
    shard = pq.ParquetFile(tmp_path / "corpus" / "00000.parquet")
    assert [shard.metadata.row_group(n).num_rows for n in range(3)] == [2, 2, 2]
    assert [row.text for row in Corpus.open(tmp_path / "corpus").rows()] == texts


def test_equal_documents_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, "one", "two")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no _meta.json": lambda folder: (folder / "_meta.json").unlink(),
    "_meta.json cut": spoil("_meta.json", lambda content: content[:20]),
    "_meta.json of something else": lambda folder: (folder / "_meta.json").write_text("{}"),
    "no shard": lambda folder: (folder / "00000.parquet").unlink(),
    "shard cut": spoil("00000.parquet", lambda content: content[:-9]),
    "shard empty": spoil("00000.parquet", lambda content: b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "corpus", "text")
    DAMAGES[damage](tmp_path / "corpus")
    with pytest.raises(UserError, match=r"corpus.*dvc repro") as caught:
        list(Corpus.open(tmp_path / "corpus").rows())
    assert "\n" not in str(caught.value)


def test_meta_is_the_mark_of_a_whole_corpus(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    writer = CorpusWriter(tmp_path / "corpus")
    writer.write(Document("a", "", "a", ["text"]))
    assert not (tmp_path / "corpus" / "_meta.json").exists()
    writer.close("mine")
    assert json.loads((tmp_path / "corpus" / "_meta.json").read_text())["corpus"] == "mine"
