"""What the page shows of the text itself: how much there is, of which tokens, how long, excerpts.

The numbers are those that `prepare` and `split` report under `statistics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.pages.figure import Figure, drawn
from pipeline.plots.lengths import length_histograms
from pipeline.reports import CorpusReport, CorpusStatistics, SplitReport, SplitStatistics
from pipeline.tokens.tokenizer import VOCABULARY

SHOWN_EXCERPTS = 6
NAMES = {"train": "training tokens", "val": "validation tokens", "test": "test tokens"}


@dataclass(frozen=True)
class CorpusSection:
    """The part of the page on the text.

    Attributes:
        sizes: what is counted, and how much of it there is.
        shared: how much of validation and test stands in the training text.
        tokens: the most common ones with their counts.
        left_out: reason to documents.
        lengths: the histograms; None for a single document.
        excerpts: title and text.
    """

    sizes: Mapping[str, str]
    shared: str = ""
    tokens: Sequence[tuple[str, int]] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    lengths: Figure | None = None
    excerpts: Sequence[tuple[str, str]] = ()


def corpus_section(corpus: CorpusReport, split: SplitReport) -> CorpusSection | None:
    """Choose what to show of the text; None where the reports hold no statistics."""
    texts, tokens = corpus.statistics, split.statistics
    if texts is None or tokens is None:
        return None
    return CorpusSection(
        sizes=_sizes(corpus, split, tokens),
        shared=" ".join(_shared(split)),
        tokens=[(one.text, one.count) for one in tokens.most_common],
        left_out=corpus.skipped,
        lengths=_lengths(texts, tokens) if corpus.documents > 1 else None,
        excerpts=[(one.title, one.text) for one in texts.excerpts[:SHOWN_EXCERPTS]],
    )


def _sizes(corpus: CorpusReport, split: SplitReport, tokens: SplitStatistics) -> dict[str, str]:
    counts = {NAMES[name]: one.tokens for name, one in split.splits.items()}
    documents = corpus.documents
    mean = {"tokens per document": f"{tokens.tokens_per_document:,.0f}"}
    return {
        "document" if documents == 1 else "documents": f"{documents:,}",
        "characters": f"{corpus.characters:,}",
        "tokens": f"{sum(counts.values()):,}",
        **{name: f"{count:,}" for name, count in counts.items()},
        **(mean if documents > 1 else {}),
        "characters per token": f"{tokens.characters_per_token:.2f}",
        f"different tokens, of {VOCABULARY:,}": f"{tokens.distinct_tokens:,}",
    }


def _shared(split: SplitReport) -> Iterator[str]:
    for name, found in (split.shared or {}).items():
        line = (
            f"{found.share:.1%} of the {NAMES[name]} stand in the training text too, in runs of "
            f"{found.run_length} or more"
        )
        documents = split.splits[name].documents
        if found.near_copies:
            line += (
                f"; near-copies of training documents are {found.near_copies:,} of {documents:,}, "
                f"with {found.near_copies_share:.1%} of the tokens"
            )
        yield f"{line}."


def _lengths(texts: CorpusStatistics, tokens: SplitStatistics) -> Figure:
    classes = {"characters": texts.characters_a_document, "tokens": tokens.tokens_a_document}
    lengths = {unit: [one.model_dump() for one in found] for unit, found in classes.items()}

    def draw(path: Path, size: tuple[float, float]) -> None:
        length_histograms(lengths, path, title="", size=size)

    counts = [
        f"{one.documents:,} of {one.start:,} to {one.below - 1:,}"
        for one in tokens.tokens_a_document
        if one.documents
    ]
    return drawn(
        draw,
        f"Documents by their tokens: {'; '.join(counts)}.",
        "How long the documents are; each class is twice as wide as the one before.",
    )
