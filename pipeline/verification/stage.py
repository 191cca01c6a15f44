"""`lossbook verify`: every measured number of the comparison, computed again by `transformers`.

Ours in it are the reading of records and of models' files, and the export. Tokens, windows,
network, loss and bytes are not. What it cannot show is a mistake in reading OpenAI's checkpoints,
which tests compare with TensorFlow's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from pipeline.comparison.intervals import with_intervals
from pipeline.comparison.kept import read_kept
from pipeline.comparison.table import ComparedModel, Comparison, read_comparison
from pipeline.errors import UserError
from pipeline.evaluation.baseline import find_weights
from pipeline.evaluation.stage import load_version
from pipeline.gpt2.load import read
from pipeline.model.runtime import choose_runtime
from pipeline.numbers import counted, to_json
from pipeline.params import OURS, Gpt2, Params
from pipeline.reports import BaselineReport, EvaluationReport
from pipeline.system.progress import Progress
from pipeline.system.text import quoted
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import TokenLosses
from pipeline.verification.check import BOUNDS, SPLITS, Claim, Row, check_split
from pipeline.verification.files import SplitFile, spread
from pipeline.verification.network import Network, exported, require_transformers
from pipeline.verification.tables import table_problems
from pipeline.verification.text import text_problems
from pipeline.weights import FOLDER, find_members

CORPUS, TOKENS, REPORTS = Path("data/corpus"), Path("data/tokens"), Path("reports")

Weights = AbstractContextManager[Path]  # a folder in Hugging Face's layout


@dataclass
class Verification:
    """What came of it.

    Attributes:
        unverified: what was not looked at, and why, a line each.
        problems: what is not right, a line each.
    """

    rows: list[Row] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """The largest difference, and what it means."""
        row = max(self.rows, key=lambda row: row.difference)
        tokens = [row.token_difference for row in self.rows if row.token_difference is not None]
        verdict = counted(len(self.problems), "problem") if self.problems else "all as reported"
        return (
            f"largest difference: {row.difference:.1e} nats per token ({row.model}, {row.split}), "
            f"{max(tokens, default=0.0):.1e} of a single token: {verdict}"
        )

    def as_json(self) -> dict[str, Any]:
        bounds = {name: asdict(bound) for name, bound in BOUNDS.items()}
        content = {**asdict(self), "bounds": bounds, "conclusion": str(self)}
        return {key: to_json(value) for key, value in content.items()}


def verify(params: Params, most: int | None = None) -> Verification:
    """Compute again what `reports/` say of every model, in the folder that one is in.

    Args:
        most: windows of each split, at most; None: all.

    Raises:
        UserError: `transformers` or a file is missing, or a file is damaged or was changed.
    """
    require_transformers()
    evaluation = REPORTS / "evaluate.json"
    comparison = read_comparison(
        evaluation,
        REPORTS / "train.json",
        REPORTS / "baselines",
        params.gpt2.sizes,
        start=params.train.init_from,
        reference=params.compare.reference,
    )
    length, found = comparison.evaluation.context_length, Verification()
    splits = {
        name: SplitFile(TOKENS / name, length, params.evaluate.windows)
        for name in SPLITS
        if name in comparison.evaluation.last.by_split or (TOKENS / name).exists()
    }
    ours = TokenLosses.open(REPORTS / "token_losses/scratch")
    _require_in_step(comparison, ours, splits)
    claims: list[tuple[Claim, Sequence[Weights]]] = []
    for key, model in comparison.models.items():
        if model.reason is not None:
            found.unverified.append(f"{model.name}: {model.status}")
        elif key != "ensemble":
            claims.append((_claim(key, model, ours), [_weights(key, model, params.gpt2, length)]))
        elif isinstance(members := _members(comparison.evaluation), str):
            found.unverified.append(f"{model.name}: {members}")
        else:
            claims.append((_claim(key, model, ours), members))
    _check_text(found, splits, comparison.evaluation.corpus_sha256)
    found.problems += _table_problems(comparison)
    windows = {name: spread(split.chosen, most) for name, split in splits.items()}
    if windows["train"] != splits["train"].chosen:
        found.unverified.append(
            f"train: losses by token are kept of validation and test alone, so some of its "
            f"{len(splits['train'].chosen):,} windows say nothing"
        )
        del windows["train"]
    total = sum(len(weights) for _, weights in claims) * sum(map(len, windows.values()))
    with Progress(total, "verify", unit="window") as bar:
        for claim, weights in claims:  # one at a time is held
            found.rows += _rows(claim, weights, splits, windows, bar.advance)
    found.problems += [line for row in found.rows for line in row.problems]
    return found


def _require_in_step(
    comparison: Comparison, kept: TokenLosses, splits: Mapping[str, SplitFile]
) -> None:
    """
    Raises:
        UserError: the tokens or the settings are no longer those that were measured.
    """
    for split in splits.values():
        if split.corpus_sha256 != comparison.evaluation.corpus_sha256:
            raise UserError(
                f"{split.folder}: is of another corpus than that of the reports; `dvc repro` "
                "measures on it"
            )
    measured, asked = kept.meta.splits.get("val"), splits["val"].chosen
    if measured is not None and measured.stride != asked.step:
        raise UserError(
            f"{kept.folder}: has losses of {counted(len(measured.indices), 'validation window')}, "
            f"where evaluate.windows in params.yaml makes {len(asked):,}; `dvc repro` measures them"
        )


def _table_problems(comparison: Comparison) -> list[str]:
    """What the tables say beside what `compare` makes of the reports and of the losses kept."""
    splits = Splits.open(TOKENS, comparison.evaluation.context_length)
    try:
        kept = read_kept(comparison, REPORTS / "token_losses", splits)
    except UserError as error:  # losses of other tokens: the rows show what else is wrong
        return [str(error)]
    return list(table_problems(REPORTS, with_intervals(comparison, kept)))


def _rows(
    claim: Claim,
    weights: Sequence[Weights],
    splits: Mapping[str, SplitFile],
    windows: Mapping[str, range],
    progress: Callable[[int], object],
) -> list[Row]:
    """The rows of a model, or of several as one, by the mean of their probabilities."""
    length, losses = splits["train"].length, {}
    for name, chosen in windows.items():
        with TemporaryFile() as file:  # which the map keeps until it goes
            losses[name] = np.memmap(file, np.float64, "w+", shape=(len(chosen), length))
        losses[name][:] = -np.inf

    def add(folder: Path) -> None:
        network = Network(folder, choose_runtime().device)
        if length > network.positions:
            raise UserError(
                f"{claim.report}: context_length is {length}, but {claim.model.name} reads "
                f"{network.positions} tokens at most"
            )
        for name, chosen in windows.items():
            for at, indices in splits[name].batches(chosen):
                logs = -network.losses(*splits[name].batch(indices))
                with np.errstate(invalid="ignore"):  # NaN, where a model has diverged
                    losses[name][at] = np.logaddexp(losses[name][at], logs)
                progress(len(indices))

    for one in weights:
        with one as folder:
            add(folder)
    for of_split in losses.values():
        np.subtract(math.log(len(weights)), of_split, out=of_split)
    return [
        check_split(claim, name, splits[name], chosen, losses[name])
        for name, chosen in windows.items()
    ]


def _claim(key: str, model: ComparedModel, ours: TokenLosses) -> Claim:
    if model.size is None:
        return Claim(model, REPORTS / "evaluate.json", "fp32", ours, OURS[key])
    size = model.size.name
    path = REPORTS / "baselines" / f"{size}.json"
    precision = BaselineReport.read(path).precision or "fp32"
    if precision not in BOUNDS:
        raise UserError(f"{path}: precision is {quoted(precision)}, and not {' or '.join(BOUNDS)}")
    return Claim(model, path, precision, TokenLosses.open(REPORTS / "token_losses" / size), size)


def _members(evaluation: EvaluationReport) -> list[Weights] | str:
    """What an ensemble was measured of, as `_weights`; or why it cannot be had."""
    names = evaluation.ensemble.members if evaluation.ensemble else ()
    try:
        return [exported(one.load) for one in find_members(names, evaluation.context_length)]
    except UserError as error:
        return str(error)


def _check_text(found: Verification, splits: dict[str, SplitFile], corpus_sha256: str) -> None:
    if not CORPUS.exists():
        found.unverified.append(f"the text that the tokens are of: {CORPUS} is not there")
        return
    total = sum(map(len, splits.values()))
    with Progress(total, "tokens", unit="token", speed=True) as bar:
        found.problems += text_problems(CORPUS, corpus_sha256, splits, progress=bar.advance)


def _weights(key: str, model: ComparedModel, gpt2: Gpt2, length: int) -> Weights:
    """A folder in Hugging Face's layout that holds what was measured; the export is yet to come."""
    if model.size is None:
        return exported(partial(load_version, FOLDER, OURS[key], gpt2))
    size = model.size.name
    location = find_weights(size, gpt2, REPORTS / "gpt2" / f"{size}.json", length)
    if isinstance(location, str):
        raise UserError(f"{model.name}: was measured, and its weights are not here: {location}")
    if location.layout == "huggingface":
        return nullcontext(location.folder)
    return exported(partial(read, location))
