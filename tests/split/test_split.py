"""Splits of a corpus: what goes where, and that no text is lost on the way."""

from __future__ import annotations

import random
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.corpus import parquet
from pipeline.corpus.corpora import prepare
from pipeline.corpus.documents import Document
from pipeline.corpus.parquet import CorpusWriter
from pipeline.errors import UserError
from pipeline.params import Prepare
from pipeline.reports import SplitCounts, SplitReport
from pipeline.split import writer as tokens_module
from pipeline.split.sides import Content
from pipeline.split.split import split
from pipeline.system.files import folder_aside, sha256_of
from pipeline.tokens.tokenizer import END_OF_TEXT, decode, encode
from pipeline.tokens.windows import Tokens, TokenShard, Windows

WORDS = "It was late, and the clock struck; nobody's home.\n"


def write_corpus(folder: Path, texts: dict[str, str | list[str]]) -> Path:
    """A corpus of documents by id; a list is a document in parts."""
    with folder_aside(folder) as aside:
        writer = CorpusWriter(aside)
        for name, text in texts.items():
            parts = [text] if isinstance(text, str) else text
            writer.write(Document(name, name, f"{name}.txt", parts))
        writer.close("mine")
    return folder


def documents_of(tokens: Tokens) -> list[str]:
    """The texts between the ends of text."""
    ids = tokens.read(0, len(tokens)).tolist()
    assert ids[-1] == END_OF_TEXT
    runs = groupby(ids, key=lambda token: token == END_OF_TEXT)
    return [decode(list(run)) for is_end, run in runs if not is_end]


def prose(seed: int, words: int) -> str:
    """A text that shares no run of tokens with those of other seeds."""
    dice = random.Random(seed)
    return " ".join("".join(dice.choices("aeilnorst", k=5)) for _ in range(words)) + ".\n"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_one_document_is_cut_by_characters(tmp_path: Path) -> None:
    text = "naïve " * 30 + "<|endoftext|>"
    corpus = write_corpus(tmp_path / "corpus", {"a": text})
    report = split(corpus, tmp_path / "tokens", 0.75)
    cut = int(len(text) * 0.75)
    for name, part in (("train", text[:cut]), ("val", text[cut:])):
        tokens = Tokens.open(tmp_path / "tokens" / name)
        assert tokens.read(0, len(tokens)).tolist() == encode(part)  # and no end of text
        counts = SplitCounts(
            tokens=len(encode(part)),
            documents=1,
            characters=len(part),
            bytes=len(part.encode()),
        )
        assert report.splits[name] == counts
        assert counts.model_dump().items() <= tokens.meta.model_dump().items()
    assert report.corpus == "mine"


def test_meta_describes_the_split(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"a": WORDS})
    report = split(corpus, tmp_path / "tokens", 0.5)
    meta = Tokens.open(tmp_path / "tokens" / "val").meta
    assert (meta.split, meta.encoding, meta.dtype) == ("val", "gpt2", "uint16")
    assert (meta.corpus, meta.corpus_sha256) == ("mine", report.corpus_sha256)
    assert meta.shards == (TokenShard(file="00000.bin", tokens=meta.tokens),)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.text(min_size=1).filter(str.strip), min_size=30, max_size=40, unique_by=Content.of)
)
def test_many_documents_go_whole_to_a_side(tmp_path: Path, texts: list[str]) -> None:
    named: dict[str, str | list[str]] = {f"id{n}": text for n, text in enumerate(texts)}
    report = split(write_corpus(tmp_path / "corpus", named), tmp_path / "tokens", 0.5)
    found = {s: documents_of(Tokens.open(tmp_path / "tokens" / s)) for s in ("train", "val")}
    assert sorted(found["train"] + found["val"]) == sorted(texts)
    for documents in found.values():
        rest = iter(texts)
        assert all(text in rest for text in documents)  # in the corpus's order
    assert {name: report.splits[name].documents for name in found} == {
        name: len(documents) for name, documents in found.items()
    }


def test_few_documents_change_their_split_when_others_come(tmp_path: Path) -> None:
    def splits_of(names: list[str]) -> dict[str, str]:
        corpus = write_corpus(tmp_path / "corpus", {name: f"My name is {name}" for name in names})
        split(corpus, tmp_path / "tokens", 0.8)
        return {
            document: name
            for name in ("train", "val")
            for document in documents_of(Tokens.open(tmp_path / "tokens" / name))
        }

    some = splits_of([f"n{i}" for i in range(40)])
    more = splits_of([f"m{i}" for i in range(40)] + [f"n{i}" for i in reversed(range(40))])
    assert len(some.items() - more.items()) <= 2


def test_sizes_keep_to_the_shares(tmp_path: Path) -> None:
    """A text of a megabyte and nine notes."""
    for number in range(4):
        seeds = range(10 * number, 10 * number + 9)
        notes: dict[str, str | list[str]] = {f"note {n}": prose(n, 90) for n in seeds}
        texts = notes | {f"big {number}": [WORDS * 2000] * 10}
        lines: list[str] = []
        corpus = write_corpus(tmp_path / "corpus", texts)
        report = split(corpus, tmp_path / "tokens", 0.9, notify=lines.append)
        assert (report.train.documents, report.val.documents) == (1, 9)
        (line,) = lines
        assert re.fullmatch(
            r"val has 0\.\d\d% of the tokens, where 10\.00% were asked for: documents go whole to "
            rf"a split, and the largest, 'big {number}\.txt', is 99\.\d\d% of the text",
            line,
        )


@pytest.mark.parametrize("group", [100, 1 << 21])
@pytest.mark.parametrize("threads", [1, 3])
def test_copies_keep_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, threads: int
) -> None:
    """Under other names, with other line ends and case, in one row group or over many."""
    monkeypatch.setattr(parquet, "GROUP", group)
    texts: dict[str, str | list[str]] = {}
    for number in range(40):
        text = prose(number, 30) * 3
        texts[f"{number}.txt"] = text
        texts[f"{number}-2.txt"] = [text[:77], text[77:170], text[170:]]
        texts[f"z{number}.txt"] = "\ufeff" + text.upper().replace("\n", "\r\n") + "\n"
    corpus = write_corpus(tmp_path / "corpus", texts)
    report = split(corpus, tmp_path / "tokens", 0.7, 0.15, threads=threads)
    side = {
        "".join(document.replace("\ufeff", "").lower().split()): name
        for name in report.splits
        for document in documents_of(Tokens.open(tmp_path / "tokens" / name))
    }
    assert len(side) == 40  # no text is on two sides
    assert sum(counts.documents for counts in report.splits.values()) == 120
    assert all(counts.documents % 3 == 0 for counts in report.splits.values())
    assert report.shared is not None
    assert {name: one.near_copies for name, one in report.shared.items()} == {"val": 0, "test": 0}
    assert max(one.share for one in report.shared.values()) == 0


class TestSharedText:
    """What validation and test share with training is marked, reported and warned of."""

    def test_near_copies(self, tmp_path: Path) -> None:
        texts: dict[str, str | list[str]] = {f"id{n}": prose(n, 60) for n in range(60)}
        texts |= {f"copy{n}": f"{prose(n, 60)} edited {n}" for n in range(60)}
        corpus = write_corpus(tmp_path / "corpus", texts)
        lines: list[str] = []
        report = split(corpus, tmp_path / "tokens", 0.8, notify=lines.append)
        assert report.shared is not None
        val = report.shared["val"]
        found = [documents_of(Tokens.open(tmp_path / "tokens" / s)) for s in ("train", "val")]
        beginnings = [[text[:100] for text in documents] for documents in found]
        copies = [n for n, start in enumerate(beginnings[1]) if start in beginnings[0]]
        assert len(copies) > 5
        assert val.near_copies == len(copies)
        tokens = sum(len(encode(found[1][n])) + 1 for n in copies)
        assert val.near_copies_share == pytest.approx(tokens / report.val.tokens)
        assert val.share == pytest.approx(val.near_copies_share, rel=0.1)
        (line,) = lines
        assert line == (
            f"{val.share:.1%} of the tokens of val stand in the training text too, in runs of 8 or "
            f"more, near-copies of training documents are {len(copies)} of "
            f"{report.val.documents}: losses on val flatter what learns texts by heart "
            "(docs/corpora.md)"
        )

    def test_the_mask_holds_each_token_of_a_copied_passage(self, tmp_path: Path) -> None:
        copied = ".\n Call me Ishmael. Some years ago, never mind how long precisely"
        texts = (prose(1, 300), prose(2, 400), prose(3, 20))
        text = copied.join(one.removesuffix(".\n") for one in texts)
        corpus = write_corpus(tmp_path / "corpus", {"a": text})
        report = split(corpus, tmp_path / "tokens", 0.8)
        windows = Windows.open(tmp_path / "tokens" / "val", 16)
        mask = windows.shared(range(len(windows)))
        assert mask is not None
        _, targets = windows.batch(range(len(windows)))
        assert decode(targets.numpy()[mask].tolist()) == copied
        assert report.shared is not None
        assert report.shared["val"].tokens == len(encode(copied))
        assert report.shared["val"].near_copies == 0
        assert Windows.open(tmp_path / "tokens" / "train", 16).shared([0]) is None

    def test_prose_is_not_warned_of(self, tmp_path: Path) -> None:
        lines: list[str] = []
        prepare(Prepare(), tmp_path / "corpus")
        report = split(tmp_path / "corpus", tmp_path / "tokens", 0.9, notify=lines.append)
        assert report.shared is not None
        assert 0 < report.shared["val"].share < 0.05
        assert lines == []


def test_shares_that_come_near_are_not_spoken_of(tmp_path: Path) -> None:
    lines: list[str] = []
    texts: dict[str, str | list[str]] = {f"id{n}": prose(n, 10 * (n % 7 + 1)) for n in range(200)}
    report = split(write_corpus(tmp_path / "corpus", texts), tmp_path / "tokens", 0.9)
    share = report.val.tokens / (report.val.tokens + report.train.tokens)
    assert lines == []
    assert share == pytest.approx(0.1, abs=0.012)


def test_a_document_in_parts_is_one(tmp_path: Path) -> None:
    texts: dict[str, str | list[str]] = {f"id{n}": [WORDS, f" {n}", WORDS] for n in range(20)}
    split(write_corpus(tmp_path / "corpus", texts), tmp_path / "tokens", 0.5)
    found = [documents_of(Tokens.open(tmp_path / "tokens" / s)) for s in ("train", "val")]
    assert sorted(found[0] + found[1]) == sorted(f"{WORDS} {n}{WORDS}" for n in range(20))


def test_one_document_in_parts_is_cut_in_the_right_place(tmp_path: Path) -> None:
    parts = [WORDS[start : start + 7] for start in range(0, len(WORDS), 7)]
    corpus = write_corpus(tmp_path / "corpus", {"a": list(parts)})
    for fraction in (0.1, 0.14, 0.5, 0.9):
        report = split(corpus, tmp_path / "tokens", fraction)
        cut = int(len(WORDS) * fraction)
        assert report.train.characters == cut
        tokens = Tokens.open(tmp_path / "tokens" / "train")
        assert decode(tokens.read(0, len(tokens)).tolist()) == WORDS[:cut]


def test_any_number_of_threads_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP", 100)  # many row groups, a worker's parts
    texts: dict[str, str | list[str]] = {f"id{n}": WORDS * (n + 1) for n in range(40)}
    corpus = write_corpus(tmp_path / "corpus", texts)
    progress: list[int] = []
    reports = []
    for threads in (1, 5):
        folder = tmp_path / str(threads)
        reports.append(split(corpus, folder, 0.6, threads=threads, progress=progress.append))
    assert reports[0] == reports[1]
    assert content(tmp_path / "1") == content(tmp_path / "5")
    assert len(progress) > 40
    assert sum(progress) == 2 * sum(len(str(text)) for text in texts.values())


@pytest.mark.parametrize("group", [1, 60, 1000])
def test_any_partition_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """However the corpus is cut into row groups, long documents across them included."""
    many: dict[str, str | list[str]] = {
        f"id{n}": [WORDS, f" né {n}"] * (n % 4 + 1) for n in range(30)
    }
    one: dict[str, str | list[str]] = {"a": [WORDS, "né ", WORDS, WORDS] * 9}
    for name, texts in (("many", many), ("one", one)):
        fractions = (0.6, 0.2)
        reports = []
        for size in (1 << 21, group):
            monkeypatch.setattr(parquet, "GROUP", size)
            corpus = write_corpus(tmp_path / "corpus", texts)
            reports.append(split(corpus, tmp_path / f"{name}{size}", *fractions))
        assert reports[0] == reports[1]
        assert content(tmp_path / f"{name}{1 << 21}") == content(tmp_path / f"{name}{group}")


class TestTheTestSplit:
    """`split.test_fraction` takes from validation; training stays what it was."""

    def test_one_document(self, tmp_path: Path) -> None:
        corpus = write_corpus(tmp_path / "corpus", {"a": WORDS * 20})
        report = split(corpus, tmp_path / "tokens", 0.5, 0.25)
        splits = {s: Tokens.open(tmp_path / "tokens" / s) for s in ("train", "val", "test")}
        texts = {s: decode(tokens.read(0, len(tokens)).tolist()) for s, tokens in splits.items()}
        assert "".join(texts.values()) == WORDS * 20
        assert [len(text) for text in texts.values()] == [500, 250, 250]
        assert report.test.characters == 250
        assert splits["test"].meta.split == "test"

    def test_many_documents(self, tmp_path: Path) -> None:
        named: dict[str, str | list[str]] = {f"id{n}": f"document {n}" for n in range(60)}
        corpus = write_corpus(tmp_path / "corpus", named)
        split(corpus, tmp_path / "two", 0.5)
        split(corpus, tmp_path / "three", 0.5, 0.2)
        three = {
            s: documents_of(Tokens.open(tmp_path / "three" / s)) for s in ("train", "val", "test")
        }
        assert three["test"] == [t for t in named.values() if Content.of(t).position >= 0.8]
        two = {s: documents_of(Tokens.open(tmp_path / "two" / s)) for s in ("train", "val")}
        assert three["train"] == two["train"]
        assert sorted(three["val"] + three["test"]) == sorted(two["val"])

    def test_it_is_never_empty(self, tmp_path: Path) -> None:
        corpus = write_corpus(tmp_path / "corpus", {f"id{n}": f"{n:02} {WORDS}" for n in range(30)})
        lines: list[str] = []
        report = split(corpus, tmp_path / "tokens", 0.5, 1e-5, notify=lines.append)
        assert report.test is not None
        assert report.test.documents == 1
        assert "test has 3.33% of the tokens, where 0.00% were asked for" in lines[0]
        few = write_corpus(tmp_path / "few", {"a": WORDS, "b": "And so on."})
        with pytest.raises(UserError, match=r"split\.test_fraction 0\.1 leaves .* give more"):
            split(few, tmp_path / "tokens", 0.5, 0.1)


def statistics_of(report: SplitReport) -> dict[str, Any]:
    """As they are written."""
    held: dict[str, Any] = report.model_dump(mode="json")["statistics"]
    return held


def test_statistics(tmp_path: Path) -> None:
    texts: dict[str, str | list[str]] = {"a": " a" * 3, "b": " a b", "c": " a", "d": [" b"] * 9}
    report = split(write_corpus(tmp_path / "corpus", texts), tmp_path / "tokens", 0.5)
    statistics = statistics_of(report)
    assert statistics["most_common"] == [
        {"token": 275, "text": " b", "count": 10},
        {"token": 257, "text": " a", "count": 5},
    ]
    assert statistics["tokens_per_document"] == 15 / 4
    assert statistics["bytes_per_token"] == statistics["characters_per_token"] == 2
    assert statistics["distinct_tokens"] == 2
    lengths = statistics["tokens_a_document"]
    assert [one["documents"] for one in lengths] == [1, 2, 0, 1]
    assert lengths[0] == {"from": 1, "below": 2, "documents": 1}


def test_statistics_of_one_document(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"a": " a" * 10})
    statistics = statistics_of(split(corpus, tmp_path / "tokens", 0.5))
    assert statistics["tokens_per_document"] == 10
    assert statistics["tokens_a_document"] == [{"from": 8, "below": 16, "documents": 1}]


def test_shards_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"a": WORDS * 20})
    split(corpus, tmp_path / "whole", 0.9)
    monkeypatch.setattr(tokens_module, "SHARD", 100)
    report = split(corpus, tmp_path / "cut", 0.9)
    for name in ("train", "val"):
        whole, cut = Tokens.open(tmp_path / "whole" / name), Tokens.open(tmp_path / "cut" / name)
        sizes = [shard.tokens for shard in cut.meta.shards]
        assert all(size == 100 for size in sizes[:-1])
        assert sum(sizes) == report.splits[name].tokens == len(whole)
        assert np.array_equal(whole.read(0, len(whole)), cut.read(0, len(cut)))
    assert len(Tokens.open(tmp_path / "cut" / "train").meta.shards) > 2


def test_tokens_are_little_endian(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"a": "Hello, Hello,"})
    split(corpus, tmp_path / "tokens", 0.5)
    raw = (tmp_path / "tokens" / "train" / "00000.bin").read_bytes()
    assert list(raw[:4]) == [15496 % 256, 15496 // 256, 11, 0]


def test_what_was_there_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "tokens" / "test").mkdir(parents=True)
    split(write_corpus(tmp_path / "corpus", {"a": WORDS}), tmp_path / "tokens", 0.5)
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == ["train", "val"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "tokens"]


def test_one_short_document_cannot_be_split(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"a": "x"})
    with pytest.raises(
        UserError, match=r"split\.train_fraction 0\.9 .* mine .* it has 1 character;"
    ):
        split(corpus, tmp_path / "tokens", 0.9)
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_no_split_is_empty_where_there_are_documents_for_both(
    tmp_path: Path, fraction: float
) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"a": WORDS, "b": "And so on."})
    report = split(corpus, tmp_path / "tokens", fraction)
    assert (report.train.documents, report.val.documents) == (1, 1)


def test_documents_that_are_all_alike_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    writer = CorpusWriter(tmp_path / "corpus")
    for number in range(5):
        writer.write(Document("same", "", f"a.jsonl:{number}", [WORDS]))
    writer.close("mine")
    with pytest.raises(UserError, match="give more of them"):
        split(tmp_path / "corpus", tmp_path / "tokens", 0.5)


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"_meta\.json: no such file"):
        split(tmp_path / "corpus", tmp_path / "tokens", 0.9)


def test_the_tokens_of_the_default_corpus_are_what_they_were(tmp_path: Path) -> None:
    """Of one document no byte of the tokens may ever change: every loss rests on them."""
    prepare(Prepare(), tmp_path / "corpus")
    split(tmp_path / "corpus", tmp_path / "tokens", 0.9)
    tokens = tmp_path / "tokens"
    assert {name: sha256_of(tokens / name / "00000.bin") for name in ("train", "val")} == {
        "train": "2f9d10405c928f4c05eae77be3042f21a7a000c1a13c718d1085cfbfb56d192d",
        "val": "fb386e0dbc3d3404ec915d3a1ab9023a59f4c27e848aadd9d4813f55f2a88815",
    }


def test_the_default_corpus_has_as_many_windows_as_the_books(tmp_path: Path) -> None:
    """The book's "The Verdict" has 18 for training and 2 for validation."""
    prepare(Prepare(), tmp_path / "corpus")
    report = split(tmp_path / "corpus", tmp_path / "tokens", 0.9)
    assert (report.train.tokens, report.val.tokens) == (4_586, 534)
    windows = [len(Windows.open(tmp_path / "tokens" / s, 256)) for s in ("train", "val")]
    assert windows in ([17, 2], [18, 2])
