"""A model's validation loss by unit of text: small enough to stand in its run for whoever reads it.

A sweep asks how much of a gap between settings is due to the text on which it was measured.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.system.records import Record
from pipeline.tokens.token_losses import Losses
from pipeline.tokens.units import Units

VAL_UNITS = "val_units.json"  # the artifact of a run of `evaluate`
GROUPS = 256


class UnitLosses(Record):
    """`val_units.json`.

    Attributes:
        unit: what the text was cut into.
        tokens: target tokens of each group of consecutive units.
        best, last: nats of each group, summed, with these weights.
    """

    unit: Literal["document", "block"]
    tokens: tuple[Annotated[int, Field(gt=0, le=2**53)], ...] = Field(max_length=GROUPS)
    best: tuple[float, ...]
    last: tuple[float, ...]

    @model_validator(mode="after")
    def every_group_has_its_sums(self) -> UnitLosses:
        for version in ("best", "last"):
            if (sums := len(getattr(self, version))) != len(self.tokens):
                raise PydanticCustomError(
                    "length",
                    "{version} has {sums} sums for {groups} groups",
                    {"version": version, "sums": sums, "groups": len(self.tokens)},
                )
        return self


def unit_losses(units: Units, best: Losses, last: Losses) -> UnitLosses:
    """The losses, nats (W, T), in at most 256 groups of units, of about as many tokens each."""
    there = units.counts > 0
    counts = units.counts[there]
    before = np.cumsum(counts) - counts
    _, first = np.unique(before * GROUPS // counts.sum(), return_index=True)
    tokens, *sums = (
        tuple(np.add.reduceat(of_unit, first).tolist())
        for of_unit in (counts, *(units.sums(losses)[there] for losses in (best, last)))
    )
    return UnitLosses(unit=units.kind, tokens=tokens, best=sums[0], last=sums[1])
