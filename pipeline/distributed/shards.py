"""States in shards: of every tensor the rows that one of several processes holds.

Rows are divided as FSDP2 divides them, like `torch.chunk`: equally but for the last ones. Scalars,
such as a moment's count of steps, are whole in every shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Shard(NamedTuple):
    """The `number`-th shard, from 0, of `of`."""

    number: int
    of: int

    def rows(self, rows: int) -> slice:
        """Those of a tensor's `rows` that the shard holds; none where there are too few."""
        size = -(-rows // self.of)
        start = min(self.number * size, rows)
        return slice(start, min(start + size, rows))

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of what the shard holds of a tensor of this shape."""
        if not shape:
            return ()
        held = self.rows(shape[0])
        return (held.stop - held.start, *shape[1:])


WHOLE = Shard(0, 1)


def joined(shards: Sequence[Any], shard: Shard = WHOLE) -> Any:
    """One shard of the state, nested dictionaries of tensors, of which `shards` are all shards.

    Only its rows are read of tensors that are mapped into memory, and they are copied.
    """
    first = shards[0]
    if isinstance(first, dict):
        return {key: joined([each[key] for each in shards], shard) for key in first}
    if not isinstance(first, Tensor) or not first.dim() or (len(shards) == 1 and shard == WHOLE):
        return first
    wanted = shard.rows(sum(map(len, shards)))
    pieces, at = [], 0
    for each in shards:
        pieces.append(each[max(wanted.start - at, 0) : max(wanted.stop - at, 0)])
        at += len(each)
    return torch.cat(pieces)
