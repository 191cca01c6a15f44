"""What a setting does to samples: variety, likelihood, length, copying.

Measures are of a group of samples that share their settings, pooled over the group's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pipeline.generation.decode import Completion
from pipeline.model.gpt import GPT
from pipeline.model.loss import token_losses
from pipeline.sampling.memorisation import Copying

DIGITS = 6  # of what is written: enough to compare, and the same on machines that round alike
LOOP = 4  # tokens: repetition is measured on n-grams of this length


@dataclass(frozen=True)
class Measures:
    """A group of samples in numbers; `None` where there is nothing to measure.

    Attributes:
        distinct_1, distinct_2, distinct_3: different n-grams over all n-grams of the group
            (Li et al. 2016); 1 is never the same twice.
        repetition: the share of a sample's 4-grams that it has had before (seq-rep-4 of Welleck
            et al. 2020), mean over the samples.
        mean_log_prob: nats a token that the model itself gives the samples at temperature 1.
        gpt2_perplexity: of the samples under GPT-2 small; `None` where it is not at hand.
        length: mean tokens to end-of-text, or to the limit.
        ended: the share of samples that reached end-of-text.
        copied: the share of tokens in runs of 8 or more that the training text holds too.
        longest_copy: tokens of the longest such run.
    """

    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    repetition: float | None
    mean_log_prob: float
    gpt2_perplexity: float | None
    length: float
    ended: float
    copied: float | None
    longest_copy: int

    def as_dict(self) -> dict[str, float | int | None]:
        return {name: rounded(value) for name, value in asdict(self).items()}


def measure(
    completions: Sequence[Completion],
    copyings: Sequence[Copying],
    gpt2_nats: Sequence[float] | None = None,
) -> Measures:
    """Measure a group of samples.

    Args:
        completions: the group, at least one.
        copyings: what each shares with the training text.
        gpt2_nats: each completion's loss under GPT-2 small, in nats, summed over its tokens.
    """
    samples = [completion.tokens for completion in completions]
    tokens = sum(map(len, samples))
    # Drawing end-of-text was a choice of the model's too.
    draws = [len(c.tokens) + (c.finish_reason == "end_of_text") for c in completions]
    likelihood = sum(c.mean_log_prob * n for c, n in zip(completions, draws, strict=True))
    repeated = [share for share in map(repetition, samples) if share is not None]
    return Measures(
        distinct_1=distinct(samples, 1),
        distinct_2=distinct(samples, 2),
        distinct_3=distinct(samples, 3),
        repetition=sum(repeated) / len(repeated) if repeated else None,
        mean_log_prob=likelihood / sum(draws),
        gpt2_perplexity=perplexity(sum(gpt2_nats), tokens) if gpt2_nats and tokens else None,
        length=tokens / len(samples),
        ended=sum(c.finish_reason == "end_of_text" for c in completions) / len(completions),
        copied=sum(c.copied for c in copyings) / tokens if tokens else None,
        longest_copy=max(len(copying.longest) for copying in copyings),
    )


def distinct(samples: Sequence[Sequence[int]], n: int) -> float | None:
    """Different n-grams over all n-grams; `None` where no sample has n tokens."""
    grams = [gram for sample in samples for gram in _ngrams(sample, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(sample: Sequence[int]) -> float | None:
    """The share of a sample's 4-grams that stand earlier in it too."""
    grams = _ngrams(sample, LOOP)
    return 1 - len(set(grams)) / len(grams) if grams else None


def nats_under(
    model: GPT, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[float]:
    """Each completion's loss under a model after its prompt, in nats, summed over its tokens.

    Of what is longer than the model's context, the last tokens are looked at. Equal ones, as all
    greedy settings give, are computed once. The model must be in evaluation mode.
    """
    pairs = [(tuple(p), tuple(c)) for p, c in zip(prompts, completions, strict=True)]
    nats = {pair: _nats_of_one(model, *pair) for pair in dict.fromkeys(pairs)}
    return [nats[pair] for pair in pairs]


def _nats_of_one(model: GPT, prompt: Sequence[int], completion: Sequence[int]) -> float:
    if not completion:
        return 0.0
    tokens = torch.tensor([*prompt, *completion][-model.config.context_length - 1 :])
    tokens = tokens.to(model.wte.weight.device)
    with torch.inference_mode():
        hidden = model.hidden(tokens[None, :-1])[0, -len(completion) :]
        targets = tokens[-len(completion) :][-len(hidden) :]
        return float(token_losses(hidden, model.head_weight, targets).sum(dtype=torch.float64))


def perplexity(nats: float, tokens: int) -> float:
    return math.exp(min(nats / tokens, 700.0))


def rounded(value: Any) -> Any:
    return round(value, DIGITS) if isinstance(value, float) else value


def _ngrams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
