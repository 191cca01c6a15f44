"""Many files, or large ones, read in parts by workers and put together again in order.

A part is a run of small files, a span of lines of a plain `.jsonl`, or a span of row groups of a
plain `.parquet`: some megabytes, so that its documents can be handed back whole. What is large
and cannot be cut, a long text or a packed file, is read here, as a stream. What comes out is the
same for any parts and any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import pyarrow.parquet as pq

from pipeline.corpus.documents import Document, Faulty
from pipeline.corpus.readers import PARQUET_FAULTS, Span, read_documents
from pipeline.corpus.storage import BLOCK, BadDocument, File, opened
from pipeline.corpus.workers import Workers
from pipeline.system.progress import Advance

WHOLE = 1 << 25  # bytes of a corpus that is not worth any workers
PART = 1 << 23  # bytes of files that a worker reads at once
UNPACKED = 4  # how much larger a packed file is inside, roughly
GROUP = 1 << 26  # bytes of the largest row group that is handed back whole

Reader = Callable[..., Iterator[Document | Faulty]]  # `read_documents` with its settings


@dataclass(frozen=True)
class Part:
    """Spans that are read together, and their bytes; or a file that is `streamed`."""

    spans: list[Span]
    size: int
    streamed: bool = False


def read_files(
    files: list[File],
    text_field: str,
    workers: Workers,
    progress: Advance,
    *,
    separator: str | None = None,
) -> Iterator[Document | Faulty]:
    """The documents of all files, in order.

    Args:
        progress: gets the bytes of files that are read.
        separator: between the documents of a plain-text file; None: each file is one.
    """
    read = partial(read_documents, text_field=text_field, separator=separator)
    if sum(file.size for file in files) <= WHOLE:
        parts: Iterable[Part] = [Part([Span(file)], file.size, streamed=True) for file in files]
    else:
        parts = cut(files)
    for streamed, group in groupby(parts, key=lambda part: part.streamed):
        if streamed:
            for part in group:
                yield from _streamed(part.spans[0], read, progress)
        else:
            yield from _worked(group, read, workers, progress)


def cut(files: list[File]) -> Iterator[Part]:
    """The parts of a corpus; the same for the same files."""
    run: list[Span] = []
    size = 0
    for file in files:
        needed = file.size * (UNPACKED if file.is_packed else 1)
        if run and size + needed > PART:
            yield Part(run, size)
            run, size = [], 0
        if needed <= PART:
            run.append(Span(file))
            size += needed
        else:
            yield from _cut_file(file)
    if run:
        yield Part(run, size)


def read_part(part: Part, read: Reader) -> tuple[Part, list[list[Document | Faulty]]]:
    """Everything that the part's spans hold; done by a worker. Each span has its rows counted."""
    documents = [[_whole(document) for document in read(span)] for span in part.spans]
    return part, documents


def _cut_file(file: File) -> Iterator[Part]:
    if file.suffix == ".jsonl" and not file.is_packed:
        for start in range(0, file.size, PART):
            stop = min(start + PART, file.size)
            yield Part([Span(file, start, stop)], stop - start)
        return
    if file.suffix == ".parquet" and not file.is_packed:
        try:
            yield from _cut_groups(file, _group_sizes(file))
            return
        except BadDocument:
            pass  # reading it will say what is wrong
    yield Part([Span(file)], file.size, streamed=True)


def _cut_groups(file: File, sizes: list[int]) -> Iterator[Part]:
    if not sizes or max(sizes) > GROUP:
        yield Part([Span(file)], file.size, streamed=True)
        return
    start = held = 0
    for stop, size in enumerate(sizes, start=1):
        held += size
        if held >= PART or stop == len(sizes):
            share = file.size * stop // len(sizes) - file.size * start // len(sizes)
            yield Part([Span(file, start, stop)], share)
            start, held = stop, 0


def _group_sizes(file: File) -> list[int]:
    """Bytes of each row group, unpacked."""
    with opened(file) as stream:
        try:
            metadata = pq.ParquetFile(stream, buffer_size=BLOCK, pre_buffer=False).metadata
        except PARQUET_FAULTS as error:
            raise BadDocument("unreadable", str(error)) from None
        return [metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups)]


def _streamed(span: Span, read: Reader, progress: Advance) -> Iterator[Document | Faulty]:
    """A file's documents as they are read; in the end, all of its bytes are counted, once."""
    seen = 0

    def advance(count: int) -> None:
        nonlocal seen
        count = min(count, span.file.size - seen)
        seen += count
        progress(count)

    yield from read(span, progress=advance)
    advance(span.file.size)


def _worked(
    parts: Iterable[Part], read: Reader, workers: Workers, progress: Advance
) -> Iterator[Document | Faulty]:
    before = 0  # rows of this file in the spans before
    for part, found in workers.in_order(partial(read_part, read=read), parts):
        for span, documents in zip(part.spans, found, strict=True):
            if span.start == 0:
                before = 0
            for document in documents:
                yield _renumbered(document, span, before)
            before += span.rows
        progress(part.size)


def _renumbered(document: Document | Faulty, span: Span, before: int) -> Document | Faulty:
    """The document under its row's number in the file, not in the span."""
    name, _, number = document.source.rpartition(":")
    if not before or name != span.file.name:
        return document
    source = span.name(before + int(number))
    if isinstance(document, Faulty):
        return replace(document, source=source, detail=_moved(document.detail, document, source))
    return replace(document, source=source, title=_moved(document.title, document, source))


def _moved(text: str, document: Document | Faulty, source: str) -> str:
    """A text that begins with the document's source, with the new one."""
    rest = text.removeprefix(document.source)
    return source + rest if rest != text else text


def _whole(document: Document | Faulty) -> Document | Faulty:
    """The document with its text, to be handed back."""
    if isinstance(document, Faulty):
        return document
    return replace(document, parts=list(document.parts))
