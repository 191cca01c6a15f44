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

from pipeline.evaluation.logged import evaluation_params, link_losses, log_losses, sample_rows
from pipeline.evaluation.measure import Keep, Measurement, measure_model
from pipeline.gpt2.load import hparams_of, read
from pipeline.gpt2.location import FileRecord, Location
from pipeline.model.runtime import choose_runtime
from pipeline.params import Params
from pipeline.system.progress import Progress
from pipeline.tokens.splits import Splits
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import start_run

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


def measure_in_run(
    location: Location, splits: Splits, params: Params, journal: Path, keep: Keep
) -> MeasuredSize:
    """Measure the size in a run of its own, which every experiment on the same data shares."""
    size = location.size
    with start_run(
        "baseline",
        experiment=params.tracking.experiment,
        name=f"gpt2-{size}",
        journal=journal,
        description=f"OpenAI's GPT-2 {size} ({params.gpt2.precision}), untouched, on {splits}.",
        params={**evaluation_params(params), "gpt2.source": location.source},
        tags={"role": "baseline"},
    ) as run:
        device = choose_runtime().device
        with Progress(len(splits), f"GPT-2 {size}", unit="window") as bar:
            measured = measure_size(
                location, splits, params, device, keep=keep, progress=bar.advance
            )
        log_size(run, size, measured)
        link_losses(
            run,
            splits,
            measured.measurement.losses,
            FileRecord(location).weights.sha256,
            name=f"gpt2-{size}",
            params={"parameters": measured.parameters, "precision": measured.precision},
        )
    return measured


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


def log_size(run: Run, size: str, measured: MeasuredSize) -> None:
    """Log the losses under the keys of our last weights, so that one chart compares them."""
    run.log_params({"parameters": measured.parameters, "precision": measured.precision})
    log_losses(run, "last", measured.measurement.losses)
    run.log_metrics(
        {
            "load_seconds": measured.load_seconds,
            "tokens_per_second": measured.tokens_per_second,
            **{f"peak_{kind}_gb": peak / 1e9 for kind, peak in measured.peak_memory.items()},
        }
    )
    completions = measured.measurement.completions
    run.log_samples(sample_rows(f"gpt2-{size}", completions))
    run.log_table([completion.model_dump() for completion in completions], "completions.json")
