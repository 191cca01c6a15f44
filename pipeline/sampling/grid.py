"""The sampling grid: every temperature with every top-k, on every prompt, drawn and measured.

All rows are decoded as one batch. A prompt's rows share their seed, so settings that would choose
alike show the same sample: cells differ by what the settings do, not by luck. Beside the grid
stands the setting that `params.yaml` chose, and the distribution of the next token after the first
prompt, which shows what the settings do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.generation.decode import Completion, generate, next_token_probabilities
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT
from pipeline.params import Sample as Settings
from pipeline.sampling.memorisation import Copying, Corpus, find_copies
from pipeline.sampling.metrics import Measures, measure, rounded
from pipeline.tokens.tokenizer import decode, encode

SHOWN_TOKENS = 10  # of the next token's distribution

# (prompts, completions) as token ids to each completion's nats under a judge
Scorer = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], list[float]]


@dataclass(frozen=True)
class Sample:
    """One completion and what it copied."""

    prompt: str
    completion: Completion
    copying: Copying

    def as_dict(self) -> dict[str, Any]:
        sampling, tokens = self.completion.sampling, len(self.completion.tokens)
        return {
            "prompt": self.prompt,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "seed": sampling.seed,
            "completion": self.completion.text,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "tokens": tokens,
            "finish_reason": self.completion.finish_reason,
            "mean_log_prob": rounded(self.completion.mean_log_prob),
            "copied": rounded(self.copying.copied / tokens) if tokens else None,
            "copies": self._copies(),
            "longest_copy": decode(self.copying.longest),
            "longest_copy_tokens": len(self.copying.longest),
            "longest_copy_position": self.copying.position,
        }

    def _copies(self) -> list[list[int]]:
        """The copied spans in characters of the completion."""
        tokens = self.completion.tokens
        return [[len(decode(tokens[:end])) for end in span] for span in self.copying.spans]


@dataclass(frozen=True)
class Cell:
    """What one setting did, over all prompts."""

    sampling: Sampling
    measures: Measures

    def as_dict(self) -> dict[str, Any]:
        """What depends on the model and the settings alone: no judge that may be at hand or not."""
        place = {"temperature": self.sampling.temperature, "top_k": self.sampling.top_k}
        measures = self.measures.as_dict()
        del measures["gpt2_perplexity"]
        return {**place, **measures}


@dataclass(frozen=True)
class NextToken:
    """The next token's distribution under one setting: the likeliest tokens, and all others.

    Attributes:
        filter: which setting it shows the effect of.
    """

    filter: Literal["temperature", "top_k"]
    sampling: Sampling
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    others: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "filter": self.filter,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "tokens": list(self.tokens),
            "probabilities": [rounded(p) for p in self.probabilities],
            "others": rounded(self.others),
        }


@dataclass(frozen=True)
class Survey:
    """The samples of all prompts and settings, with their measures.

    Attributes:
        chosen: the setting of `params.yaml`; its samples come first.
        grid: a cell for each temperature and top-k.
        next_token: after the first prompt, for each temperature without and each top-k with the
            chosen temperature.
    """

    prompts: tuple[str, ...]
    samples: tuple[Sample, ...]
    chosen: Cell
    grid: tuple[Cell, ...]
    next_token: tuple[NextToken, ...]

    def grid_as_dict(self) -> dict[str, Any]:
        """The grid and its samples, which the chosen temperature and top-k do not change."""
        samples = [
            sample.as_dict()
            for cell in self.grid
            for sample in self.samples
            if sample.completion.sampling == cell.sampling
        ]
        return {"grid": [cell.as_dict() for cell in self.grid], "samples": samples}

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompts": list(self.prompts),
            "chosen": {**asdict(self.chosen.sampling), **self.chosen.as_dict()},
            "grid": [cell.as_dict() for cell in self.grid],
            "samples": [sample.as_dict() for sample in self.samples],
            "next_token": [distribution.as_dict() for distribution in self.next_token],
        }


def survey(
    model: GPT,
    settings: Settings,
    corpus: Corpus,
    *,
    scorer: Scorer | None = None,
    draw: Callable[[int], None] = lambda tokens: None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Survey:
    """Draw and measure every prompt under every setting.

    Args:
        corpus: the training tokens, for memorisation.
        scorer: a judge of how likely the samples are as English: GPT-2 small.
        draw: told how many tokens have been drawn, of `tokens_to_draw` at most.
        advance: told how many tokens of the corpus have been read.

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
        on_token=lambda row, token: draw(1),
    )
    drawn = [completion.tokens for completion in completions]
    copyings = find_copies(drawn, corpus, advance=advance)
    nats = scorer(prompts, drawn) if scorer else None
    cells = {}
    for sampling in distinct:
        of = [i for i, (_, s) in enumerate(requests) if s == sampling]
        measures = measure(
            [completions[i] for i in of],
            [copyings[i] for i in of],
            [nats[i] for i in of] if nats else None,
        )
        cells[sampling] = Cell(sampling, measures)
    samples = [
        Sample(prompt, completion, copying)
        for (prompt, _), completion, copying in zip(requests, completions, copyings, strict=True)
    ]
    return Survey(
        prompts=settings.prompts,
        samples=tuple(samples),
        chosen=cells[chosen],
        grid=tuple(cells[sampling] for sampling in grid),
        next_token=_next_token(model, settings),
    )


def tokens_to_draw(settings: Settings) -> int:
    """How many tokens a survey draws where no sample reaches end-of-text."""
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
    warmth = settings.temperature or 1.0  # at temperature 0 no top-k makes a difference
    by_top_k = [Sampling(warmth, top_k) for top_k in dict.fromkeys(settings.grid.top_k)]
    samplings = [*by_temperature, *by_top_k]
    prompt = encode(settings.prompts[0])
    plain, *shaped = next_token_probabilities(model, prompt, [Sampling(1.0), *samplings])
    ids = plain.topk(min(SHOWN_TOKENS, len(plain))).indices
    tokens = tuple(decode([token]) for token in ids.tolist())
    return tuple(
        NextToken(
            "temperature" if i < len(by_temperature) else "top_k",
            sampling,
            tokens,
            tuple(p[ids].tolist()),
            others=max(1.0 - float(p[ids].sum()), 0.0),
        )
        for i, (sampling, p) in enumerate(zip(samplings, shaped, strict=True))
    )
