"""Sample metrics: variety, likelihood, length and copying of the samples that a setting gives.

`METRICS` is the one list of them; reports, table, figure, page and MLflow follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline.numbers import perplexity
from pipeline.sampling.memorisation import CopiedSpans

if TYPE_CHECKING:  # torch comes with it, and the page, which shows the titles, needs none
    from pipeline.generation.sequences import CompletionOutput

LOOP = 4  # tokens: repetition is measured on n-grams of this length


@dataclass(frozen=True)
class SampleGroup:
    """Samples that share their settings; metrics are pooled over the group's tokens.

    Attributes:
        completions: at least one.
        copies: what each shares with the training text.
        gpt2_nats: each completion's loss under GPT-2 small, in nats, summed over its tokens; None
            where GPT-2 is not at hand.
    """

    completions: Sequence[CompletionOutput]
    copies: Sequence[CopiedSpans]
    gpt2_nats: Sequence[float] | None = None

    @property
    def texts(self) -> list[tuple[int, ...]]:
        """The token ids of each completion."""
        return [completion.tokens for completion in self.completions]

    @property
    def tokens(self) -> int:
        """How many tokens the completions have together."""
        return sum(map(len, self.texts))

    @property
    def ended(self) -> list[bool]:
        """Whether each completion reached end-of-text."""
        return [c.finish_reason == "end_of_text" for c in self.completions]


@dataclass(frozen=True)
class SampleMetric:
    """A number of a group of samples, and where it is shown.

    Attributes:
        name: its key in reports and in MLflow.
        title: its heading in the table, the figure and the page.
        compute: the number; None where there is nothing to measure.
        headline: whether it stands in `diversity.json`, by which runs are compared.
        local: whether it depends on a model that may not be at hand: such a metric goes to MLflow,
            and into no report.
        figure_place: its place among the heat maps of `samples_grid.png`; None for no heat map.
        page_place: its place among the heat maps that the page shows at once; None: folded away.
        page_title: its title there, where it needs another one.
    """

    name: str
    title: str
    compute: Callable[[SampleGroup], float | int | None]
    headline: bool = False
    local: bool = False
    figure_place: int | None = None
    page_place: int | None = None
    page_title: str | None = None


def measure(group: SampleGroup) -> dict[str, float | int | None]:
    """Every metric of a group by its name."""
    return {metric.name: metric.compute(group) for metric in METRICS}


def distinct(texts: Sequence[Sequence[int]], n: int) -> float | None:
    """Different n-grams over all n-grams (Li et al. 2016); `None` where no text has n tokens."""
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(text: Sequence[int]) -> float | None:
    """The share of 4-grams that a text has had before (seq-rep-4 of Welleck et al. 2020)."""
    grams = _ngrams(text, LOOP)
    return 1 - len(set(grams)) / len(grams) if grams else None


def _ngrams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _distinct(group: SampleGroup, n: int) -> float | None:
    return distinct(group.texts, n)


def _repetition(group: SampleGroup) -> float | None:
    shares = [share for share in map(repetition, group.texts) if share is not None]
    return sum(shares) / len(shares) if shares else None


def _mean_log_prob(group: SampleGroup) -> float:
    # Drawing end-of-text was a choice of the model's too.
    draws = [len(text) + ended for text, ended in zip(group.texts, group.ended, strict=True)]
    total = sum(c.mean_log_prob * n for c, n in zip(group.completions, draws, strict=True))
    return total / sum(draws)


def _gpt2_perplexity(group: SampleGroup) -> float | None:
    if not group.gpt2_nats or not group.tokens:
        return None
    return perplexity(sum(group.gpt2_nats) / group.tokens)


def _length(group: SampleGroup) -> float:
    return group.tokens / len(group.texts)


def _ended(group: SampleGroup) -> float:
    return sum(group.ended) / len(group.texts)


def _copied(group: SampleGroup) -> float | None:
    """The share of tokens in runs of 8 or more that the training text holds too."""
    return sum(copy.copied for copy in group.copies) / group.tokens if group.tokens else None


def _longest_copy(group: SampleGroup) -> int:
    return max(len(copy.longest) for copy in group.copies)


METRICS = [
    SampleMetric("distinct_1", "distinct-1", partial(_distinct, n=1)),
    SampleMetric(
        "distinct_2",
        "distinct-2",
        partial(_distinct, n=2),
        headline=True,
        figure_place=1,
        page_place=1,
        page_title="Variety: different pairs of tokens, of all pairs",
    ),
    SampleMetric("distinct_3", "distinct-3", partial(_distinct, n=3)),
    SampleMetric("repetition", "repetition", _repetition, headline=True, figure_place=2),
    SampleMetric(
        "mean_log_prob",  # under the model itself, at temperature 1
        "log-probability, nats per token",
        _mean_log_prob,
        figure_place=3,
        page_place=3,
        page_title="Likelihood: the model's own log-probability, nats per token",
    ),
    SampleMetric("gpt2_perplexity", "perplexity under GPT-2 small", _gpt2_perplexity, local=True),
    SampleMetric("length", "length, tokens", _length, figure_place=6),
    SampleMetric("ended", "reached end-of-text", _ended),
    SampleMetric(
        "copied",
        "copied from the training text",
        _copied,
        headline=True,
        figure_place=4,
        page_place=2,
        page_title=(
            "Copying: tokens in runs of eight and more that stand in the training text, of all"
        ),
    ),
    SampleMetric(
        "longest_copy", "longest copy, tokens", _longest_copy, headline=True, figure_place=5
    ),
]
