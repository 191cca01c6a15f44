"""What `prepare.corpus` may name, and how it becomes `data/corpus`.

A packaged text, a text that is fetched once, Project Gutenberg, a local file or folder, a URL, or
whatever fsspec opens. Each is resolved to a `Source`: a name and a stream of documents. A new kind
of corpus is one more `Source`; nothing else depends on the kind.

Reports name no place on this machine: a local file is known by its name, the files of a folder
by their paths within it. Relative paths hold from here or, in the temporary workspace of a
`dvc exp run`, where files that Git does not track are absent, from the main repository.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline.corpus.documents import Document, Faulty, LeftOut
from pipeline.corpus.download import check_sha256, fetch, file_name
from pipeline.corpus.gutenberg.source import Library
from pipeline.corpus.parquet import CorpusWriter
from pipeline.corpus.partition import read_files
from pipeline.corpus.readers import SUFFIXES
from pipeline.corpus.remote import remote_files
from pipeline.corpus.storage import File, local_files, suffix_of
from pipeline.corpus.workers import Workers, start_workers
from pipeline.errors import UserError
from pipeline.params import Prepare
from pipeline.reports import CorpusIdentity, CorpusReport
from pipeline.system.digest_cache import digest_of
from pipeline.system.files import folder_aside, given_path
from pipeline.system.http import public
from pipeline.system.progress import Advance
from pipeline.system.text import printable, quoted, shortened

TEXTS = Path(__file__).parent / "texts"

# name: (file in texts/, sha256)
PACKAGED = {
    "what-seemed-likely": (
        "what-seemed-likely.txt",
        "b70d7b027f8438323e9bd914e5c9a3ccc5cd58948475449de7586f57231f39a9",
    ),
}
# name: (URL, sha256)
FETCHED = {
    "the-verdict": (
        "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"
        "ch02/01_main-chapter-code/the-verdict.txt",
        "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    ),
}
GUTENBERG = "gutenberg"
LOCAL = "file://"
NAMES = (*PACKAGED, *FETCHED, GUTENBERG)
READABLE = f"{', '.join(SUFFIXES)}, plain, .gz or .zst"


@dataclass(frozen=True)
class Source:
    """A corpus that was found.

    Attributes:
        name: what reports call it.
        origin: where it comes from, without a path of this machine.
        size: bytes of its files; None where that is unknown before they are fetched.
        documents: takes workers and `progress`, which gets the bytes that are read; returns the
            stream of documents, from the start each time, with those that are left out.
        facts: further fields of the report.
    """

    name: str
    origin: str
    size: int | None
    documents: Callable[[Workers, Advance], Iterator[Document | LeftOut]]
    facts: dict[str, Any] = field(default_factory=dict)


def prepare(
    settings: Prepare,
    folder: Path,
    *,
    source: Source | None = None,
    progress: Advance = lambda size: None,
) -> CorpusReport:
    """Write the corpus that `settings` name into `folder`; return its report.

    Args:
        source: what `find(settings)` returned, where it was called before.
        progress: gets the bytes of the source's files that are read.

    Raises:
        UserError: there is no such corpus, or it cannot be fetched or read, or is not the one
            expected; `folder` stays.
    """
    source = source or find(settings)
    fault = ""
    with (
        folder_aside(folder) as aside,
        start_workers(settings.scheduler, source.size or 0) as workers,
    ):
        writer = CorpusWriter(aside)
        for document in source.documents(workers, progress):
            if isinstance(document, Document):
                writer.write(document)
                continue
            if isinstance(document, Faulty):
                fault = fault or document.detail
                if settings.on_error == "fail":
                    raise UserError(fault)
            writer.leave_out(document)
        if not writer.documents:
            raise UserError(fault or _emptiness(source.name, writer.left_out))
        meta = writer.close(source.name)
    return CorpusReport(
        corpus=meta.corpus,
        sha256=meta.sha256,
        documents=meta.documents,
        characters=meta.characters,
        bytes=meta.bytes,
        skipped=meta.left_out,
        source=source.origin,
        statistics=meta.statistics,
        **source.facts,
    )


def find(settings: Prepare) -> Source:
    """Resolve `prepare.corpus`, and fetch it where that is needed.

    Raises:
        UserError: it is no name, file, folder or URL; it cannot be fetched; it does not hash to
            `prepare.sha256`; or nothing in it is readable.
    """
    corpus = settings.corpus
    if corpus in PACKAGED:
        name, sha256 = PACKAGED[corpus]
        check_sha256(f"the packaged text {name}", TEXTS / name, sha256)
        return _source(corpus, "packaged", [File.at(TEXTS / name)], settings)
    if corpus in FETCHED:
        url, sha256 = FETCHED[corpus]
        file = File.at(fetch(url, file_name(url), sha256))
        return _source(corpus, url, [file], settings)
    if corpus == GUTENBERG:
        library = Library.open(settings)
        facts = {"chosen": len(library.books), "catalogue_sha256": library.catalogue_sha256}
        return Source(corpus, library.origin, None, library.documents, facts)
    if corpus.startswith(("http://", "https://")):
        return _from_url(settings)
    if "://" in corpus and not corpus.startswith(LOCAL):
        return _from_remote(settings)
    return _from_path(settings)


def _emptiness(name: str, left_out: Mapping[str, int]) -> str:
    """That a corpus holds no text, and what became of its documents."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    tail = f"; left out are {reasons}" if left_out.keys() - {"empty"} else ""
    return f"prepare.corpus: {name} is empty: it holds no text{tail}"


def identify(settings: Prepare) -> CorpusIdentity:
    """By what a changed corpus is recognised, without reading what its name alone identifies.

    For a local file or folder, the digest of its files' names and bytes; of a file that cannot be
    read, its name and the fault, so that it is seen when it can. A name or a URL stands
    for itself: its content is pinned in this module, or by `prepare.sha256`.

    Raises:
        UserError: there is no such file, folder or name, or nothing in it is readable.
    """
    found = local_corpus(settings)
    if found is None:
        corpus = settings.corpus
        return CorpusIdentity(corpus=public(corpus) if "://" in corpus else corpus)
    path, files = found
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{_state(file)}  {file.name}\n".encode())
    return CorpusIdentity(corpus=_name(path), files=len(files), sha256=digest.hexdigest())


def local_corpus(settings: Prepare) -> tuple[Path, list[File]] | None:
    """The path and files of a corpus that lies here; None for one with a name or a URL.

    Raises:
        UserError: as `identify`.
    """
    corpus = settings.corpus
    if corpus in NAMES or ("://" in corpus and not corpus.startswith(LOCAL)):
        return None
    path = _existing(corpus)
    return path, _files(path)


def _source(name: str, origin: str, files: list[File], settings: Prepare) -> Source:
    if settings.sha256:
        if len(files) != 1:
            raise UserError(
                f"prepare.sha256 is for one file, but prepare.corpus {name} has {len(files)}"
            )
        _check_file(name, files[0], settings.sha256)

    def documents(workers: Workers, progress: Advance) -> Iterator[Document | LeftOut]:
        return read_files(
            files, settings.text_field, workers, progress, separator=settings.separator
        )

    return Source(name, origin, sum(file.size for file in files), documents)


def _check_file(name: str, file: File, sha256: str) -> None:
    if "://" in file.path:
        raise UserError(f"prepare.sha256 is for one local file or http URL, not for {name}")
    check_sha256(name, Path(file.path), sha256)


def _from_url(settings: Prepare) -> Source:
    url = settings.corpus
    try:
        name = file_name(url)
    except UserError as error:
        raise UserError(f"prepare.corpus: {error}") from None
    if suffix_of(name) not in SUFFIXES:
        name += ".txt"  # such as 1342.txt.utf-8: if it is no text, reading it fails
    path = fetch(url, name, settings.sha256)
    return _source(public(url), public(url), [File.at(path, public(url))], settings)


def _from_remote(settings: Prepare) -> Source:
    url = settings.corpus
    files = remote_files(url, SUFFIXES)
    if not files:
        raise UserError(f"prepare.corpus: nothing at {public(url)} is {READABLE}")
    return _source(public(url), public(url), files, settings)


def _from_path(settings: Prepare) -> Source:
    path = _existing(settings.corpus)
    kind = "folder" if path.is_dir() else "file"
    return _source(_name(path), f"local {kind}", _files(path), settings)


def _existing(corpus: str) -> Path:
    given = given_path(corpus.removeprefix(LOCAL), "prepare.corpus")
    for path in (given, Path(os.environ.get("DVC_ROOT", ".")) / given):
        if path.exists():
            return path
    if given.name != corpus or given.suffix:
        raise UserError(f"prepare.corpus: there is no file or folder {_shown(corpus)}")
    close = get_close_matches(corpus, NAMES, n=1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    raise UserError(
        f"prepare.corpus: {quoted(corpus)} is no corpus{guess}; "
        f"known are {', '.join(NAMES)}, and any file, folder or URL"
    )


def _files(path: Path) -> list[File]:
    """The files at `path` to be read, in the order of their names within it, no hidden ones.

    In a folder, what cannot be read is among them, with its fault.
    """
    if path.is_dir():
        try:
            files = local_files(path, SUFFIXES)
        except OSError as error:
            raise UserError(f"prepare.corpus: {_shown(path)}: {error.strerror}") from None
        if not files:
            raise UserError(f"prepare.corpus: nothing in the folder {_shown(path)} is {READABLE}")
        return files
    if suffix_of(path.name) not in SUFFIXES:
        raise UserError(f"prepare.corpus: {_shown(path)} is not read; a file must be {READABLE}")
    file = File.at(path)
    if file.fault:
        raise UserError(f"prepare.corpus: {_shown(path)}: {file.fault}")
    return [file]


def _state(file: File) -> str:
    """A file's digest, or why it has none."""
    try:
        return file.fault or digest_of(Path(file.path))
    except OSError as error:
        return str(error.strerror)


def _name(path: Path) -> str:
    return printable(path.resolve().name, keep="")


def _shown(path: Path | str) -> str:
    return shortened(printable(str(path), keep=""))
