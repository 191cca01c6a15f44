"""Measure one size of GPT-2 on our text, as our own model is measured.

In fp32 where the device's memory holds it, else in bf16, which moves the loss by about 1e-3: the
report says which it was.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from pipeline.errors import UserError
from pipeline.evaluation.measure import Keep, Measurement, measure_model
from pipeline.gpt2.load import hparams_of, read
from pipeline.gpt2.location import FileRecord, Location, locate
from pipeline.params import Gpt2, Params
from pipeline.reports import WeightsReport
from pipeline.system.text import quoted
from pipeline.tokens.splits import Splits
from pipeline.tokens.tokenizer import VOCABULARY

Precision = Literal["fp32", "bf16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WORKSPACE = 3 * 10**9  # bytes beside the weights: the frameworks, activations, one chunk of logits


@dataclass(frozen=True)
class MeasuredSize:
    """One size, measured.

    Attributes:
        load_seconds: from the files to a model on its device.
        peak_memory: bytes that the process held at most, and the GPU where there is one.
    """

    measurement: Measurement
    parameters: int
    precision: Precision
    load_seconds: float
    peak_memory: dict[str, int]

    @property
    def tokens_per_second(self) -> float:
        """Of the losses, over all splits."""
        tokens = sum(of_split.tokens for of_split in self.measurement.losses.by_split.values())
        return tokens / self.measurement.seconds


def find_weights(size: str, settings: Gpt2, report: Path, context_length: int) -> Location | str:
    """Where the weights are that `fetch_gpt2` reported, or the reason why none can be measured.

    Raises:
        UserError: the report is about another size, or they are no longer what was reported.
    """
    found = WeightsReport.read(report)
    if found.model != size:
        raise UserError(f"{report}: is about GPT-2 {quoted(found.model)}, not {size}")
    if found.status != "available":
        return str(found.reason)
    location = locate(size, settings)
    record = FileRecord(location)
    if not record.is_whole or record.digests() != found.files:
        raise UserError(
            f"GPT-2 {size}: the weights are not those of {report}; `dvc repro` looks at them again"
        )
    hparams = hparams_of(location)
    if context_length > hparams.n_ctx:
        return f"it reads {hparams.n_ctx} tokens at most; model.context_length is {context_length}"
    if hparams.n_vocab < VOCABULARY:
        return f"it knows {hparams.n_vocab} tokens; GPT-2's encoding has {VOCABULARY}"
    return location


def measure_size(
    location: Location,
    splits: Splits,
    params: Params,
    device: torch.device,
    *,
    keep: Keep,
    progress: Callable[[int], object],
) -> MeasuredSize:
    """Load the size at `location` and measure it.

    Args:
        keep: as `measure_model` takes it.
        progress: called with the number of windows that each batch adds.

    Raises:
        UserError: the weights are damaged.
    """
    started = time.perf_counter()
    precision = choose_precision(params.gpt2.precision, hparams_of(location).parameters, device)
    model = read(location, DTYPES[precision]).to(device)
    load_seconds = time.perf_counter() - started
    batch_size = params.evaluate.batch_size
    return MeasuredSize(
        measurement=measure_model(
            model, splits, batch_size, params.compare, keep=keep, progress=progress
        ),
        parameters=model.count_parameters(),
        precision=precision,
        load_seconds=load_seconds,
        peak_memory=peak_memory(device),
    )


def choose_precision(
    setting: Literal["auto", "fp32", "bf16"], parameters: int, device: torch.device
) -> Precision:
    """`gpt2.precision`; `auto` is fp32 where its 4 bytes per parameter fit the device's memory."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = psutil.virtual_memory().total
    return "fp32" if 4 * parameters + WORKSPACE <= memory else "bf16"


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most bytes that this process has held so far, by `ram` and, on CUDA, `gpu`."""
    peaks = {}
    try:
        import resource
    except ImportError:  # Windows keeps no such count
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peaks["ram"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        peaks["gpu"] = torch.cuda.max_memory_allocated(device)
    return peaks
