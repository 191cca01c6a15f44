"""Decoding: prompts in, completions out, in one batch, with every key and value computed once.

`generate` takes rows of (prompt, settings). Equal prompts are computed once, rows that cannot
differ are decoded once, and each step reads the weights once for all rows. Greedy output is, token
for token, that of recomputing the whole context at every step.

Sharp edge: GPT-2's positions are learned and absolute. A context that outgrows `context_length`
slides: every further token sees the last `context_length` tokens, whose positions, and with them
all keys and values, are new each time. Nothing can be reused then; a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.tokenizer import END_OF_TEXT, decode, encode
from pipeline.errors import UserError
from pipeline.generation.forward import Cache, Network
from pipeline.generation.sampling import Sampler, Sampling, uniforms
from pipeline.model.gpt import GPT

FinishReason = Literal["length", "end_of_text"]
OnToken = Callable[[int, int], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completion:
    """What one row produced.

    `tokens` and `text` leave the end-of-text token out; `mean_log_prob`, in nats, counts it: it is
    the mean over every token drawn, under the model at temperature 1 and without filters.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    mean_log_prob: float
    sampling: Sampling


def complete(model: GPT, prompt: str, sampling: Sampling, max_new_tokens: int) -> str:
    """The continuation of one prompt, without the prompt."""
    return generate(model, [encode(prompt)], [sampling], max_new_tokens)[0].text


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    max_new_tokens: int,
    *,
    on_token: OnToken | None = None,
    end_of_text: int = END_OF_TEXT,
) -> list[Completion]:
    """Complete every prompt under the settings at the same place.

    The model's mode is neither read nor changed: there is no dropout here, and none of torch's
    global random numbers is used.

    Args:
        prompts: token ids; an empty prompt starts from end-of-text.
        samplings: as many as prompts.
        max_new_tokens: for each row; fewer where end-of-text comes first.
        on_token: called as `on_token(row, token)` for each token of a completion, as it comes.
        end_of_text: the token that ends a row.

    Raises:
        UserError: a token id is not in the vocabulary, or the logits are not finite.
    """
    assert len(prompts) == len(samplings), "one Sampling a prompt"
    rows: dict[tuple[tuple[int, ...], Sampling], _Row] = {}
    order = []
    for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        tokens = tuple(prompt) or (end_of_text,)
        _check_tokens(tokens, model.config.vocab_size)
        key = (tokens, Sampling(temperature=0.0) if sampling.greedy else sampling)
        row = rows.setdefault(key, _Row(key[0], key[1], max_new_tokens))
        row.wanted_by.append(index)
        order.append(row)
    if max_new_tokens > 0:
        with torch.inference_mode():
            _decode(Network(model), list(rows.values()), max_new_tokens, on_token, end_of_text)
    return [row.completion(s) for row, s in zip(order, samplings, strict=True)]


@dataclass(eq=False)
class _Row:
    """One completion under way."""

    prompt: tuple[int, ...]
    sampling: Sampling
    max_new_tokens: int
    wanted_by: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    draws: int = 0
    finish_reason: FinishReason = "length"

    def __post_init__(self) -> None:
        self.uniforms = uniforms(self.sampling.seed, self.max_new_tokens)

    @property
    def done(self) -> bool:
        return self.finish_reason == "end_of_text" or self.draws == self.max_new_tokens

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.new)

    def window(self, size: int) -> list[int]:
        return [*self.prompt, *self.new][-size:]

    def take(self, token: int, log_prob: float, end_of_text: int) -> None:
        self.draws += 1
        self.log_prob += log_prob
        if token == end_of_text:
            self.finish_reason = "end_of_text"
        else:
            self.new.append(token)

    def completion(self, sampling: Sampling) -> Completion:
        mean = self.log_prob / self.draws if self.draws else 0.0
        return Completion(tuple(self.new), decode(self.new), self.finish_reason, mean, sampling)


def _decode(
    network: Network, rows: list[_Row], steps: int, on_token: OnToken | None, end_of_text: int
) -> None:
    """Run rows to their ends. Those that outgrow the context leave the cache and slide."""
    size = network.config.context_length
    if any(row.length + steps - 1 > size for row in rows):
        log.warning(
            "prompt and new tokens outgrow the model's context of %d tokens: past it only the "
            "last %d are seen, and each token costs a full pass over them",
            size,
            size,
        )
    cached = [row for row in rows if row.length <= size]
    sliding = [row for row in rows if row.length > size]
    cache = Cache(network, [row.length for row in cached], steps)
    logits = network.prefill([row.prompt for row in cached], cache)
    while True:
        if sliding:
            slid = network.last_logits([row.window(size) for row in sliding])
            logits = torch.cat([logits, slid])
        _draw(cached + sliding, logits, on_token, end_of_text)
        sliding = [r for r in cached + sliding if not r.done and r.length > size]
        staying = [i for i, r in enumerate(cached) if not r.done and r.length <= size]
        if len(staying) < len(cached):
            cached = [cached[i] for i in staying]
            cache.keep(staying)
        if not cached and not sliding:
            return
        logits = network.step([row.new[-1] for row in cached], cache) if cached else logits[:0]


def _draw(rows: list[_Row], logits: Tensor, on_token: OnToken | None, end_of_text: int) -> None:
    """Give each row its next token."""
    log_total = torch.logsumexp(logits.float(), dim=-1)
    if not torch.isfinite(log_total).all():
        raise UserError(
            "the model's logits are not finite: its weights hold NaN or infinity, as after a "
            "training that diverged; train again with a lower train.learning_rate"
        )
    uniform = torch.tensor([row.uniforms[row.draws] for row in rows], dtype=torch.float64)
    tokens = Sampler([row.sampling for row in rows]).draw(logits, uniform.to(logits.device))
    log_probs = logits.gather(1, tokens[:, None])[:, 0].float() - log_total
    for row, token, log_prob in zip(rows, tokens.tolist(), log_probs.tolist(), strict=True):
        row.take(token, log_prob, end_of_text)
        if on_token is not None and row.finish_reason != "end_of_text":
            for index in row.wanted_by:
                on_token(index, token)


def _check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    if not all(0 <= token < vocab_size for token in tokens):
        bad = next(token for token in tokens if not 0 <= token < vocab_size)
        raise UserError(f"token {bad} of the prompt is not one of the model's {vocab_size}")
