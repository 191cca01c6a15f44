"""Documents out of files: .txt and .md (one each), .jsonl and .parquet (one a row).

Text files are read as Python's text mode reads them, and so as the book does: UTF-8, a leading
byte-order mark dropped, CRLF and CR turned into LF. Strings in .jsonl and .parquet are kept as
they are: whoever wrote them chose their line ends.

With a `separator`, a text file holds several documents, with that text between them.

A document comes as a stream of `parts`, cut where tokens are cut, so that a file larger than
memory is one document too. A bad row is `Faulty`, and the rows after it are read; a file that is
damaged ends there. A long text, or one with separators, is read through before any of it is
given, so that no half of it goes into a corpus.

Of .jsonl and .parquet files a span can be read: from one byte, or row group, to another. Rows are
then numbered from the span's first.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.documents import Document, Faulty, digest, in_parts
from pipeline.corpus.storage import BLOCK, PACKED, BadDocument, File, opened, seekable
from pipeline.system.files import most_unpacked
from pipeline.system.progress import Advance
from pipeline.system.text import quoted, shortened

ROWS = 32  # Parquet rows that are held at once
LINE = 1 << 26  # bytes of a .jsonl line that is read; a file without line ends fits no memory
LARGEST = 1 << 40  # bytes of a file that is read
TITLE = 1000  # characters of a title
PARQUET_FAULTS = (pa.ArrowException, OSError, ValueError, OverflowError)
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


def read_documents(
    span: Span,
    text_field: str,
    progress: Advance | None = None,
    *,
    separator: str | None = None,
) -> Read:
    """The documents of a file or span, lazily; each is to be read before the next.

    Args:
        progress: gets the bytes that are read.
        separator: between the documents of a plain-text file; None: each file is one.
    """
    file = span.file
    try:
        if file.fault:
            raise BadDocument("unreadable", f"{file.name}: {file.fault}")
        if file.size > LARGEST:
            raise _too_long(file.name, f"{file.size:,} bytes", LARGEST)
        if file.suffix == ".jsonl":
            yield from _read_jsonl(span, text_field, progress)
        elif file.suffix == ".parquet":
            yield from _read_parquet(span, text_field, progress)
        elif separator is not None:
            yield from _read_separated(span, separator, progress)
        else:
            assert file.suffix in SUFFIXES, file.suffix
            yield from _read_text(file, progress)
    except BadDocument as error:
        yield Faulty.of(file.name, error)


def _read_text(file: File, progress: Advance | None) -> Read:
    beginning = list(islice(_text_parts(file, None), 2))
    if len(beginning) < 2:
        if progress:
            progress(file.size)
        yield Document(digest(file.name), _stem(file), file.name, beginning)
        return
    for _ in _text_parts(file, None):
        pass
    yield Document(digest(file.name), _stem(file), file.name, _text_parts(file, progress))


def _read_separated(span: Span, separator: str, progress: Advance | None) -> Read:
    """The documents between separators; as lines of .jsonl, blank ones are none."""
    file = span.file
    for _ in _text_parts(file, None):
        pass
    separator = separator.replace("\r\n", "\n").replace("\r", "\n")  # as the text's line ends
    with opened(file, progress) as stream:
        for text in separated(_decoded(stream, file.name), separator):
            parts = in_parts(text)
            beginning = list(islice(parts, 2))
            if len(beginning) < 2 and not "".join(beginning).strip():
                continue
            span.rows += 1
            source = span.name(span.rows)
            # A row's id where the document is no longer than a part.
            yield Document(digest(beginning[0]), source, source, chain(beginning, parts))


def separated(blocks: Iterable[str], separator: str) -> Iterator[Iterator[str]]:
    """The texts between separators, each in blocks; what is not read of one is passed over."""
    source = iter(blocks)
    held, start = "", 0  # what is not given yet begins at `start`
    is_last = False

    def text() -> Iterator[str]:
        nonlocal held, start, is_last
        while (end := held.find(separator, start)) < 0:
            block = next(source, None)
            if block is None:
                is_last = True
                yield held[start:]
                return
            safe = max(len(held) - len(separator) + 1, start)  # a separator may begin after it
            if safe > start:
                yield held[start:safe]
            held, start = held[safe:] + block, 0
        yield held[start:end]
        start = end + len(separator)

    while not is_last:
        blocks_of_one = text()
        yield blocks_of_one
        for _ in blocks_of_one:
            pass


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
                        raise _too_long(source, f"a line of {size:,} bytes", LINE)
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
    most = most_unpacked(file.size or LARGEST)
    have = 0
    with opened(file, progress) as stream, seekable(file, stream) as whole:
        try:
            table = pq.ParquetFile(whole, buffer_size=BLOCK, pre_buffer=False)
            columns = _columns(table.schema_arrow, text_field, file.name)
            groups = range(table.num_row_groups)[span.start : span.stop]
            if any(table.metadata.row_group(k).total_byte_size > most for k in groups):
                raise _too_long(file.name, "a row group that unpacks to more", most)
            for batch in table.iter_batches(batch_size=ROWS, row_groups=groups, columns=columns):
                for cells in zip(*batch.columns, strict=True):
                    span.rows += 1
                    row = dict(zip(batch.schema.names, cells, strict=True))
                    document = _parquet_row(row, text_field, span.name(span.rows))
                    have += sum(map(len, document.parts)) if isinstance(document, Document) else 0
                    if have > most:
                        raise _too_long(file.name, "rows that unpack to more", most)
                    yield document
        except BadDocument:
            raise
        except PARQUET_FAULTS as error:
            reason = " ".join(str(error).split())
            message = f"{file.name}: not a readable Parquet file ({reason})"
            raise BadDocument("unreadable", message) from None


def _parquet_row(row: dict[str, Any], text_field: str, source: str) -> Document | Faulty:
    try:
        values = {name: _value(cell, source) for name, cell in row.items()}
        document = _row(values, text_field, source)
        return replace(document, parts=list(document.parts))
    except BadDocument as error:
        return Faulty.of(source, error)


def _columns(schema: pa.Schema, text_field: str, name: str) -> list[str]:
    """The columns to be read: the text's, and a title's that can be one."""
    number = schema.names.count(text_field)
    if number != 1:
        raise BadDocument(
            "no text",
            f"{name}: has {number or 'no'} column{'s' * (number > 1)} {quoted(text_field)}, which "
            f"prepare.text_field names; its columns are {', '.join(schema.names)}",
        )
    kind = schema.field(text_field).type
    if not _is_text(kind):
        raise BadDocument(
            "no text", f"{name}: column {quoted(text_field)} must hold strings, not {kind}"
        )
    has_title = schema.names.count("title") == 1 and _is_text(schema.field("title").type)
    return sorted({text_field, "title"} if has_title else {text_field})


def _is_text(kind: pa.DataType) -> bool:
    strings = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(strings) in ("string", "large_string", "string_view")


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
            f"{source}: has no field {quoted(text_field)}, which prepare.text_field names; "
            f"its fields are {', '.join(row) or 'none'}",
        )
    text, title = row[text_field], row.get("title")
    if not isinstance(text, str):
        kind = type(text).__name__
        raise BadDocument("no text", f"{source}: {quoted(text_field)} must be a string, not {kind}")
    if len(text) > LINE:
        raise _too_long(source, f"a text of {len(text):,} characters", LINE)
    try:
        name = digest(text)
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        half = f"U+{ord(text[error.start]):04X}"
        raise BadDocument(
            "not UTF-8", f"{source}: {quoted(text_field)} holds half a character, {half}"
        ) from None
    shown = _title(title) if isinstance(title, str) else source
    return Document(name, shown, source, in_parts([text]))


def _stem(file: File) -> str:
    path = PurePosixPath(file.path)
    return _title(path.with_suffix("").stem if path.suffix.lower() in PACKED else path.stem)


def _title(text: str) -> str:
    """A title without halves of characters, which no file can hold."""
    return shortened(text.encode("utf-8", "backslashreplace").decode("utf-8"), TITLE)


def _not_utf8(name: str, offset: int, error: UnicodeDecodeError) -> BadDocument:
    hint = "it looks like UTF-16; " if offset == 0 and error.object[:2] in UTF16 else ""
    return BadDocument(
        "not UTF-8",
        f"{name}: byte {offset} (0x{error.object[error.start]:02x}) is not UTF-8; "
        f"{hint}save the text as UTF-8",
    )


def _too_long(name: str, what: str, most: int) -> BadDocument:
    return BadDocument("too long", f"{name}: {what}; up to {most:,} are read")
