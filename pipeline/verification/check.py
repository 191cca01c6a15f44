"""A model's reported numbers beside those that are computed again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.comparison.table import ComparedModel
from pipeline.reports import Losses
from pipeline.tokens.token_losses import TokenLosses
from pipeline.verification.files import SplitFile

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Bound:
    """The largest difference that rounding explains: of a split's loss, of a single token's."""

    loss: float
    token: float


# Of float32, and of bfloat16 beside float32. A single token's loss is the difference of two numbers
# that may be near 100, of which float32 holds seven digits and bfloat16 fewer than three.
BOUNDS = {"fp32": Bound(1e-4, 1e-3), "bf16": Bound(0.05, 2.0)}
SAME = 1e-6  # between sums of the same numbers in another order


@dataclass(frozen=True)
class Claim:
    """What the reports say of a model.

    Attributes:
        report: the file that its losses stand in.
        kept, kept_as: its losses by token, and its name there.
    """

    model: ComparedModel
    report: Path
    precision: str
    kept: TokenLosses
    kept_as: str

    @property
    def losses(self) -> dict[str, Losses]:
        """By split."""
        named = {split: getattr(self.model, split) for split in SPLITS}
        return {split: losses for split, losses in named.items() if losses is not None}


@dataclass
class Row:
    """A model on a split.

    Attributes:
        windows, measured: that were looked at; that the report is of.
        reported, recomputed: nats per token over `windows`.
        difference: the largest of loss, the perplexity's logarithm and bits per byte.
        token_difference: the largest of a single token's loss; None where these are not kept.
        problems: what rounding does not explain, a line each.
    """

    model: str
    split: str
    precision: str
    windows: int
    measured: int
    reported: float = math.nan
    recomputed: float = math.nan
    difference: float = 0.0
    token_difference: float | None = None
    problems: list[str] = field(default_factory=list)

    def compare(self, what: str, reported: float, recomputed: float, where: Path) -> None:
        """Note a difference, and a problem where it is above the bound."""
        apart = difference(reported, recomputed)
        self.difference = max(self.difference, apart)
        if apart > BOUNDS[self.precision].loss:
            self.problem(f"{what} is {reported:.7g} in {where} and {recomputed:.7g} here")

    def problem(self, line: str) -> None:
        self.problems.append(f"{self.model}, {self.split}: {line}")


def check_split(
    claim: Claim,
    name: str,
    split: SplitFile,
    windows: range,
    recomputed: npt.NDArray[np.float64],
) -> Row:
    """Compare a model's losses of `windows`, nats for each target (W, T), with what is reported.

    Where these are not all that were measured, the losses that are kept of them stand for the
    report's.
    """
    row = Row(claim.model.name, name, claim.precision, len(windows), len(split.chosen))
    if name not in claim.losses:
        row.problem(f"{claim.report} has no losses of it")
        return row
    report, kept = claim.losses[name], _kept(claim, row, split)
    if kept is None and windows != split.chosen:
        return row
    nats = kept_nats = 0.0
    for at, indices in split.batches(windows):
        losses = recomputed[at]
        nats += float(losses.sum())
        if kept is not None:
            ours = kept[[split.chosen.index(i) for i in indices]].astype(np.float64)
            kept_nats += float(ours.sum())
            row.token_difference = max(row.token_difference or 0.0, difference(ours, losses))
    tokens = len(windows) * split.length
    row.recomputed = nats / tokens
    if windows == split.chosen:
        row.reported = report.loss
        _compare(row, claim, nats, tokens, split.target_bytes)
    else:
        row.reported = kept_nats / tokens
    row.compare("the loss", row.reported, row.recomputed, claim.report)
    if kept is not None:
        _compare_kept(row, claim, float(kept.mean(dtype=np.float64)))
    return row


def _compare(row: Row, claim: Claim, nats: float, tokens: int, target_bytes: int) -> None:
    """Compare what of the report follows from the loss, and what it counts."""
    report = claim.losses[row.split]
    bits = nats / math.log(2) / max(target_bytes, 1)
    row.compare("bits per byte", report.bits_per_byte, bits, claim.report)
    logs = _log(report.perplexity), _log(_exp(row.recomputed))
    row.compare("the perplexity's logarithm", *logs, claim.report)
    for what, count in (("windows", row.windows), ("tokens", tokens)):
        if (said := getattr(report, what)) != count:
            row.problem(f"{said:,} {what} in {claim.report} and {count:,} here")


def _compare_kept(row: Row, claim: Claim, mean: float) -> None:
    """Compare the mean of the losses by token with the report, and single ones with ours."""
    report = claim.losses[row.split]
    if difference(mean, report.loss) > SAME:
        row.problem(
            f"the loss is {report.loss:.7g} in {claim.report}, the mean of its tokens' losses "
            f"{mean:.7g} in {claim.kept.folder}"
        )
    if (row.token_difference or 0.0) > (bound := BOUNDS[row.precision].token):
        row.problem(
            f"a token's loss in {claim.kept.folder} differs by {row.token_difference:.3g}, more "
            f"than {bound}"
        )


def _kept(claim: Claim, row: Row, split: SplitFile) -> npt.NDArray[np.float32] | None:
    """The model's losses by token, of the windows that were measured; None where none are kept."""
    if row.split == "train":
        return None
    meta = claim.kept.meta
    is_there = row.split in meta.splits and meta.context_length == split.length
    if not is_there or claim.kept.windows(row.split) != split.chosen:
        row.problem(f"{claim.kept.folder} holds no losses by token of these windows")
        return None
    return claim.kept.of(claim.kept_as, row.split)


def difference(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """The largest of two arrays' differences: 0 where both are NaN, or infinite alike."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, apart)
    return float(np.nan_to_num(apart, nan=math.inf, posinf=math.inf).max())


def _exp(loss: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(loss))


def _log(perplexity: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.log(perplexity))
