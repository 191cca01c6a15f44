"""Several runs' models as one: each token's probability is the mean of theirs.

A target that the models give the losses l_1 to l_n has -log((1 / n) Σ exp(-l_i)), which is never
above their mean (Jensen's inequality), and far below it where models are wrong in different places
(Lakshminarayanan, Pritzel and Blundell 2017). That needs the losses of targets alone, so models are
measured one after another, and none is held while another is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from tempfile import TemporaryFile

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import UserError
from pipeline.evaluation.measure import Keep, measure_model
from pipeline.model.perplexity import batches, losses_of
from pipeline.reports import EnsembleLosses, Losses
from pipeline.system.text import quoted
from pipeline.tokens.splits import Splits
from pipeline.tracking.artifacts import runs_named
from pipeline.weights import Source, find_members


class MeanProbability:
    """The mean of models' probabilities of each target, from their losses in nats.

    Its sums, float64 (windows, context_length), are in a temporary file, not in memory.
    """

    def __init__(self, windows: int, context_length: int) -> None:
        with TemporaryFile() as file:  # which the map keeps until it goes
            self._logs = np.memmap(file, np.float64, "w+", shape=(windows, context_length))
        self._logs[:] = -np.inf
        self._rows = 0

    def add(self, losses: npt.NDArray[np.float32]) -> None:
        """Add the losses of a model's next windows, (B, T); after the last the next model's."""
        row = self._rows % len(self._logs)
        logs = self._logs[row : row + len(losses)]
        with np.errstate(invalid="ignore"):  # NaN, where a model has diverged
            np.logaddexp(logs, -losses.astype(np.float64), out=logs)
        self._rows += len(losses)

    def losses(self, row: int, count: int) -> npt.NDArray[np.float32]:
        """Nats for each target of so many windows from `row` on, (B, T)."""
        models = self._rows / len(self._logs)
        return (math.log(models) - self._logs[row : row + count]).astype(np.float32)


def find_ensemble(names: Sequence[str], splits: Splits) -> list[Source]:
    """The models of `evaluate.ensemble`.

    Raises:
        UserError: as `find_members`; or a run has learnt from another text, which may hold what is
            measured here.
    """
    ours = splits.train.dataset()["digest"]
    found = find_members(names, splits.context_length)
    for source in found:
        runs = [] if source.folder is None else runs_named(source.folder.name)
        read = [i["digest"] for run in runs for i in run.run.inputs if i["context"] == "training"]
        if read and not any(ours.startswith(digest) for digest in read):
            raise UserError(
                f"evaluate.ensemble: {quoted(source.name)} was trained on other tokens than "
                f"{splits.train.tokens.folder}; name runs of this corpus and split"
            )
    return found


def measure_ensemble(
    sources: Sequence[Source],
    splits: Splits,
    batch_size: int,
    device: torch.device,
    *,
    keep: Keep,
    progress: Callable[[int], object],
) -> EnsembleLosses:
    """Measure the models one after another, and then all as one.

    Args:
        keep: called with a split's name and a batch's nats for each target, (B, T), of the
            ensemble.
        progress: called with the number of windows that each batch of a model adds.

    Raises:
        UserError: a model cannot be read.
    """
    means = {
        split: MeanProbability(len(indices), splits.context_length)
        for split, indices in splits.measured.items()
    }

    def add(source: Source) -> int:
        model = source.load().to(device)
        measure_model(
            model,
            splits,
            batch_size,
            None,
            keep=lambda split, losses: means[split].add(losses),
            progress=progress,
        )
        return model.count_parameters()

    parameters = sum(map(add, sources))
    losses: dict[str, Losses] = {}
    for split, indices in splits.measured.items():
        nats, row = 0.0, 0
        for batch in batches(indices, batch_size):
            of_batch = means[split].losses(row, len(batch))
            nats += float(of_batch.sum(dtype=np.float64))
            row += len(batch)
            keep(split, of_batch)
        losses[split] = losses_of(nats, splits.windows[split], indices, batch_size)
    members = tuple(source.name for source in sources)
    return EnsembleLosses(**losses, members=members, parameters=parameters)
