"""What the page says of the text."""

from __future__ import annotations

from typing import Any

from pipeline.comparison.corpus_section import SHOWN_EXCERPTS, corpus_section


def reports(documents: int) -> tuple[dict[str, Any], dict[str, Any]]:
    lengths = [{"from": 4, "below": 8, "documents": documents}]
    excerpt = {"source": "s", "title": "t", "text": "words"}
    texts = {"characters_a_document": lengths, "excerpts": [excerpt] * 12}
    tokens = {
        "tokens_per_document": 1234.5,
        "characters_per_token": 3.949,
        "distinct_tokens": 1174,
        "most_common": [{"token": 262, "text": " the", "count": 216}],
        "tokens_a_document": lengths,
    }
    corpus = {"documents": documents, "characters": 20223, "skipped": {"empty": 2}}
    sides = {"train": {"tokens": 4586}, "val": {"tokens": 534}, "test": {"tokens": 10}}
    return {**corpus, "statistics": texts}, {**sides, "statistics": tokens}


def test_one_document_has_neither_mean_nor_histogram() -> None:
    section = corpus_section(*reports(1))
    assert section is not None
    assert section.sizes["document"] == "1"
    assert section.sizes["tokens"] == "5,130"
    assert section.sizes["characters per token"] == "3.95"
    assert "tokens per document" not in section.sizes
    assert section.lengths is None
    assert section.tokens == [(" the", 216)]


def test_many_documents_have_both_and_a_few_excerpts() -> None:
    section = corpus_section(*reports(2000))
    assert section is not None
    assert section.sizes["documents"] == "2,000"
    assert section.sizes["tokens per document"] == "1,234"
    assert section.lengths is not None
    assert section.lengths.alt == "Documents by their tokens: 2,000 of 4 to 7."
    assert section.left_out == {"empty": 2}
    assert len(section.excerpts) == SHOWN_EXCERPTS


def test_reports_without_statistics_have_no_section() -> None:
    corpus, split = reports(1)
    del corpus["statistics"]
    assert corpus_section(corpus, split) is None
