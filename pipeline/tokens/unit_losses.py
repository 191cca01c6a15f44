"""A model's validation loss by unit of text: small enough to stand in its run for whoever reads it.

A sweep asks how much of a gap between settings is due to the text on which it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        sums: nats of each group, by version of the weights.
    """

    unit: Literal["document", "block"]
    tokens: tuple[Annotated[int, Field(gt=0)], ...] = Field(max_length=GROUPS)
    sums: dict[Literal["best", "last"], tuple[float, ...]]

    @model_validator(mode="after")
    def every_group_has_its_sums(self) -> UnitLosses:
        for version, sums in self.sums.items():
            if len(sums) != len(self.tokens):
                raise PydanticCustomError(
                    "length",
                    "{version} has {sums} sums for {groups} groups",
                    {"version": version, "sums": len(sums), "groups": len(self.tokens)},
                )
        return self


def unit_losses(units: Units, losses: Mapping[Literal["best", "last"], Losses]) -> UnitLosses:
    """The losses in at most 256 groups of units, of about as many tokens each.

    Args:
        losses: nats, (W, T), by version of the weights.
    """
    there = units.counts > 0
    counts = units.counts[there]
    before = np.cumsum(counts) - counts
    _, first = np.unique(before * GROUPS // counts.sum(), return_index=True)
    return UnitLosses(
        unit=units.kind,
        tokens=tuple(np.add.reduceat(counts, first).tolist()),
        sums={
            version: tuple(np.add.reduceat(units.sums(array)[there], first).tolist())
            for version, array in losses.items()
        },
    )
