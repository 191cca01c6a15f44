"""Documents out of files: .txt and .md (one each), .jsonl and .parquet (one a row).

Text files are read as Python's text mode reads them, and so as the book does: UTF-8, a leading
byte-order mark dropped, CRLF and CR turned into LF. Strings in .jsonl and .parquet are kept as
they are: whoever wrote them chose their line ends.

A document comes as a stream of `parts`, cut where tokens are cut, so that a file larger than
memory is one document too. A bad row is `Faulty`, and the rows after it are read; a file that is
damaged ends there. A long text is read through before any of it is given, so that no half of it
goes into a corpus.

Of .jsonl and .parquet files a span can be read: from one byte, or row group, to another. Rows are
then numbered from the span's first.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.documents import Document, Faulty, digest, in_parts
from pipeline.corpus.storage import BLOCK, PACKED, BadDocument, File, opened, seekable
from pipeline.system.progress import Advance

ROWS = 32  # Parquet rows that are held at once
LINE = 1 << 26  # bytes of a .jsonl line that is read; a file without line ends fits no memory
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")

Read = Iterator[Document | Faulty]


@dataclass
class Span:
    """A file, or a part of one.

    Attributes:
        start: the byte, or row group, where the span begins.
        stop: where the next one begins; None for the file's end.
        rows: how many rows were read so far, the bad ones counted.
    """

    file: File
    start: int = 0
    stop: int | None = None
    rows: int = 0

    def name(self, number: int) -> str:
        """How a row is called."""
        return f"{self.file.name}:{number}"


def read_documents(span: Span, text_field: str, progress: Advance | None = None) -> Read:
    """The documents of a file or span, lazily; `progress` gets the bytes that are read."""
    suffix = span.file.suffix
    assert suffix in SUFFIXES, suffix
    reader = {".jsonl": _read_jsonl, ".parquet": _read_parquet}.get(suffix, _read_text)
    try:
        yield from reader(span, text_field, progress)
    except BadDocument as error:
        yield Faulty.of(span.file.name, error)


def _read_text(span: Span, _text_field: str, progress: Advance | None) -> Read:
    file = span.file
    beginning = list(islice(_text_parts(file, None), 2))
    if len(beginning) < 2:
        if progress:
            progress(file.size)
        yield Document(digest(file.name), _stem(file), file.name, beginning)
        return
    for _ in _text_parts(file, None):
        pass
    yield Document(digest(file.name), _stem(file), file.name, _text_parts(file, progress))


def _text_parts(file: File, progress: Advance | None) -> Iterator[str]:
    with opened(file, progress) as stream:
        yield from in_parts(_decoded(stream, file.name))


def _decoded(stream: IO[bytes], name: str) -> Iterator[str]:
    """The stream's text in blocks, without a byte-order mark, its line ends as LF."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    done = 0  # bytes before this block
    mark = "\ufeff"
    while True:
        block = stream.read(BLOCK)
        held = len(utf8.getstate()[0])  # the bytes of a character that the last block cut
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _not_utf8(name, done - held + error.start, error) from None
        if text:
            yield text.removeprefix(mark)
            mark = ""
        if not block:
            return
        done += len(block)


def _read_jsonl(span: Span, text_field: str, progress: Advance | None) -> Read:
    with opened(span.file, progress) as stream:
        place = _start_of_line(stream, span)
        while span.stop is None or place < span.stop:
            line, size = _next_line(stream)
            if not line:
                return
            values = line.removeprefix(codecs.BOM_UTF8) if place == 0 else line
            place += size
            span.rows += 1
            source = span.name(span.rows)
            if values.strip():
                try:
                    if size > LINE:
                        raise _too_long(source, size)
                    yield _row(_json_object(values, source), text_field, source)
                except BadDocument as error:
                    yield Faulty.of(source, error)


def _start_of_line(stream: IO[bytes], span: Span) -> int:
    """Go to the span's first line, which begins in it; the span before reads across its end."""
    if not span.start:
        return 0
    place = span.start - 1
    stream.seek(place)
    while span.stop is None or place < span.stop:
        line = stream.readline(BLOCK)
        place += len(line)
        if not line or line.endswith(b"\n"):
            break
    return place


def _next_line(stream: IO[bytes]) -> tuple[bytes, int]:
    """A line, or the beginning of one of more than `LINE` bytes; and how many bytes it has."""
    line = end = stream.readline(LINE + 1)
    size = len(line)
    while size > LINE and not end.endswith(b"\n") and (end := stream.readline(BLOCK)):
        size += len(end)
    return line, size


def _json_object(line: bytes, source: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(source, error.start, error) from None
    except (ValueError, RecursionError) as error:
        raise BadDocument("not JSON", f"{source}: not a line of JSON ({error})") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise BadDocument("not JSON", f"{source}: must be a JSON object, not {kind}")
    return value


def _read_parquet(span: Span, text_field: str, progress: Advance | None) -> Read:
    file = span.file
    with opened(file, progress) as stream, seekable(file, stream) as whole:
        try:
            table = pq.ParquetFile(whole, buffer_size=BLOCK, pre_buffer=False)
            columns = _columns(table.schema_arrow, text_field, file.name)
            groups = range(table.num_row_groups)[span.start : span.stop]
            for batch in table.iter_batches(batch_size=ROWS, row_groups=groups, columns=columns):
                for row in zip(*batch.columns, strict=True):
                    span.rows += 1
                    yield _parquet_row(columns, row, text_field, span.name(span.rows))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            message = f"{file.name}: not a readable Parquet file ({reason})"
            raise BadDocument("unreadable", message) from None


def _parquet_row(
    columns: list[str], row: tuple[Any, ...], text_field: str, source: str
) -> Document | Faulty:
    try:
        values = {name: _value(cell, source) for name, cell in zip(columns, row, strict=True)}
        return _row(values, text_field, source)
    except BadDocument as error:
        return Faulty.of(source, error)


def _columns(schema: Any, text_field: str, name: str) -> list[str]:
    if text_field not in schema.names:
        raise BadDocument(
            "no text",
            f"{name}: has no column {text_field!r}, which prepare.text_field names; "
            f"its columns are {', '.join(schema.names)}",
        )
    kind = schema.field(text_field).type
    strings = kind.value_type if str(kind).startswith("dictionary<") else kind
    if str(strings) not in ("string", "large_string", "string_view"):
        raise BadDocument("no text", f"{name}: column {text_field!r} must hold strings, not {kind}")
    return sorted({text_field, "title"} & set(schema.names))


def _value(cell: Any, source: str) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        raise _not_utf8(source, error.start, error) from None


def _row(row: dict[str, Any], text_field: str, source: str) -> Document:
    """A document of one row.

    Its id comes from the text alone, so that rows may be moved and files cut anew.
    """
    if text_field not in row:
        raise BadDocument(
            "no text",
            f"{source}: has no field {text_field!r}, which prepare.text_field names; "
            f"its fields are {', '.join(row) or 'none'}",
        )
    text, title = row[text_field], row.get("title")
    if not isinstance(text, str):
        kind = type(text).__name__
        raise BadDocument("no text", f"{source}: {text_field!r} must be a string, not {kind}")
    try:
        name = digest(text)
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        half = f"U+{ord(text[error.start]):04X}"
        raise BadDocument(
            "not UTF-8", f"{source}: {text_field!r} holds half a character, {half}"
        ) from None
    return Document(name, title if isinstance(title, str) else source, source, in_parts([text]))


def _stem(file: File) -> str:
    path = PurePosixPath(file.path)
    return path.with_suffix("").stem if path.suffix.lower() in PACKED else path.stem


def _not_utf8(name: str, offset: int, error: UnicodeDecodeError) -> BadDocument:
    hint = "it looks like UTF-16; " if offset == 0 and error.object[:2] in UTF16 else ""
    return BadDocument(
        "not UTF-8",
        f"{name}: byte {offset} (0x{error.object[error.start]:02x}) is not UTF-8; "
        f"{hint}save the text as UTF-8",
    )


def _too_long(name: str, size: int) -> BadDocument:
    return BadDocument("too long", f"{name}: a line of {size:,} bytes; up to {LINE:,} are read")
