"""What the page says of the text."""

from __future__ import annotations

from pipeline.comparison.corpus_section import SHOWN_EXCERPTS, corpus_section
from pipeline.reports import CorpusReport, SharedText, SplitReport


def reports(documents: int) -> tuple[CorpusReport, SplitReport]:
    lengths = [{"from": 4, "below": 8, "documents": documents}]
    excerpt = {"source": "s", "title": "t", "text": "words"}
    texts = {
        "characters_per_document": 20223,
        "characters_a_document": lengths,
        "excerpts": [excerpt] * 12,
    }
    tokens = {
        "tokens_per_document": 1234.5,
        "characters_per_token": 3.949,
        "bytes_per_token": 3.96,
        "distinct_tokens": 1174,
        "most_common": [{"token": 262, "text": " the", "count": 216}],
        "tokens_a_document": lengths,
    }
    corpus = {"documents": documents, "characters": 20223, "bytes": 20300, "skipped": {"empty": 2}}
    corpus |= {"corpus": "c", "sha256": "5", "source": "s", "statistics": texts}
    sizes = {"documents": 1, "characters": 1, "bytes": 1}
    splits = {"train": 4586, "val": 534, "test": 10}
    split = {name: {"tokens": count, **sizes} for name, count in splits.items()}
    split |= {"corpus": "c", "corpus_sha256": "5", "statistics": tokens}
    return CorpusReport.model_validate(corpus), SplitReport.model_validate(split)


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


def test_what_stands_in_the_training_text_is_put_into_words() -> None:
    corpus, split = reports(2000)
    section = corpus_section(corpus, split)
    assert section is not None
    assert section.shared == ""  # reports of older versions
    val = SharedText(run_length=8, tokens=2, share=0.0213)
    test = SharedText(run_length=8, tokens=3, share=0.3, near_copies=1, near_copies_share=0.125)
    shared = {"shared": {"val": val, "test": test}}
    section = corpus_section(corpus, split.model_copy(update=shared))
    assert section is not None
    assert section.shared == (
        "2.1% of the validation tokens stand in the training text too, in runs of 8 or more. "
        "30.0% of the test tokens stand in the training text too, in runs of 8 or more; "
        "near-copies of training documents are 1 of 1, with 12.5% of the tokens."
    )


def test_reports_without_statistics_have_no_section() -> None:
    corpus, split = reports(1)
    assert corpus_section(corpus.model_copy(update={"statistics": None}), split) is None
