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
from pipeline.generation.cache import Cache
from pipeline.generation.forward import Network
from pipeline.generation.graph import CapturedStep, FixedCache
from pipeline.generation.products import Precision
from pipeline.generation.sampling import Sampler, Sampling, uniforms
from pipeline.model.gpt import GPT

FinishReason = Literal["length", "end_of_text"]
OnToken = Callable[[int, int], None]

# How far apart, relative to the largest logit, two ways of summing the same products may land.
ROUNDING = {
    torch.float64: 2**-45,
    torch.float32: 2**-16,
    torch.float16: 2**-8,
    torch.bfloat16: 2**-5,
}

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
    precision: Precision = "model",
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
        precision: `model` is the weights' own, and alone promises the model's own tokens; `bf16`
            rounds weights and activations, `int8` the weights and inputs of each step's products.
        on_token: called as `on_token(row, token)` for each token of a completion, as it comes.
        end_of_text: the token that ends a row.

    Raises:
        UserError: a token id is not in the vocabulary, the logits are not finite, or this machine
            has no kernels for the precision.
    """
    assert len(prompts) == len(samplings), "one Sampling a prompt"
    assert max_new_tokens >= 0
    rows: dict[tuple[tuple[int, ...], Sampling], _Row] = {}
    requests = []
    for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        tokens = tuple(prompt) or (end_of_text,)
        _check_tokens(tokens, model.config.vocab_size)
        # All greedy settings are one: rows that cannot differ are decoded once.
        key = (tokens, Sampling(temperature=0.0) if sampling.greedy else sampling)
        row = rows.setdefault(key, _Row(*key, max_new_tokens))
        row.wanted_by.append(index)
        requests.append((row, sampling))
    if rows and max_new_tokens:
        exact = precision == "model"
        with torch.inference_mode():
            if precision == "bf16":
                model = _cast(model, torch.bfloat16)
            network = Network(model, len(rows), max_new_tokens, precision)
            _Decoding(network, list(rows.values()), exact, on_token, end_of_text).run()
    return [row.completion(sampling) for row, sampling in requests]


def next_token_probabilities(
    model: GPT, prompt: Sequence[int], samplings: Sequence[Sampling]
) -> Tensor:
    """What the next token is drawn from under each of several settings: (settings, V), float64."""
    _check_tokens(prompt, model.config.vocab_size)
    with torch.inference_mode():
        network = Network(model, rows=1, steps=1)
        logits = network.last_logits([prompt[-model.config.context_length :]]).cpu()
        return Sampler(samplings).probabilities(logits.expand(len(samplings), -1))


@dataclass(eq=False)
class _Row:
    """One completion under way."""

    prompt: tuple[int, ...]
    sampling: Sampling
    max_new_tokens: int
    wanted_by: list[int] = field(default_factory=list)  # indices of the equal requests
    new: list[int] = field(default_factory=list)
    draws: int = 0
    log_prob: float = 0.0
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
        """The last `size` tokens: what the model sees."""
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


class _Decoding:
    """Rows run to their ends. Those that outgrow the context leave the cache and slide."""

    def __init__(
        self,
        network: Network,
        rows: list[_Row],
        exact: bool,
        on_token: OnToken | None,
        end_of_text: int,
    ) -> None:
        self.network = network
        self.context_length = network.config.context_length
        self.exact = exact
        self.on_token = on_token
        self.end_of_text = end_of_text
        self.cached = [row for row in rows if row.length <= self.context_length]
        self.sliding = [row for row in rows if row.length > self.context_length]
        steps = rows[0].max_new_tokens
        cuda = network.wte.is_cuda
        kind = FixedCache if cuda else Cache
        lengths = [row.length for row in self.cached]
        self.cache = kind(network.config, lengths, steps, like=network.wte)
        self.step = CapturedStep(network) if cuda else network.step
        self.sampler = Sampler([row.sampling for row in self.cached + self.sliding])
        if any(row.length + steps - 1 > self.context_length for row in rows):
            log.warning(
                "prompt and new tokens outgrow the model's context of %d tokens: past it only the "
                "last %d are seen, and each token costs a full pass over them",
                self.context_length,
                self.context_length,
            )

    def run(self) -> None:
        logits = self.network.prefill([row.prompt for row in self.cached], self.cache)
        while True:
            if self.sliding:
                windows = [row.window(self.context_length) for row in self.sliding]
                logits = torch.cat([logits, self.network.last_logits(windows)])
            self._draw(self.cached + self.sliding, logits)
            self._regroup()
            if not self.cached and not self.sliding:
                return
            tokens = torch.tensor([row.new[-1] for row in self.cached], device=logits.device)
            logits = self.step(tokens, self.cache) if self.cached else logits[:0]

    def _draw(self, rows: list[_Row], logits: Tensor) -> None:
        """Give each row its next token."""
        if logits.is_mps:
            logits = logits.cpu()  # which has the float64 that sampling counts in
        log_total = torch.logsumexp(logits, dim=-1)
        if not torch.isfinite(log_total).all():
            raise UserError(
                "the model's logits are not finite: its weights hold NaN or infinity, as after a "
                "training that diverged; train again with a lower train.learning_rate"
            )
        if self.exact:
            self._settle_ties(rows, logits)
        uniform = torch.tensor([row.uniforms[row.draws] for row in rows], dtype=torch.float64)
        tokens = self.sampler.draw(logits, uniform.to(logits.device))
        log_probs = logits.gather(1, tokens[:, None])[:, 0] - log_total
        for row, token, log_prob in zip(rows, tokens.tolist(), log_probs.tolist(), strict=True):
            row.take(token, log_prob, self.end_of_text)
            if self.on_token is not None and row.finish_reason == "length":
                for index in row.wanted_by:
                    self.on_token(index, token)

    def _settle_ties(self, rows: list[_Row], logits: Tensor) -> None:
        """Recompute greedy rows whose two best logits lie within rounding of each other.

        Batches and caches round differently from a pass over the whole context; where that could
        decide, that pass is made, so that greedy output is its output.
        """
        greedy = [i for i, row in enumerate(rows) if row.sampling.greedy]
        if not greedy or logits.shape[1] == 1:
            return
        best, second = logits[greedy].topk(2).values.unbind(-1)
        rounding = ROUNDING[self.network.wte.dtype] * logits[greedy].abs().amax(-1)
        for i in torch.nonzero(best - second <= rounding).flatten().tolist():
            window = rows[greedy[i]].window(self.context_length)
            logits[greedy[i]] = self.network.reference_logits(window)

    def _regroup(self) -> None:
        """Drop finished rows, and move those out of the cache whose context is full."""
        before = self.cached + self.sliding
        staying = [i for i, row in enumerate(self.cached) if self._fits(row) and not row.done]
        self.sliding = [row for row in before if not self._fits(row) and not row.done]
        if len(staying) < len(self.cached):
            self.cached = [self.cached[i] for i in staying]
            self.cache.keep(staying)
        if (now := self.cached + self.sliding) != before:
            self.sampler = Sampler([row.sampling for row in now])

    def _fits(self, row: _Row) -> bool:
        return row.length <= self.context_length


def _cast(model: GPT, dtype: torch.dtype) -> GPT:
    """The same model with its weights in another type."""
    with torch.device("meta"):
        cast = GPT(model.config)
    cast.load_state_dict({k: v.to(dtype) for k, v in model.state_dict().items()}, assign=True)
    return cast


def _check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise UserError(f"token {token} of the prompt is not one of the model's {vocab_size}")
