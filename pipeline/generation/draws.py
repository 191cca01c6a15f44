"""What was drawn and what the decoding loop must know of it, in one small tensor.

A GPU is waited for at each copy to the host, so everything that is read for a token comes in one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.generation.sampling import best_and_margin

# How far apart, relative to the largest logit, two orders of summing may land.
ROUNDING = {
    torch.float64: 2**-45,
    torch.float32: 2**-16,
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
}


class Draws(NamedTuple):
    """Drawn tokens, their log-probabilities in nats, and, where the model's own choice is
    promised, whether rounding may decide each."""

    tokens: list[int]
    log_probs: list[float]
    close: list[bool]


def pack_draws(
    logits: Tensor, log_total: Tensor, tokens: Tensor, margins: Tensor, rounding: float | None
) -> Tensor:
    """(4, n) float64, of n draws: what `read_draws` reads.

    Args:
        logits: (n, V), and `log_total` (n,), the logarithm of the sum of their exponentials.
        tokens: (n,) what was drawn, and `margins` (n,), as `Sampler.draw` returns them.
        rounding: relative to the largest logit; `None` where no token is promised.
    """
    log_probs = logits.gather(1, tokens[:, None])[:, 0] - log_total
    close = torch.zeros_like(margins)
    if rounding is not None:
        close = (margins <= rounding * logits.abs().amax(-1)).double()
    return torch.stack([tokens.double(), log_probs.double(), close, log_total.double()])


def pack_greedy(logits: Tensor, rounding: float | None) -> Tensor:
    """`pack_draws` of each row's likeliest token; never waits for a GPU."""
    log_total = torch.logsumexp(logits, dim=-1)
    return pack_draws(logits, log_total, *best_and_margin(logits), rounding)


def read_draws(packed: Tensor, rows: Sequence[int]) -> Draws:
    """The draws at some places of those in `packed` (4, n), by one copy to the host.

    Raises:
        UserError: their logits are not finite.
    """
    tokens, log_probs, close, log_total = packed.tolist()
    check_finite([log_total[row] for row in rows])
    return Draws(
        [int(tokens[row]) for row in rows],
        [log_probs[row] for row in rows],
        [bool(close[row]) for row in rows],
    )


def check_finite(log_totals: list[float]) -> None:
    """Raise a `UserError` where logits with such a log-sum-exp are not all finite."""
    if not all(map(math.isfinite, log_totals)):
        raise UserError(
            "the model's logits are not finite: its weights hold NaN or infinity, as after a "
            "training that diverged; train again with a lower train.learning_rate"
        )
