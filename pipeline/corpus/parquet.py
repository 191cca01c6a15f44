"""A prepared corpus on disk: Parquet shards of documents, and a `_meta.json` that sums them up.

The columns are the strings `id`, `title`, `source` and `text`, one row a document. A document of
more than `documents.PART` characters goes on in the next rows, with the same id and source, so
that neither writing nor reading ever holds more than some parts. What was left out stands in
`_left_out.jsonl`, if anything was. `_meta.json` also says of each row group how many characters it
holds and whether its first row continues the document before it, so that groups can be read apart.
The digests of all of them (`system.checksums`) are written last: where they stand, the corpus is
whole. They are checked before anything is read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.documents import Document, LeftOut
from pipeline.corpus.statistics import TextStatistics
from pipeline.corpus.storage import BLOCK
from pipeline.errors import UserError
from pipeline.reports import CorpusStatistics
from pipeline.system.checksums import check, write_sums
from pipeline.system.names import Name
from pipeline.system.records import Record

META = "_meta.json"  # readers of Parquet folders pass over names that begin so
LEFT_OUT = "_left_out.jsonl"
LISTED = 100_000  # documents in it; the others are counted alone
GROUP = 1 << 21  # bytes of text in a row group: what is held while writing, and a worker's part
SHARD = 1 << 28  # bytes of text in a file
REMEDY = "`dvc checkout data/corpus` or `dvc repro -f prepare` brings it back"


class CorpusRow(NamedTuple):
    """A document, or a part of one that is too long for a row."""

    id: str
    title: str
    source: str
    text: str


class GroupMeta(Record):
    """A row group: its characters, and whether its first row goes on with the document before."""

    characters: int
    continued: bool


class ShardMeta(Record):
    """A Parquet file; `bytes` are those of its texts."""

    file: Name
    rows: int
    bytes: int
    groups: tuple[GroupMeta, ...]


class CorpusMeta(Record):
    """`_meta.json`; `left_out` counts documents by reason."""

    corpus: str
    sha256: str
    documents: int
    characters: int
    bytes: int
    shards: tuple[ShardMeta, ...]
    left_out: dict[str, int]
    statistics: CorpusStatistics


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
        self._rows: list[CorpusRow] = []
        self._waiting = 0  # bytes of text in _rows
        self._continued = False  # whether _rows begins within a document
        self._shards: list[ShardMeta] = []
        self._file: pq.ParquetWriter | None = None  # the open shard, and what it holds:
        self._groups: list[GroupMeta] = []
        self._shard_rows = self._shard_bytes = 0

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
            self._append(CorpusRow(document.id, document.title, document.source, part))
        self.statistics.add(document.title, document.source, first, self.characters - before)

    def leave_out(self, document: LeftOut) -> None:
        """Count a document that is not written, and note it, where there are not `LISTED` yet."""
        self.left_out[document.reason] += 1
        if self.left_out.total() > LISTED:
            return
        with open(self._folder / LEFT_OUT, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")

    def close(self, name: str) -> CorpusMeta:
        """Write the waiting rows, `_meta.json` and all digests; return what `_meta.json` holds."""
        self._flush()
        self._end_shard()
        meta = CorpusMeta(
            corpus=name,
            sha256=self._digest.hexdigest(),
            documents=self.documents,
            characters=self.characters,
            bytes=self.bytes,
            shards=tuple(self._shards),
            left_out=dict(sorted(self.left_out.items())),
            statistics=self.statistics.report(),
        )
        meta.write(self._folder / META)
        write_sums(self._folder)
        return meta

    def _append(self, row: CorpusRow) -> None:
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
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(cells, pa.string()) for cells in columns]
        table = pa.table(arrays, names=CorpusRow._fields)
        if self._file is None:
            # Texts repeat nothing, and nobody searches by them: no dictionaries, no statistics.
            self._file = pq.ParquetWriter(
                self._folder / self._shard_name(),
                table.schema,
                compression="zstd",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        self._file.write_table(table)
        characters = sum(len(row.text) for row in self._rows)
        self._groups.append(GroupMeta(characters=characters, continued=self._continued))
        self._shard_rows += len(self._rows)
        self._shard_bytes += self._waiting
        self._rows, self._waiting = [], 0
        if self._shard_bytes >= SHARD:
            self._end_shard()

    def _shard_name(self) -> str:
        return f"{len(self._shards):05d}.parquet"

    def _end_shard(self) -> None:
        if self._file is None:
            return
        self._file.close()
        shard = ShardMeta(
            file=self._shard_name(),
            rows=self._shard_rows,
            bytes=self._shard_bytes,
            groups=tuple(self._groups),
        )
        self._shards.append(shard)
        self._file, self._groups = None, []
        self._shard_rows = self._shard_bytes = 0


class Corpus:
    """A corpus that `CorpusWriter` wrote, and its `_meta.json`."""

    def __init__(self, folder: Path, meta: CorpusMeta):
        self.folder = folder
        self.meta = meta

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Read the corpus's `_meta.json`.

        Raises:
            UserError: it is missing or damaged.
        """
        meta = CorpusMeta.read(folder / META, REMEDY)
        check(folder, [META], REMEDY)
        return cls(folder, meta)

    def left_out(self) -> Iterator[dict[str, str]]:
        """What was left out, as rows of `source`, `title`, `reason` and `detail`."""
        path = self.folder / LEFT_OUT
        if path.exists():
            check(self.folder, [LEFT_OUT], REMEDY)
            with open(path, encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    @cached_property
    def groups(self) -> list[Group]:
        """Every row group in order: what may be read apart.

        Raises:
            UserError: a shard is missing or damaged.
        """
        groups: list[Group] = []
        start = 0
        check(self.folder, [shard.file for shard in self.meta.shards], REMEDY)
        for shard in self.meta.shards:
            path = self.folder / shard.file
            for number, group in enumerate(shard.groups):
                if groups:
                    groups[-1] = groups[-1]._replace(ends=not group.continued)
                groups.append(Group(str(path), number, start, ends=True))
                start += group.characters
        return groups

    def rows(self) -> Iterator[CorpusRow]:
        """Every row in order, a row group at a time.

        Raises:
            UserError: a shard is missing or damaged.
        """
        for group in self.groups:
            yield from group.rows()

    def ids(self) -> Iterator[str]:
        """The id of every row, without reading the texts; raises as `rows` does."""
        for group in self.groups:
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

    def rows(self) -> Iterator[CorpusRow]:
        """Its rows in order; raises as `Corpus.rows` does."""
        for cells in self.read(list(CorpusRow._fields)):
            yield CorpusRow(*cells)

    def read(self, columns: list[str]) -> Iterator[tuple[str, ...]]:
        """The cells of these columns, row by row."""
        try:
            file = pq.ParquetFile(
                self.path, buffer_size=BLOCK, pre_buffer=False, page_checksum_verification=True
            )
            cells = file.read_row_group(self.number, columns=columns).columns
            for row in zip(*cells, strict=True):
                yield tuple(cell.as_py() for cell in row)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.path}: not readable ({reason}); {REMEDY}") from None
