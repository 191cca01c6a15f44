"""The referee's own reading of tokens: windows counted by hand, and texts of many documents."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.corpus.documents import Document
from pipeline.corpus.parquet import Corpus, CorpusWriter
from pipeline.errors import UserError
from pipeline.split.split import split
from pipeline.tokens.tokenizer import END_OF_TEXT, encode
from pipeline.verification import files
from pipeline.verification.check import difference
from pipeline.verification.files import SplitFile
from pipeline.verification.text import text_problems
from tests.helpers.tokens import write_split

SPLITS = ("train", "val", "test")
TEXTS = [f"Document {number}, naïve — 漢字. " * (number % 5 + 1) for number in range(20)]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shards=st.lists(st.lists(st.integers(0, END_OF_TEXT), min_size=1, max_size=9), min_size=1),
    length=st.integers(1, 7),
    most=st.none() | st.integers(1, 9),
)
def test_windows_lie_end_to_end(
    tmp_path: Path, shards: list[list[int]], length: int, most: int | None
) -> None:
    folder = write_split(tmp_path / "train", *shards)
    tokens = [token for shard in shards for token in shard]
    starts = [at for at in range(0, len(tokens), length) if at + length < len(tokens)]
    if not starts:
        with pytest.raises(UserError, match="tokens make no window of"):
            SplitFile(folder, length, most)
        return
    found = SplitFile(folder, length, most)
    step = math.ceil(len(starts) / most) if most else 1
    assert [i * length for i in found.chosen] == starts[::step]
    inputs, targets = found.batch(found.chosen)
    assert inputs.tolist() == [tokens[at : at + length] for at in starts[::step]]
    assert targets.tolist() == [tokens[at + 1 : at + length + 1] for at in starts[::step]]


def test_a_number_that_is_no_token_is_refused(tmp_path: Path) -> None:
    found = SplitFile(write_split(tmp_path / "val", [1, 2, 3, 50257]), 2, None)
    with pytest.raises(UserError, match=r"val/00000\.bin: holds fewer tokens, or others"):
        found.read(0, 4)


def test_end_of_text_is_no_byte(tmp_path: Path) -> None:
    tokens = [*encode("naïve"), END_OF_TEXT, *encode(" text")]
    found = SplitFile(write_split(tmp_path / "val", [1, *tokens]), len(tokens), None)
    assert found.target_bytes == len("naïve text".encode())


@pytest.fixture(params=["whole", "in pieces"])
def many(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of 20 documents, one of them in two parts, and its splits."""
    if request.param == "in pieces":
        monkeypatch.setattr(files, "PIECE", 7)
    (tmp_path / "corpus").mkdir()
    writer = CorpusWriter(tmp_path / "corpus")
    for number, text in enumerate(TEXTS):
        parts = [text[:12], text[12:]] if number == 4 else [text]
        writer.write(Document(f"id {number}", "title", f"{number}.txt", parts))
    writer.close("many")
    split(tmp_path / "corpus", tmp_path / "tokens", 0.6, 0.2)
    return tmp_path


def problems(folder: Path) -> list[str]:
    sha256 = Corpus.open(folder / "corpus").meta.sha256
    splits = {name: SplitFile(folder / "tokens" / name, 8, None) for name in SPLITS}
    read: list[int] = []
    found = text_problems(folder / "corpus", sha256, splits, progress=read.append)
    assert found or sum(read) == sum(map(len, splits.values()))
    return [line.replace(f"{folder}/", "") for line in found]


def test_many_documents_are_those_of_the_corpus(many: Path) -> None:
    assert problems(many) == []


def test_documents_that_are_not_the_corpus_s(many: Path) -> None:
    path = many / "tokens/val/00000.bin"
    tokens = np.fromfile(path, "<u2")
    first, *_ = np.flatnonzero(tokens == END_OF_TEXT)
    changed = tokens.copy()
    changed[first + 1] = 11
    write_split(path.parent, changed)
    assert problems(many) == [
        "tokens/val: 1 document not, or not so often, in corpus, the first is number 2",
        "corpus: 1 document in no split",
    ]
    write_split(path.parent, tokens[first + 1 :])
    assert problems(many) == ["corpus: 1 document in no split"]
    write_split(path.parent, np.concatenate([tokens, tokens[: first + 1]]))
    (twice,) = problems(many)
    assert twice.startswith(
        "tokens/val: 2 documents not, or not so often, in corpus, the first is number 1"
    )
    write_split(path.parent, tokens[:-1])  # the last has no end
    assert len(problems(many)) == 2


def test_one_document_goes_on_through_the_splits(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    writer = CorpusWriter(tmp_path / "corpus")
    writer.write(Document("id", "title", "one.txt", ["".join(TEXTS)]))
    writer.close("one")
    split(tmp_path / "corpus", tmp_path / "tokens", 0.6, 0.2)
    assert problems(tmp_path) == []
    path = tmp_path / "tokens/test/00000.bin"
    tokens = np.fromfile(path, "<u2")
    write_split(path.parent, tokens[:-3])
    assert problems(tmp_path) == ["corpus: its text goes on where the tokens of all splits end"]
    tokens[9] = 0  # an exclamation mark
    write_split(path.parent, tokens)
    (line,) = problems(tmp_path)
    assert line.startswith("tokens/test: token 9 is no token of the text in corpus: '!")
    write_split(path.parent, np.concatenate([np.fromfile(path, "<u2")[:0], encode(TEXTS[0] * 9)]))
    assert problems(tmp_path)[0].startswith("tokens/test: token 0 is no token of the text")
    splits = {"train": SplitFile(tmp_path / "tokens/train", 8, None)}
    (line,) = text_problems(tmp_path / "corpus", "5" * 64, splits, progress=lambda _: None)
    assert "is another corpus than that of the reports" in line


def test_differences_of_numbers_that_are_none() -> None:
    nan, inf = math.nan, math.inf
    assert difference([nan, inf, -inf, 1.0], [nan, inf, -inf, 1.0]) == 0.0
    assert difference(1.0, 1.25) == 0.25
    for pair in ((nan, 1.0), (inf, 1.0), (inf, -inf), (1.0, nan)):
        assert difference(*pair) == inf
