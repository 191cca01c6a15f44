"""How sure each row's losses are, and each row's difference from the reference.

Differences are paired: over the same tokens, unit of text by unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.comparison.kept import KeptLosses
from pipeline.comparison.table import ComparedModel, Comparison, Estimate, Judged
from pipeline.comparison.uncertainty import (
    TOO_LITTLE,
    Sums,
    Uncertainty,
    difference_uncertainty,
    loss_uncertainty,
)
from pipeline.numbers import counted
from pipeline.tokens.units import BLOCK, BLOCKS, FEWEST, Mask, Units, units_of
from pipeline.tokens.windows import MUCH_SHARED

SPLITS: dict[Judged, str] = {"val": "validation", "test": "test"}  # what models are judged on


@dataclass(frozen=True)
class UnitLosses:
    """A split's units of text, and each row's summed losses by unit."""

    units: Units
    sums: Mapping[str, Sums]

    @classmethod
    def read(cls, kept: KeptLosses, split: Judged, left_out: Mask | None = None) -> UnitLosses:
        units = units_of(kept.splits.windows[split], kept.windows(split), left_out)
        return cls(units, {key: units.sums(kept.of(key, split)) for key in kept.rows})


def with_intervals(comparison: Comparison, kept: KeptLosses) -> Comparison:
    """The comparison with its rows' uncertainty, differences, and what they rest on."""
    splits: list[Judged] = [split for split in SPLITS if split in kept.splits.windows and kept.rows]
    found = {split: UnitLosses.read(kept, split) for split in splits}
    models = {
        key: replace(
            model,
            uncertainty={
                split: loss_uncertainty(of.units, of.sums[key])
                for split, of in found.items()
                if key in of.sums
            },
            difference=_difference(comparison, found, key, comparison.reference),
            beside_best=_difference(comparison, found, key, comparison.best),
        )
        for key, model in comparison.models.items()
    }
    done = _with_new_text(replace(comparison, models=models), kept)
    noted = {key: replace(row, interval_note=_note(row, done)) for key, row in done.models.items()}
    return replace(done, models=noted)


def _with_new_text(comparison: Comparison, kept: KeptLosses) -> Comparison:
    """The comparison with losses over what does not stand in training, where much of it does."""
    if not kept.rows:
        return comparison
    split = comparison.judged
    shared = kept.splits.windows[split].shared(kept.windows(split))
    if shared is None or not MUCH_SHARED < shared.mean() < 1:
        return comparison
    new = UnitLosses.read(kept, split, shared)
    tokens = new.units.counts.sum()
    models = comparison.models | {
        key: replace(
            comparison.models[key],
            without_copies=Estimate(float(sums.sum() / tokens), loss_uncertainty(new.units, sums)),
        )
        for key, sums in new.sums.items()
    }
    return replace(comparison, models=models, copied=float(shared.mean()))


def _difference(
    comparison: Comparison, found: Mapping[Judged, UnitLosses], key: str, other: str
) -> Estimate | None:
    of = found.get(comparison.judged)
    if of is None or key not in of.sums or other not in of.sums:
        return None
    ours, theirs = (comparison.models[one].judged for one in (key, other))
    assert ours is not None, "its losses were kept"
    assert theirs is not None, "its losses were kept"
    nats = ours.loss - theirs.loss
    if not math.isfinite(nats):
        return None
    return Estimate(nats, difference_uncertainty(of.units, of.sums[key], of.sums[other]))


def _note(row: ComparedModel, comparison: Comparison) -> str:
    """What the row's intervals rest on, or why there are none."""
    if row.reason is not None:
        return "not measured"
    if not row.uncertainty:
        return "its losses by token were not kept"
    only = len(row.uncertainty) == 1
    parts = [
        ("" if only else f"{SPLITS[split]}: ") + basis(uncertainty)
        for split, uncertainty in row.uncertainty.items()
    ]
    if row.chosen_here:
        parts.append("its weights were chosen on these windows")
    if missing := missing_reference(comparison):
        parts.append(f"no difference: {missing}")
    return "; ".join(parts)


def missing_reference(comparison: Comparison) -> str:
    """Why there is no row to take differences from; empty where there is one."""
    row = comparison.models.get(comparison.reference)
    name = f"compare.reference {comparison.reference}"
    if row is None:
        unset = {"scratch_ema": "train.ema_decay is null", "ensemble": "evaluate.ensemble is empty"}
        why = unset.get(comparison.reference, "gpt2.sizes does not name it")
        return f"{name} is not in the table, as {why}"
    return f"{name} could not be measured" if row.reason is not None else ""


def basis(uncertainty: Uncertainty) -> str:
    """`312 documents of 240 tokens on average; 95 %, …`; or why there is no interval."""
    if uncertainty.note == TOO_LITTLE:
        one = uncertainty.unit == "block"  # of a single document
        text = counted(uncertainty.tokens_per_unit, "token") if one else units(uncertainty)
        return (
            f"{TOO_LITTLE} ({text}; it takes {FEWEST} documents of like size, or a "
            f"single one of {BLOCKS * BLOCK:,} tokens)"
        )
    if uncertainty.note is not None:
        return uncertainty.note
    return f"{units(uncertainty)}; {uncertainty.method}"


def units(uncertainty: Uncertainty) -> str:
    """`12 blocks of 512 tokens`, `312 documents of 240 tokens on average`."""
    mean = " on average" if uncertainty.unit == "document" else ""
    return (
        f"{counted(uncertainty.units, uncertainty.unit)} of "
        f"{counted(uncertainty.tokens_per_unit, 'token')}{mean}"
    )
