"""The sampling grid: every temperature with every top-k, on every prompt, drawn and measured.

All samples are decoded as one batch. A prompt's samples share their seed, so settings that would
choose alike show the same text: cells differ by what the settings do, not by luck. Beside the grid
stand the setting that `params.yaml` chose, and the distribution of the next token after the first
prompt, which shows what the settings do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from pipeline.generation.decode import generate, next_token_probabilities
from pipeline.generation.sampling import Sampling
from pipeline.generation.sequences import CompletionOutput
from pipeline.model.gpt import GPT
from pipeline.params import Sample as Settings
from pipeline.reports import (
    ChosenMetrics,
    Diversity,
    FullSampleReport,
    NextToken,
    SampledText,
    SampleReport,
    SettingMetrics,
)
from pipeline.sampling.memorisation import CopiedSpans, Corpus, find_copies
from pipeline.sampling.metrics import METRICS, SampleGroup, measure
from pipeline.tokens.tokenizer import decode, encode, token_text

SHOWN_TOKENS = 10  # of the next token's distribution

# (prompts, completions) as token ids to each completion's summed nats under another model
Judge = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], list[float]]


@dataclass(frozen=True)
class MeasuredSample:
    """One completion and what it copied."""

    prompt: str
    completion: CompletionOutput
    copies: CopiedSpans

    def report(self) -> SampledText:
        tokens = self.completion.tokens
        return SampledText(
            prompt=self.prompt,
            **asdict(self.completion.sampling),
            completion=self.completion.text,
            tokens=len(tokens),
            finish_reason=self.completion.finish_reason,
            mean_log_prob=self.completion.mean_log_prob,
            copied=self.copies.copied / len(tokens) if tokens else None,
            copies=tuple(
                (len(decode(tokens[:start])), len(decode(tokens[:stop])))
                for start, stop in self.copies.spans
            ),
            longest_copy=decode(self.copies.longest),
            longest_copy_tokens=len(self.copies.longest),
            longest_copy_position=self.copies.position,
        )


@dataclass(frozen=True)
class Cell:
    """The metrics of one setting, over all prompts."""

    sampling: Sampling
    metrics: Mapping[str, float | int | None]

    def report(self) -> SettingMetrics:
        """What depends on the model and the settings alone, and on no judge."""
        return SettingMetrics(
            temperature=self.sampling.temperature, top_k=self.sampling.top_k, **self.reported()
        )

    def reported(self) -> dict[str, float | int | None]:
        return {metric.name: self.metrics[metric.name] for metric in METRICS if not metric.local}


@dataclass(frozen=True)
class SamplingGrid:
    """The samples of all prompts and settings, with their metrics.

    Attributes:
        samples: those of the chosen setting first.
        chosen: the setting of `params.yaml`.
        cells: one for each temperature and top-k.
        next_token: after the first prompt, for each temperature without and each top-k with the
            chosen temperature.
    """

    prompts: tuple[str, ...]
    samples: tuple[MeasuredSample, ...]
    chosen: Cell
    cells: tuple[Cell, ...]
    next_token: tuple[NextToken, ...]

    def report(self) -> FullSampleReport:
        return FullSampleReport(
            prompts=self.prompts,
            chosen=ChosenMetrics(**{**asdict(self.chosen.sampling), **self.chosen.reported()}),
            grid=tuple(cell.report() for cell in self.cells),
            samples=tuple(sample.report() for sample in self.samples),
            next_token=self.next_token,
        )

    def grid_report(self) -> SampleReport:
        """The cells and their samples, which the chosen temperature and top-k do not change."""
        return SampleReport(
            grid=tuple(cell.report() for cell in self.cells),
            samples=tuple(
                sample.report()
                for cell in self.cells
                for sample in self.samples
                if sample.completion.sampling == cell.sampling
            ),
        )

    def diversity(self) -> Diversity:
        found = self.chosen.metrics
        headlines = [metric.name for metric in METRICS if metric.headline]
        return Diversity(**{name: found[name] for name in headlines if found[name] is not None})


def sample_grid(
    model: GPT,
    settings: Settings,
    corpus: Corpus,
    *,
    judge: Judge | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
    corpus_progress: Callable[[int], object] = lambda tokens: None,
) -> SamplingGrid:
    """Draw and measure every prompt under every setting.

    Args:
        corpus: the training tokens, for memorisation.
        judge: how likely the samples are as English, under GPT-2 small.
        progress: called with how many more tokens are drawn, of `tokens_to_draw` at most.
        corpus_progress: called with how many more tokens of the corpus are compared.

    Raises:
        UserError: the model's logits are not finite.
    """
    chosen, grid = plan(settings)
    distinct = _distinct(settings)
    requests = [(prompt, sampling) for sampling in distinct for prompt in settings.prompts]
    prompts = [encode(prompt) for prompt, _ in requests]
    completions = generate(
        model,
        prompts,
        [sampling for _, sampling in requests],
        settings.max_new_tokens,
        on_token=lambda index, token: progress(1),
    )
    drawn = [completion.tokens for completion in completions]
    copies = find_copies(drawn, corpus, progress=corpus_progress)
    nats = judge(prompts, drawn) if judge else None
    cells = {}
    for sampling in distinct:
        places = [i for i, (_, s) in enumerate(requests) if s == sampling]
        group = SampleGroup(
            [completions[i] for i in places],
            [copies[i] for i in places],
            [nats[i] for i in places] if nats else None,
        )
        cells[sampling] = Cell(sampling, measure(group))
    return SamplingGrid(
        prompts=settings.prompts,
        samples=tuple(
            MeasuredSample(prompt, completion, copied)
            for (prompt, _), completion, copied in zip(requests, completions, copies, strict=True)
        ),
        chosen=cells[chosen],
        cells=tuple(cells[sampling] for sampling in grid),
        next_token=_next_token(model, settings),
    )


def tokens_to_draw(settings: Settings) -> int:
    """How many tokens `sample_grid` draws where no sample reaches end-of-text."""
    return len(_distinct(settings)) * len(settings.prompts) * settings.max_new_tokens


def _distinct(settings: Settings) -> list[Sampling]:
    chosen, grid = plan(settings)
    return list(dict.fromkeys([chosen, *grid]))


def plan(settings: Settings) -> tuple[Sampling, list[Sampling]]:
    """The chosen setting, and the grid's: temperatures down, top-k across."""
    rest = (settings.top_p, settings.min_p, settings.seed)
    chosen = Sampling(settings.temperature, settings.top_k, *rest)
    grid = [
        Sampling(temperature, top_k, *rest)
        for temperature in dict.fromkeys(settings.grid.temperature)
        for top_k in dict.fromkeys(settings.grid.top_k)
    ]
    return chosen, grid


def _next_token(model: GPT, settings: Settings) -> tuple[NextToken, ...]:
    by_temperature = [Sampling(t) for t in sorted({*settings.grid.temperature, 1.0})]
    temperature = settings.temperature or 1.0  # at temperature 0 no top-k makes a difference
    by_top_k = [Sampling(temperature, top_k) for top_k in dict.fromkeys(settings.grid.top_k)]
    samplings = [*by_temperature, *by_top_k]
    prompt = encode(settings.prompts[0])
    plain, *shaped = next_token_probabilities(model, prompt, [Sampling(1.0), *samplings])
    ids = plain.topk(min(SHOWN_TOKENS, len(plain))).indices
    tokens = tuple(map(token_text, ids.tolist()))
    return tuple(
        NextToken(
            filter="temperature" if i < len(by_temperature) else "top_k",
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            tokens=tokens,
            probabilities=tuple(p[ids].tolist()),
            others=max(1.0 - float(p[ids].sum()), 0.0),
        )
        for i, (sampling, p) in enumerate(zip(samplings, shaped, strict=True))
    )
