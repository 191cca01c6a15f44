"""A prepared corpus on disk: Parquet shards of documents, and a `_meta.json` that sums them up.

The columns are the strings `id`, `title`, `source` and `text`, one row a document. A document of
more than `documents.PART` characters goes on in the next rows, with the same id and source, so
that neither writing nor reading ever holds more than some parts. `_meta.json` is written last:
where it stands, the corpus is whole. What was left out stands in `_left_out.jsonl`, if anything
was. `_meta.json` also tells of each row group how many characters it holds
and whether its first row continues the document before it, so that groups can be read apart.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.corpus.documents import Document, LeftOut
from pipeline.corpus.statistics import TextStatistics
from pipeline.corpus.storage import BLOCK
from pipeline.errors import UserError
from pipeline.system.files import read_json, write_json

if TYPE_CHECKING:
    import pyarrow.parquet as pq

META = "_meta.json"  # readers of Parquet folders pass over names that begin so
LEFT_OUT = "_left_out.jsonl"
GROUP = 1 << 21  # bytes of text in a row group: what is held while writing, and a worker's part
SHARD = 1 << 28  # bytes of text in a file


class Row(NamedTuple):
    """A document, or a part of one that is too long for a row."""

    id: str
    title: str
    source: str
    text: str


class CorpusWriter:
    """Writes documents into the shards of an empty folder, and counts what it writes.

    The digest is the SHA-256 of the texts in order, joined by the byte FF, which UTF-8 never
    holds: for one document it is that of its text, hence of a file without BOM and CRLF.
    """

    def __init__(self, folder: Path):
        self.documents = self.characters = self.bytes = 0
        self.statistics = TextStatistics()
        self.left_out: Counter[str] = Counter()  # documents by reason
        self._folder = folder
        self._digest = hashlib.sha256()
        self._rows: list[Row] = []
        self._waiting = 0  # bytes of text in _rows
        self._continued = False  # whether _rows begins within a document
        self._shards: list[dict[str, Any]] = []
        self._file: pq.ParquetWriter | None = None

    def write(self, document: Document) -> None:
        """Append a document; one without a character that is no blank is counted and left out."""
        parts = iter(document.parts)
        first = next(parts, "")
        second = next(parts, None)
        if second is None and not first.strip():
            self.leave_out(LeftOut(document.source, document.title, "empty"))
            return
        if self.documents:
            self._digest.update(b"\xff")
        self.documents += 1
        before = self.characters
        parts = chain([first], [] if second is None else [second], parts)
        for number, part in enumerate(parts):
            if not self._rows:
                self._continued = number > 0
            self._append(Row(document.id, document.title, document.source, part))
        self.statistics.add(document.title, document.source, first, self.characters - before)

    def leave_out(self, document: LeftOut) -> None:
        """Count a document that is not written, and note it."""
        self.left_out[document.reason] += 1
        with open(self._folder / LEFT_OUT, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")

    def close(self, name: str) -> dict[str, Any]:
        """Write what waits and `_meta.json`; return what that holds."""
        self._flush()
        self._end_shard()
        meta = {
            "corpus": name,
            "sha256": self._digest.hexdigest(),
            "documents": self.documents,
            "characters": self.characters,
            "bytes": self.bytes,
            "shards": self._shards,
            "left_out": dict(sorted(self.left_out.items())),
            "statistics": self.statistics.report(),
        }
        write_json(self._folder / META, meta)
        return meta

    def _append(self, row: Row) -> None:
        encoded = row.text.encode("utf-8")
        self._digest.update(encoded)
        self._rows.append(row)
        self._waiting += len(encoded)
        self.bytes += len(encoded)
        self.characters += len(row.text)
        if self._waiting >= GROUP:
            self._flush()

    def _flush(self) -> None:
        """Write the waiting rows as a row group, into a new file where the last one is full."""
        import pyarrow as pa

        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        table = pa.table([pa.array(cells, pa.string()) for cells in columns], names=Row._fields)
        if self._file is None:
            self._begin_shard(table.schema)
        assert self._file is not None
        self._file.write_table(table)
        self._shards[-1]["rows"] += len(self._rows)
        self._shards[-1]["bytes"] += self._waiting
        characters = sum(len(row.text) for row in self._rows)
        group = {"characters": characters, "continued": self._continued}
        self._shards[-1]["groups"].append(group)
        self._rows, self._waiting = [], 0
        if self._shards[-1]["bytes"] >= SHARD:
            self._end_shard()

    def _begin_shard(self, schema: Any) -> None:
        import pyarrow.parquet as pq

        name = f"{len(self._shards):05d}.parquet"
        self._shards.append({"file": name, "rows": 0, "bytes": 0, "groups": []})
        # Texts repeat nothing, and nobody searches by them: no dictionaries, no statistics.
        self._file = pq.ParquetWriter(
            self._folder / name,
            schema,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )

    def _end_shard(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


class Corpus:
    """A corpus that `CorpusWriter` wrote."""

    def __init__(self, folder: Path, meta: dict[str, Any]):
        self.folder = folder
        self.meta = meta

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Read the corpus's `_meta.json`.

        Raises:
            UserError: it is missing or damaged.
        """
        meta = read_json(folder / META)
        keys = {"corpus", "sha256", "documents", "characters", "bytes", "shards"}
        if not isinstance(meta, dict) or not keys <= meta.keys() or not _has_groups(meta):
            raise UserError(f"{folder / META}: not a corpus's; `dvc repro -f prepare` rewrites it")
        return cls(folder, meta)

    def left_out(self) -> Iterator[dict[str, str]]:
        """What was left out, as rows of `source`, `title`, `reason` and `detail`."""
        path = self.folder / LEFT_OUT
        if path.exists():
            with open(path, encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def groups(self) -> list[Group]:
        """Every row group in order: what may be read apart."""
        groups: list[Group] = []
        start = 0
        for shard in self.meta["shards"]:
            path = str(self.folder / shard["file"])
            for number, group in enumerate(shard["groups"]):
                if groups:
                    groups[-1] = groups[-1]._replace(ends=not group["continued"])
                groups.append(Group(path, number, start, ends=True))
                start += group["characters"]
        return groups

    def rows(self) -> Iterator[Row]:
        """Every row in order, a row group at a time.

        Raises:
            UserError: a shard is missing or damaged.
        """
        for group in self.groups():
            yield from group.rows()

    def ids(self) -> Iterator[str]:
        """The id of every row, without reading the texts; raises as `rows` does."""
        for group in self.groups():
            for (name,) in group.read(["id"]):
                yield name


class Group(NamedTuple):
    """A row group, known by numbers alone, so that it can be sent to a worker.

    Attributes:
        path: the shard's file.
        number: of the group within its shard.
        start: characters of the corpus before it.
        ends: whether its last row ends a document.
    """

    path: str
    number: int
    start: int
    ends: bool

    def rows(self) -> Iterator[Row]:
        """Its rows in order; raises as `Corpus.rows` does."""
        for cells in self.read(list(Row._fields)):
            yield Row(*cells)

    def read(self, columns: list[str]) -> Iterator[tuple[str, ...]]:
        """The cells of these columns, row by row."""
        import pyarrow as pa

        try:
            cells = _opened(self.path).read_row_group(self.number, columns=columns).columns
            for row in zip(*cells, strict=True):
                yield tuple(cell.as_py() for cell in row)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.path}: not readable ({reason}); `dvc repro -f prepare` writes it anew"
            ) from None


def _opened(path: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False)


def _has_groups(meta: dict[str, Any]) -> bool:
    shards = meta["shards"]
    return isinstance(shards, list) and all("groups" in shard for shard in shards)
