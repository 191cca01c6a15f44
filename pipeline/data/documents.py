"""Documents out of files: .txt and .md (one each), .jsonl and .parquet (one a row), plain or .gz.

Text files are read as Python's text mode reads them, and so as the book does: UTF-8, a leading
byte-order mark dropped, CRLF and CR turned into LF. Strings in .jsonl and .parquet are kept as
they are: whoever wrote them chose their line ends.

A document comes as a stream of `parts`, cut where tokens are cut, so that a file larger than
memory is one document too. Nothing is read before the parts are asked for.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pipeline.data.tokenizer import pieces
from pipeline.errors import UserError

BLOCK = 1 << 20  # bytes a read
PART = 1 << 22  # characters of a document that are held at once
ROWS = 32  # Parquet rows that are held at once
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Document:
    """A text and where it comes from.

    Attributes:
        id: stays the same when other documents come and go; rows with equal texts share it.
        title: for people.
        source: the file's name in the corpus, and for a row its number; no two documents share it.
        parts: the text in order, each part at most `PART` characters; to be read once.
    """

    id: str
    title: str
    source: str
    parts: Iterable[str]


@dataclass(frozen=True)
class LeftOut:
    """A document that is not in the corpus.

    Attributes:
        source: as a document's.
        title: for people.
        reason: one of few, to be counted by.
        detail: what was found.
    """

    source: str
    title: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class File:
    """A file of a corpus: where it lies, and its name in reports and errors, which tells nothing
    of the machine."""

    path: Path
    name: str


def suffix_of(name: str) -> str:
    """The lower-case suffix that decides how a file is read, without `.gz`."""
    return Path(name.lower().removesuffix(".gz")).suffix


def read_documents(file: File, text_field: str) -> Iterator[Document]:
    """The documents of one file, lazily; its suffix is one of `READERS`.

    Raises:
        UserError: while reading: the file cannot be opened, is damaged, is not UTF-8, or a row
            has no string in `text_field`; names the file and the byte, line or row.
    """
    return READERS[suffix_of(file.path.name)](file, text_field)


def _read_text(file: File, _text_field: str) -> Iterator[Document]:
    yield Document(_digest(file.name), _stem(file.path), file.name, _text_parts(file))


def _text_parts(file: File) -> Iterator[str]:
    with _opened(file) as stream:
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


def _read_jsonl(file: File, text_field: str) -> Iterator[Document]:
    with _opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            source = f"{file.name}:{number}"
            values = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if values.strip():
                yield _row(_json_object(values, source), text_field, source)


def _json_object(line: bytes, source: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(source, error.start, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not a line of JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{source}: must be a JSON object, not {type(value).__name__}")
    return value


def _read_parquet(file: File, text_field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _opened(file) as stream, _seekable(file, stream) as whole:
        try:
            table = pq.ParquetFile(whole, buffer_size=BLOCK, pre_buffer=False)
            columns = _columns(table.schema_arrow, text_field, file.name)
            number = 0
            for batch in table.iter_batches(batch_size=ROWS, columns=columns):
                for row in zip(*batch.columns, strict=True):
                    number += 1
                    source = f"{file.name}:{number}"
                    values = dict(zip(columns, (_value(cell, source) for cell in row), strict=True))
                    yield _row(values, text_field, source)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{file.name}: not a readable Parquet file ({reason})") from None


def _columns(schema: Any, text_field: str, name: str) -> list[str]:
    if text_field not in schema.names:
        raise UserError(
            f"{name}: has no column {text_field!r}, which prepare.text_field names; "
            f"its columns are {', '.join(schema.names)}"
        )
    kind = schema.field(text_field).type
    strings = kind.value_type if str(kind).startswith("dictionary<") else kind
    if str(strings) not in ("string", "large_string", "string_view"):
        raise UserError(f"{name}: column {text_field!r} must hold strings, not {kind}")
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
        raise UserError(
            f"{source}: has no field {text_field!r}, which prepare.text_field names; "
            f"its fields are {', '.join(row) or 'none'}"
        )
    text, title = row[text_field], row.get("title")
    if not isinstance(text, str):
        raise UserError(f"{source}: {text_field!r} must be a string, not {type(text).__name__}")
    try:
        name = _digest(text)
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise UserError(
            f"{source}: {text_field!r} holds half a character, U+{ord(text[error.start]):04X}"
        ) from None
    return Document(name, title if isinstance(title, str) else source, source, in_parts([text]))


def in_parts(blocks: Iterable[str]) -> Iterator[str]:
    """The blocks' text again, in parts of at most `PART` characters that cut no token."""
    held = ""
    for block in blocks:
        held += block
        if len(held) > PART:
            *whole, held = pieces(held, PART)
            yield from whole
    if held:
        yield held


@contextmanager
def _opened(file: File) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked; what goes wrong within the block is named by the file."""
    unpack = gzip.open if _is_gzip(file.path) else open
    try:
        with cast(IO[bytes], unpack(file.path, "rb")) as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file.name}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise UserError(f"{file.name}: {error.strerror or error}") from None


@contextmanager
def _seekable(file: File, stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Parquet is read from its end: a packed file is unpacked to disk, not into memory."""
    if not _is_gzip(file.path):
        yield stream
        return
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(stream, unpacked, BLOCK)
        yield unpacked


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _stem(path: Path) -> str:
    return path.with_suffix("").stem if _is_gzip(path) else path.stem


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _not_utf8(name: str, offset: int, error: UnicodeDecodeError) -> UserError:
    hint = "it looks like UTF-16; " if offset == 0 and error.object[:2] in UTF16 else ""
    return UserError(
        f"{name}: byte {offset} (0x{error.object[error.start]:02x}) is not UTF-8; "
        f"{hint}save the text as UTF-8"
    )


READERS: dict[str, Callable[[File, str], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
