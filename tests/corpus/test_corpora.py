"""What `prepare.corpus` may name, and what is said of what it may not."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus import corpora
from pipeline.corpus.corpora import FETCHED, NAMES, PACKAGED, TEXTS, identify, prepare
from pipeline.corpus.parquet import Corpus, CorpusRow
from pipeline.errors import UserError
from pipeline.params import Prepare
from pipeline.reports import CorpusIdentity, CorpusReport

STORY = "Once upon a time there was a story.\n"


def prepared(
    corpus: Path | str, into: Path, **settings: Any
) -> tuple[CorpusReport, list[CorpusRow]]:
    report = prepare(Prepare(corpus=str(corpus), **settings), into)
    return report, list(Corpus.open(into).rows())


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of texts of every kind, and of things that are no texts."""
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "z.txt").write_text("z")
    (folder / "b" / "a.MD").write_text("b/a")
    (folder / "b.jsonl").write_text('{"text": "one"}\n{"text": "two", "title": "Two"}\n')
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"a"))
    for other in (".git/x.txt", ".hidden.txt", "cover.png", "notes"):
        (folder / other).write_bytes(b"\xff")
    return folder


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_texts(tmp_path: Path, cache: Path, name: str) -> None:
    report, rows = prepared(name, tmp_path / "corpus")
    file, sha256 = PACKAGED[name]
    text = (TEXTS / file).read_text(encoding="utf-8")
    assert [row.text for row in rows] == [text]
    held = report.model_dump(mode="json")
    statistics = held.pop("statistics")
    assert statistics["characters_per_document"] == len(text)
    assert statistics["excerpts"][0]["text"] in text
    assert held == {
        "corpus": name,
        "sha256": sha256,
        "documents": 1,
        "characters": len(text),
        "bytes": len(text.encode()),
        "skipped": {},
        "source": "packaged",
    }
    assert 15_000 < report.characters < 30_000
    assert not cache.exists()  # nothing was fetched


def test_the_default_corpus_is_a_packaged_one() -> None:
    assert Prepare().corpus in PACKAGED


def test_the_verdict_is_fetched_once(
    tmp_path: Path, cache: Path, web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web.url("/the-verdict.txt", STORY)
    digest = hashlib.sha256(STORY.encode()).hexdigest()
    monkeypatch.setitem(FETCHED, "the-verdict", (url, digest))
    for folder in ("one", "two"):
        report, rows = prepared("the-verdict", tmp_path / folder)
        assert (report.corpus, report.source, report.sha256) == (
            "the-verdict",
            url,
            digest,
        )
        assert [row.text for row in rows] == [STORY]
    assert web.asked == ["/the-verdict.txt"]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path, texts: Path) -> None:
    report, rows = prepared(texts, tmp_path / "corpus")
    assert [(row.source, row.title, row.text) for row in rows] == [
        ("a.txt.gz", "a", "a"),
        ("b.jsonl:1", "b.jsonl:1", "one"),
        ("b.jsonl:2", "Two", "two"),
        ("b/a.MD", "a", "b/a"),
        ("z.txt", "z", "z"),
    ]
    assert len({row.id for row in rows}) == 5
    assert (report.corpus, report.source) == ("texts", "local folder")


def test_ids_stay_when_documents_come(tmp_path: Path, texts: Path) -> None:
    _, before = prepared(texts, tmp_path / "before")
    (texts / "0.txt").write_text("new")
    _, after = prepared(texts, tmp_path / "after")
    assert {row.source: row.id for row in before}.items() < {r.source: r.id for r in after}.items()


def test_reports_name_nothing_of_the_machine(tmp_path: Path, texts: Path) -> None:
    report, _ = prepared(texts, tmp_path / "corpus")
    written = report.model_dump_json() + identify(Prepare(corpus=str(texts))).model_dump_json()
    for path in (tmp_path / "corpus").iterdir():
        written += path.read_bytes().decode("latin-1")
    assert str(tmp_path) not in written
    assert tmp_path.name not in written


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path, texts: Path) -> None:
    first, _ = prepared(texts, tmp_path / "corpus")
    before = {path.name: path.read_bytes() for path in (tmp_path / "corpus").iterdir()}
    for path in texts.rglob("*.*"):
        os.utime(path, (1, 1))
    second, _ = prepared(texts, tmp_path / "corpus")
    assert first == second
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "corpus").iterdir()}


def test_empty_documents_are_left_out_and_counted(tmp_path: Path, texts: Path) -> None:
    (texts / "empty.txt").write_text("")
    (texts / "blank.txt").write_text(" \n")
    report, rows = prepared(texts, tmp_path / "corpus")
    assert report.skipped == {"empty": 2}
    assert report.documents == len(rows) == 5


def test_relative_paths_hold_from_the_main_repository_too(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workspace").mkdir()
    monkeypatch.chdir(tmp_path / "workspace")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    report, _ = prepared("texts/z.txt", Path("data/corpus"))
    assert (report.corpus, report.source) == ("z.txt", "local file")


@pytest.mark.parametrize("path", ["/story.txt", "/1342.txt.utf-8", "/files/story", "/story.txt.gz"])
def test_urls(tmp_path: Path, cache: Path, web: Any, path: str) -> None:
    body = gzip.compress(STORY.encode()) if path.endswith(".gz") else STORY.encode()
    url = web.url(path, body)
    report, rows = prepared(f"{url}?key=secret", tmp_path / "corpus")
    assert [row.text for row in rows] == [STORY]
    assert report.corpus == report.source == rows[0].source == url


def test_a_url_of_jsonl_with_its_digest(tmp_path: Path, cache: Path, web: Any) -> None:
    body = b'{"story": "one"}\n{"story": "two"}\n'
    url = web.url("/stories.jsonl", body)
    digest = hashlib.sha256(body).hexdigest()
    for folder in ("one", "two"):
        _, rows = prepared(url, tmp_path / folder, text_field="story", sha256=digest)
        assert [row.text for row in rows] == ["one", "two"]
    assert len(web.asked) == 1


def test_a_local_files_digest(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    digest = hashlib.sha256(STORY.encode()).hexdigest()
    assert prepared(path, tmp_path / "corpus", sha256=digest)[0].sha256 == digest
    with pytest.raises(UserError, match=f"sha256 is {digest}, not the expected {'0' * 64}"):
        prepared(path, tmp_path / "corpus", sha256="0" * 64)


PEAK = """
import resource, sys
from pathlib import Path
from pipeline.corpus.corpora import prepare
from pipeline.params import Prepare

prepare(Prepare(corpus=sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peak(name: str, size: int) -> int:
        block = (STORY * 4000).encode()
        with open(tmp_path / name, "wb") as file:
            for _ in range(size // len(block)):
                file.write(block)
        command = [sys.executable, "-c", PEAK, str(tmp_path / name), str(tmp_path / "corpus")]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(ended.stdout) * 1024

    small, large = peak("small.txt", 20_000_000), peak("large.txt", 80_000_000)
    assert large - small < 20_000_000


@pytest.fixture
def sorts(tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with names that are easily got wrong."""
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n')
    (tmp_path / "book.epub").write_text("x")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "book.epub").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"corpus": "the-verdit"},
            r"'the-verdit' is no corpus \(did you mean the-verdict\?\); known",
        ),
        ({"corpus": "xyzzy"}, "'xyzzy' is no corpus; known are .*, the-verdict"),
        ({"corpus": "gone.txt"}, "there is no file or folder gone.txt"),
        ({"corpus": "./the-verdict"}, "there is no file or folder ./the-verdict"),
        ({"corpus": "book.epub"}, r"book.epub is not read; a file must be \.txt, \.md"),
        (
            {"corpus": "nothing"},
            r"nothing in the folder nothing is \.txt, \.md, \.jsonl, \.parquet",
        ),
        ({"corpus": "empty.txt"}, "empty.txt is empty"),
        ({"corpus": "blank.jsonl"}, "blank.jsonl is empty"),
        ({"corpus": "texts", "sha256": "0" * 64}, "sha256 is for one file, but .* texts has 4"),
        ({"corpus": "nope://example.org/a.txt"}, "nope://example.org/a.txt: Protocol not known"),
        ({"corpus": "s3://bucket/a.txt"}, "s3://bucket/a.txt: Install s3fs to access S3"),
        ({"corpus": "memory://void/"}, "nothing at memory://void/ is .txt, .md, .jsonl"),
        ({"corpus": "file://gone"}, "there is no file or folder file://gone"),
        ({"corpus": "http://[::1"}, "not a valid URL"),
        ({"corpus": "texts/b.jsonl", "text_field": "body"}, "b.jsonl:1: has no field 'body'"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_lost(
    sorts: Path, cache: Path, settings: dict[str, Any], said: str
) -> None:
    prepared("texts/z.txt", sorts / "corpus")
    before = {path.name: path.read_bytes() for path in (sorts / "corpus").iterdir()}
    with pytest.raises(UserError, match=said) as caught:
        prepare(Prepare(**settings), sorts / "corpus")
    assert "\n" not in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in (sorts / "corpus").iterdir()}
    assert not list(sorts.glob(".corpus*"))


def test_a_packaged_text_that_was_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, (file, sha256) = next(iter(PACKAGED.items()))
    (tmp_path / file).write_text("changed")
    monkeypatch.setattr(corpora, "TEXTS", tmp_path)
    with pytest.raises(UserError, match=sha256):
        prepare(Prepare(corpus=name), tmp_path / "corpus")


class TestIdentify:
    """By what DVC sees that a local corpus is another one."""

    def test_names_and_urls_stand_for_themselves(self, cache: Path) -> None:
        for name in NAMES:
            assert identify(Prepare(corpus=name)) == CorpusIdentity(corpus=name)
        url = "https://example.org/a.txt"
        assert identify(Prepare(corpus=f"{url}?key=secret")) == CorpusIdentity(corpus=url)

    def test_it_changes_with_what_is_read_and_with_nothing_else(self, texts: Path) -> None:
        def now() -> Any:
            return identify(Prepare(corpus=str(texts)))

        first = now()
        os.utime(texts / "z.txt", (1, 1))
        (texts / "notes").write_text("not read")
        assert now() == first
        seen = [first]
        (texts / "z.txt").write_text("edited")
        seen.append(now())
        (texts / "z.txt").rename(texts / "y.txt")
        seen.append(now())
        (texts / "new.txt").write_text("")
        seen.append(now())
        assert len({str(one) for one in seen}) == 4

    @pytest.mark.parametrize("corpus", ["the-verdit", "./gone.txt"])
    def test_it_names_what_is_not_there(self, corpus: str) -> None:
        with pytest.raises(UserError, match=r"prepare\.corpus"):
            identify(Prepare(corpus=corpus))
