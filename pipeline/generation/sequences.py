"""A request under way: its prompt and settings, the tokens drawn so far, and what is returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import UserError
from pipeline.generation.sampling import Sampling, draw_key, stream_key
from pipeline.tokens.tokenizer import decode

FinishReason = Literal["length", "end_of_text"]


@dataclass(frozen=True)
class CompletionOutput:
    """What one request produced.

    `tokens` and `text` leave the end-of-text token out; `mean_log_prob`, in nats, counts it: it is
    the mean over every token drawn, under the model at temperature 1 and without filters.
    """

    tokens: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    mean_log_prob: float
    sampling: Sampling


@dataclass(eq=False)
class Request:
    """A prompt to complete under one setting, and the tokens drawn for it so far.

    Attributes:
        indices: which of the caller's prompts it answers; several where their completions cannot
            differ.
        new: the tokens drawn, without end-of-text.
        draws: how many tokens were drawn, end-of-text included.
        log_prob: of all draws together, in nats.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    max_new_tokens: int
    indices: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    draws: int = 0
    log_prob: float = 0.0
    finish_reason: FinishReason = "length"

    def __post_init__(self) -> None:
        self._stream = stream_key(self.sampling.seed, self.prompt)

    @property
    def done(self) -> bool:
        return self.finish_reason == "end_of_text" or self.remaining == 0

    @property
    def remaining(self) -> int:
        """Draws to come, at most."""
        return self.max_new_tokens - self.draws

    @property
    def tokens(self) -> tuple[int, ...]:
        """The prompt and what was drawn."""
        return (*self.prompt, *self.new)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.new)

    def key(self, ahead: int = 0) -> int:
        """The random key of the next draw, or of one some places later."""
        return draw_key(self._stream, self.draws + ahead)

    def window(self, size: int) -> tuple[int, ...]:
        """The last `size` tokens: what the model sees."""
        return self.tokens[-size:]

    def add_draw(self, token: int, log_prob: float, end_of_text: int) -> None:
        self.draws += 1
        self.log_prob += log_prob
        if token == end_of_text:
            self.finish_reason = "end_of_text"
        else:
            self.new.append(token)

    def output(self, sampling: Sampling) -> CompletionOutput:
        mean = self.log_prob / self.draws if self.draws else 0.0
        return CompletionOutput(
            tuple(self.new), decode(self.new), self.finish_reason, mean, sampling
        )


def distinct_requests(
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    max_new_tokens: int,
    end_of_text: int,
) -> list[Request]:
    """One request for equal prompts and settings; all greedy settings are equal."""
    requests: dict[tuple[tuple[int, ...], Sampling], Request] = {}
    for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        tokens = tuple(prompt) or (end_of_text,)
        key = (tokens, Sampling(temperature=0.0) if sampling.greedy else sampling)
        requests.setdefault(key, Request(*key, max_new_tokens)).indices.append(index)
    return list(requests.values())


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raise a `UserError` that names a token which the model does not know."""
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise UserError(f"token {token} of the prompt is not one of the model's {vocab_size}")
