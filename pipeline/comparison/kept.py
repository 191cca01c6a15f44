"""Every row's losses by token, which intervals and the shaded text are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.comparison.table import Comparison
from pipeline.errors import UserError
from pipeline.params import OURS
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import Losses, TokenLosses, require_same_tokens


@dataclass(frozen=True)
class KeptLosses:
    """The losses of the rows that have kept them, over the same tokens.

    Attributes:
        splits: the tokens.
        rows: by the row's key, in the table's order: the folder and the model's name there.
    """

    splits: Splits
    rows: Mapping[str, tuple[TokenLosses, str]]

    def of(self, key: str, split: str) -> Losses:
        """Nats for each target, float32 (windows, context_length), memory-mapped."""
        folder, model = self.rows[key]
        return folder.of(model, split)

    def windows(self, split: str) -> range:
        """The indices of the windows that were measured; of one row at least."""
        folder, _ = next(iter(self.rows.values()))
        return folder.windows(split)


def read_kept(comparison: Comparison, folder: Path, splits: Splits) -> KeptLosses:
    """Open the losses of every measured row.

    Args:
        folder: `reports/token_losses`, with `scratch/` and a `SIZE/` for each GPT-2.
        splits: the tokens that they must be of.

    Raises:
        UserError: a file is damaged, or its losses are of other tokens.
    """
    places = {key: ("scratch", name) for key, name in OURS.items() if key in comparison.models}
    places |= {key: (size.name, size.name) for key, size in comparison.sizes.items()}
    names = {places[key][0] for key, row in comparison.models.items() if row.reason is None}
    opened = {name: TokenLosses.open(folder / name) for name in names if (folder / name).exists()}
    require_same_tokens({losses.folder: losses.meta for losses in opened.values()}, splits)
    rows = {
        key: (opened[name], model)
        for key, (name, model) in places.items()
        if name in opened and model in opened[name].meta.models
    }
    _require_same_windows([losses for losses, _ in rows.values()])
    return KeptLosses(splits, rows)


def _require_same_windows(opened: list[TokenLosses]) -> None:
    for losses in opened[1:]:
        if losses.meta.splits != opened[0].meta.splits:
            raise UserError(
                f"{opened[0].folder} and {losses.folder} cannot be compared: they are of other "
                "windows; `dvc repro` measures both on the same"
            )
