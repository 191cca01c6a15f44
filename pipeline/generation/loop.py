"""The loop of decoding: rows are drawn for, leave when they are done, or slide."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.generation.cuda_graph import CapturedStep, FixedCache
from pipeline.generation.forward import Network, Weights
from pipeline.generation.kv_cache import Cache
from pipeline.generation.matmul_kernels import Kind
from pipeline.generation.sampling import Sampler
from pipeline.generation.sequences import Row
from pipeline.generation.speculative import GUESS_FROM, Guesses

OnToken = Callable[[int, int], None]

# How far apart, relative to the largest logit, two ways of summing the same products may land.
ROUNDING = {
    torch.float64: 2**-45,
    torch.float32: 2**-16,
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
}
log = logging.getLogger(__name__)


class Supply(Protocol):
    """Where the weights come from: the `Decoder`."""

    @property
    def network(self) -> Network: ...
    @property
    def exact(self) -> bool: ...
    def step_kind(self, rows: int, steps: int) -> Kind: ...
    def can_guess(self, steps: int) -> bool: ...
    def weights(self, kind: Kind) -> Weights: ...


class Drawn(NamedTuple):
    """Some draws: each one's token, its log-probability in nats, and, where the model's own
    choice is promised, whether rounding may decide."""

    tokens: list[int]
    log_probs: list[float]
    close: list[bool]


class Decoding:
    """Rows run to their ends. Those that outgrow the context leave the cache and slide.

    Rows of one prompt are one lane of the cache for as long as they have drawn the same tokens,
    and fork where they draw differently: settings that choose alike are computed once.
    """

    def __init__(
        self, supply: Supply, rows: list[Row], on_token: OnToken | None, end_of_text: int
    ) -> None:
        self.supply, self.network = supply, supply.network
        self.on_token, self.end_of_text = on_token, end_of_text
        self.context_length = self.network.config.context_length
        # A graph holds one number of lanes, so there every row has its own from the beginning.
        self.forks = not self.network.wte.is_cuda
        cached = [row for row in rows if self._fits(row)]
        self.lanes = self._lanes(cached)
        self.sliding = [row for row in rows if not self._fits(row)]
        self.steps = steps = rows[0].max_new_tokens
        lengths = [lane[0].length for lane in self.lanes]
        kind = Cache if self.forks else FixedCache
        self.cache = kind(
            self.network.config, lengths, steps, like=self.network.wte, most=len(cached)
        )
        self.captured = CapturedStep(self.network)
        self.guesses = Guesses()
        self.sampler = Sampler([row.sampling for row in self._rows])
        if any(row.length + steps - 1 > self.context_length for row in rows):
            log.warning(
                "prompt and new tokens outgrow the model's context of %d tokens: past it only the "
                "last %d are seen, and each token costs a full pass over them",
                self.context_length,
                self.context_length,
            )

    @property
    def _rows(self) -> list[Row]:
        return [row for lane in self.lanes for row in lane] + self.sliding

    def run(self) -> None:
        self._draw(self._rows, self._of_rows(self._prefill()))
        while self._regroup():
            if guesses := self._guesses():
                self._leap(guesses)
            else:
                self._draw(self._rows, self._of_rows(self._step()))

    def _prefill(self) -> Tensor:
        return self.network.prefill([lane[0].prompt for lane in self.lanes], self.cache)

    def _step(self) -> Tensor:
        """Logits (lanes, V) that follow their newest tokens."""
        if not self.lanes:
            return self.network.wte.new_empty(0, self.network.config.vocab_size)
        tokens = self._tensor([[lane[0].new[-1]] for lane in self.lanes])
        if isinstance(self.cache, FixedCache):
            return self.captured(tokens, self.cache)[:, 0]
        weights = self.supply.weights(self.supply.step_kind(len(self.lanes), self.steps))
        return self.network.advance(tokens, self.cache, weights)[:, 0]

    def _of_rows(self, logits: Tensor) -> Tensor:
        """Logits of the lanes (lanes, V), given to their rows and those that slide (rows, V)."""
        source = [i for i, lane in enumerate(self.lanes) for _ in lane]
        if len(source) > len(self.lanes):
            logits = logits[source]
        if not self.sliding:
            return logits
        windows = [row.window(self.context_length) for row in self.sliding]
        return torch.cat([logits.float(), self.network.last_logits(windows)])

    def _guesses(self) -> int:
        """How many tokens to guess ahead; 0 where that does not pay or cannot be."""
        if len(self._rows) != 1 or self.sliding or not self.supply.can_guess(self._rows[0].left):
            return 0
        (row,) = self._rows
        # The last token of a leap is drawn, not guessed; all must fit into the context.
        room = min(row.left - 1, self.context_length - row.length)
        return min(self.guesses.count(), room)

    def _leap(self, count: int) -> None:
        """Guess `count` tokens, check them in one pass, and keep what the model draws."""
        (row,) = self._rows
        end = self.cache.end
        guessed = self._guess(row, count)
        self.cache.rewind(end)
        tokens = self._tensor([[row.new[-1], *guessed]])
        weights = self.supply.weights(self.supply.step_kind(count + 1, GUESS_FROM))
        logits = self.network.advance(tokens, self.cache, weights)[0]  # (count + 1, V)
        keys = [row.key(place) for place in range(count + 1)]
        drawn = self._drawn(Sampler([row.sampling] * (count + 1)), logits, keys)
        right = 0
        for place in range(count + 1):
            self._give(row, drawn, place)
            if row.done or place == count or row.new[-1] != guessed[place]:
                break
            right += 1
        self.cache.rewind(end + right + 1)
        self.guesses.learn(count, right)

    def _guess(self, row: Row, count: int) -> list[int]:
        """What the model would draw next, if its weights had 8 bits."""
        guessed: list[int] = []
        weights = self.supply.weights("eight_bit")
        for place in range(count):
            token = guessed[-1] if guessed else row.new[-1]
            logits = self.network.advance(self._tensor([[token]]), self.cache, weights)[:, 0]
            if row.sampling.greedy:  # without the margin, which a guess does not need
                guessed.append(int(logits.argmax()))
            else:
                guessed += self.sampler.draw(logits, [row.key(place)])[0].tolist()
        return guessed

    def _draw(self, rows: list[Row], logits: Tensor) -> None:
        """Give each row its next token."""
        drawn = self._drawn(self.sampler, logits, [row.key() for row in rows])
        for place, row in enumerate(rows):
            self._give(row, drawn, place)

    def _drawn(self, sampler: Sampler, logits: Tensor, keys: list[int]) -> Drawn:
        """What the sampler draws from logits (n, V)."""
        if logits.is_mps:
            logits = logits.cpu()  # which has the float64 that sampling counts in
        log_total = torch.logsumexp(logits, dim=-1)
        if not torch.isfinite(log_total).all():
            raise UserError(
                "the model's logits are not finite: its weights hold NaN or infinity, as after a "
                "training that diverged; train again with a lower train.learning_rate"
            )
        tokens, margins = sampler.draw(logits, keys)
        log_probs = logits.gather(1, tokens[:, None])[:, 0] - log_total
        close = [False] * len(keys)
        if self.supply.exact:
            rounding = ROUNDING[self.network.wte.dtype] * logits.abs().amax(-1)
            close = (margins <= rounding).tolist()
        return Drawn(tokens.tolist(), log_probs.tolist(), close)

    def _give(self, row: Row, drawn: Drawn, place: int) -> None:
        """Give the row the token that was drawn at a place.

        Batches and caches round differently from a pass over the whole context. Where that could
        decide between two tokens, that pass is made, so that the choice is its choice.
        """
        if drawn.close[place]:
            logits = self.network.reference_logits(row.window(self.context_length))
            drawn, place = self._drawn(Sampler([row.sampling]), logits[None], [row.key()]), 0
        row.take(drawn.tokens[place], drawn.log_probs[place], self.end_of_text)
        if self.on_token is not None and row.finish_reason == "length":
            for index in row.wanted_by:
                self.on_token(index, drawn.tokens[place])

    def _regroup(self) -> bool:
        """Drop finished rows, fork, and move those out of the cache whose context is full."""
        before = self._rows
        self.sliding = [row for row in before if not self._fits(row) and not row.done]
        staying, forked = [], []  # places in the cache, and the lanes that go on from there
        for place, lane in enumerate(self.lanes):
            first, *others = self._lanes(
                [row for row in lane if self._fits(row) and not row.done]
            ) or [[]]
            staying += [(place, first)] if first else []
            forked += [(place, other) for other in others]
        places = [place for place, _ in staying + forked]
        if places != list(range(len(self.lanes))):
            self.cache.keep(places)
        self.lanes = [lane for _, lane in staying + forked]
        if self._rows != before:
            self.sampler = Sampler([row.sampling for row in self._rows])
        return bool(self._rows)

    def _lanes(self, rows: list[Row]) -> list[list[Row]]:
        """The rows, those of one context together."""
        if not self.forks:
            return [[row] for row in rows]
        lanes: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            lanes.setdefault((*row.prompt, *row.new), []).append(row)
        return list(lanes.values())

    def _fits(self, row: Row) -> bool:
        return row.length <= self.context_length

    def _tensor(self, tokens: list[list[int]]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self.network.wte.device)
