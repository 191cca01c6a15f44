"""The prepare stage at the terminal: what it writes, and one line for every mistake."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from pipeline.reports import CorpusReport
from stages.prepare import main

HEAVY = {"torch", "pyarrow", "pandas", "tiktoken", "requests", "pydantic"}


def run(folder: Path, **prepare: object) -> Result:
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump({"prepare": {"on_error": "fail"} | prepare}, file)
    arguments = {"params": "params.yaml", "corpus": "data/corpus", "report": "reports/corpus.json"}
    options = [part for name, path in arguments.items() for part in (f"--{name}", folder / path)]
    return CliRunner().invoke(main, [str(option) for option in options])


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("data", "reports")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with texts that cannot be used, where a corpus was prepared before."""
    files = {
        "latin1.txt": "café".encode("latin-1"),
        "utf16.txt": "hello".encode("utf-16"),
        "empty.txt": b"",
        "bom.txt": b"\xef\xbb\xbf",
        "blank.md": b" \n\n",
        "plain.txt.gz": b"not packed",
        "cut.txt.gz": gzip.compress(b"hello" * 99)[:-9],
        "broken.jsonl": b'{"text": "a"}\n{"text": \n',
        "field.jsonl": b'{"body": "a"}\n',
        "null.jsonl": b'{"text": "a"}\n{"text": null}\n',
        "list.jsonl": b"[1]\n",
        "half.jsonl": rb'{"text": "\ud83d"}',
        "broken.parquet": b"PAR1 and no more",
        "book.pdf": b"%PDF",
        "folder/book.pdf": b"%PDF",
        "good/1.txt": b"one",
        "good/2.txt": b"two",
        "spoilt/1.txt": b"one",
        "spoilt/2.txt": b"\xff",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "void").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path, corpus="good").exit_code == 0
    return tmp_path


def test_writes_the_corpus_and_its_report(place: Path) -> None:
    result = run(place, corpus="good")
    assert result.exit_code == 0
    assert sorted(outputs(place)) == [
        "data/corpus/00000.parquet",
        "data/corpus/_SHA256SUMS",
        "data/corpus/_meta.json",
        "reports/corpus.json",
    ]
    path = place / "reports" / "corpus.json"
    report = json.loads(path.read_text())
    about = ["corpus", "sha256", "documents", "characters", "bytes", "skipped", "source"]
    assert list(report) == [*about, "statistics", "_sha256"]
    assert report.pop("_sha256")
    assert CorpusReport.read(path).model_dump(mode="json") == report
    assert (report["corpus"], report["documents"], report["characters"]) == ("good", 2, 6)
    assert str(place) not in json.dumps(report)
    assert result.stderr == ""


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "a misspelt name": ({"corpus": "the-verdit"}, "did you mean the-verdict?"),
    "an unknown name": ({"corpus": "moby"}, "what-seemed-likely, the-verdict"),
    "a missing file": ({"corpus": "gone/a.txt"}, "no file or folder gone/a.txt"),
    "a file of another kind": ({"corpus": "book.pdf"}, ".txt, .md, .jsonl, .parquet"),
    "a folder of other files": ({"corpus": "folder"}, ".txt, .md, .jsonl, .parquet"),
    "an empty folder": ({"corpus": "void"}, "nothing in the folder void"),
    "no UTF-8": ({"corpus": "latin1.txt"}, "latin1.txt: byte 3 (0xe9) is not UTF-8"),
    "UTF-16": ({"corpus": "utf16.txt"}, "UTF-16"),
    "no UTF-8 in a folder": ({"corpus": "spoilt"}, "2.txt: byte 0 (0xff)"),
    "an empty file": ({"corpus": "empty.txt"}, "empty.txt is empty"),
    "only a mark": ({"corpus": "bom.txt"}, "bom.txt is empty"),
    "only blanks": ({"corpus": "blank.md"}, "blank.md is empty"),
    "no gzip": ({"corpus": "plain.txt.gz"}, "plain.txt.gz: not a whole gzip file"),
    "half a gzip": ({"corpus": "cut.txt.gz"}, "cut.txt.gz: not a whole gzip file"),
    "no JSON": ({"corpus": "broken.jsonl"}, "broken.jsonl:2: not a line of JSON"),
    "no text field": ({"corpus": "field.jsonl"}, "field.jsonl:1: has no field 'text'"),
    "a null": ({"corpus": "null.jsonl"}, "null.jsonl:2: 'text' must be a string"),
    "no object": ({"corpus": "list.jsonl"}, "list.jsonl:1: must be a JSON object"),
    "half a character": ({"corpus": "half.jsonl"}, "half.jsonl:1: 'text' holds half a character"),
    "no Parquet": ({"corpus": "broken.parquet"}, "broken.parquet: not a readable Parquet file"),
    "a wrong digest": ({"corpus": "good/1.txt", "sha256": "0" * 64}, "7692c3ad3540bb80"),
    "a digest of many": ({"corpus": "good", "sha256": "0" * 64}, "prepare.sha256 is for one file"),
    "another scheme": ({"corpus": "nope://example.org/a.txt"}, "Protocol not known: nope"),
    "no URL": ({"corpus": "http://[::1"}, "not a valid URL"),
    "nobody there": ({"corpus": "http://127.0.0.1:9/a.txt"}, "http://127.0.0.1:9/a.txt cannot be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_loses_nothing(place: Path, case: str) -> None:
    prepare, said = WRONG[case]
    before = outputs(place)
    result = run(place, **prepare)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert outputs(place) == before
    assert sorted(path.name for path in (place / "data").iterdir()) == ["corpus"]


def test_urls_that_give_no_text(place: Path, web: Any) -> None:
    before = outputs(place)
    cases = {
        web.url("/gone.txt", status=404): "404",
        web.url("/page.txt", "<!doctype html><title>Sign in</title>"): "web page",
        web.url("/short.txt", "x", headers={"Content-Length": "9"}): "cannot be fetched",
        web.url("/book.pdf", b"%PDF\xff"): "byte 4 (0xff) is not UTF-8",
    }
    for url, said in cases.items():
        result = run(place, corpus=url)
        assert result.exit_code == 1
        (line,) = (line for line in result.stderr.splitlines() if not line.startswith("fetch "))
        assert url in line
        assert said in line
    assert outputs(place) == before


def test_a_process_of_its_own_ends_in_one_line(place: Path) -> None:
    (place / "params.yaml").write_text("prepare: {corpus: empty.txt}\n")
    options = ["--corpus", "data/corpus", "--report", "reports/corpus.json"]
    ended = subprocess.run(
        [sys.executable, "-m", "stages.prepare", *options],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == "Error: prepare.corpus: empty.txt is empty: it holds no text\n"


@pytest.mark.parametrize("stage", ["prepare", "split", "identify"])
def test_help_loads_nothing_heavy(stage: str) -> None:
    code = f"import stages.{stage}, sys; print(*sys.modules)"
    root = Path(__file__).parents[2]
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(loaded.stdout.split())
