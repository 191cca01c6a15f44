"""One row of a batch: what it started from, what it has become, and what is handed back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import UserError
from pipeline.generation.sampling import Sampling, draw_key, stream_key
from pipeline.tokens.tokenizer import decode

FinishReason = Literal["length", "end_of_text"]


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


@dataclass(eq=False)
class Row:
    """A completion under way.

    Attributes:
        wanted_by: the indices of the requests that it answers, more than one where they cannot
            differ.
        draws: tokens drawn, end-of-text included.
        log_prob: of them all, in nats.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    max_new_tokens: int
    wanted_by: list[int] = field(default_factory=list)
    new: list[int] = field(default_factory=list)
    draws: int = 0
    log_prob: float = 0.0
    finish_reason: FinishReason = "length"

    def __post_init__(self) -> None:
        self._stream = stream_key(self.sampling.seed, self.prompt)

    @property
    def done(self) -> bool:
        return self.finish_reason == "end_of_text" or self.left == 0

    @property
    def left(self) -> int:
        """Draws to come, at most."""
        return self.max_new_tokens - self.draws

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.new)

    def key(self, ahead: int = 0) -> int:
        """What keys the row's next draw, or one some places later."""
        return draw_key(self._stream, self.draws + ahead)

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


def rows_of(
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    max_new_tokens: int,
    end_of_text: int,
) -> list[Row]:
    """The different rows among the requests: all greedy settings are one, a seed is not."""
    rows: dict[tuple[tuple[int, ...], Sampling], Row] = {}
    for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        tokens = tuple(prompt) or (end_of_text,)
        key = (tokens, Sampling(temperature=0.0) if sampling.greedy else sampling)
        rows.setdefault(key, Row(*key, max_new_tokens)).wanted_by.append(index)
    return list(rows.values())


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raises:
    UserError: names a token that the model does not know.
    """
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise UserError(f"token {token} of the prompt is not one of the model's {vocab_size}")
