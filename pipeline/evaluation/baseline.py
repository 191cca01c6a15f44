"""GPT-2's losses on our text, by the scratch model's own protocol, and what it says to prompts.

fp32 where the device's memory holds it, else bf16; the loss moves by about 1e-3 with the latter,
so the report says which it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.errors import UserError
from pipeline.evaluation.token_losses import shown_losses, shown_targets
from pipeline.generation.decode import complete
from pipeline.generation.sampling import Sampling
from pipeline.gpt2.cache import Place, Record, place_of
from pipeline.gpt2.load import hparams_of, read
from pipeline.model.gpt import GPT
from pipeline.model.perplexity import Losses, measure
from pipeline.params import Compare, Gpt2
from pipeline.system.files import read_json
from pipeline.tokens.tokenizer import VOCABULARY
from pipeline.tokens.windows import Windows

Precision = Literal["fp32", "bf16"]
Splits = dict[str, Windows]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WORKSPACE = 3 * 10**9  # bytes beside the weights: the frameworks, activations, one chunk of logits


@dataclass(frozen=True)
class Completion:
    """A greedy continuation and the seconds that it took."""

    prompt: str
    completion: str
    seconds: float


@dataclass(frozen=True)
class Baseline:
    """One size, measured.

    Attributes:
        shown: nats of the first validation targets (`evaluation.token_view`).
        load_seconds: from the files to a model on its device.
        tokens_per_second: of the loss, over both splits.
        peak_memory: bytes that the process held at most, and the GPU where there is one.
    """

    parameters: int
    precision: Precision
    losses: dict[str, Losses]
    shown: list[float]
    completions: list[Completion]
    load_seconds: float
    tokens_per_second: float
    peak_memory: dict[str, int]


def weights_of(size: str, settings: Gpt2, report: Path, context_length: int) -> Place | str:
    """Where the weights are that `fetch_gpt2` reported, or why there are none to measure.

    Raises:
        UserError: they are no longer what was reported.
    """
    found = read_json(report)
    if found["status"] != "available":
        return str(found["reason"])
    place = place_of(size, settings)
    record = Record(place)
    if not record.is_whole or record.digests() != found["files"]:
        raise UserError(
            f"GPT-2 {size}: the weights are not those of {report}; `dvc repro` looks at them again"
        )
    hparams = hparams_of(place)
    if context_length > hparams.n_ctx:
        return f"it reads {hparams.n_ctx} tokens at most; model.context_length is {context_length}"
    if hparams.n_vocab < VOCABULARY:
        return f"it knows {hparams.n_vocab} tokens; GPT-2's encoding has {VOCABULARY}"
    return place


def measure_baseline(
    place: Place,
    splits: Splits,
    batch_size: int,
    prompts: Compare,
    *,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    device: torch.device,
    tell: Callable[[int], object],
) -> Baseline:
    """Load a size, measure it over each split, and let it complete the prompts.

    Args:
        tell: hears of every window that is done.

    Raises:
        UserError: the weights are damaged.
    """
    started = time.perf_counter()
    chosen = choose_precision(precision, hparams_of(place).parameters, device)
    model = read(place, DTYPES[chosen]).to(device)
    loaded = time.perf_counter()
    losses = {
        name: measure(model, windows, batch_size, progress=tell) for name, windows in splits.items()
    }
    seconds = time.perf_counter() - loaded
    return Baseline(
        parameters=model.count_parameters(),
        precision=chosen,
        losses=losses,
        shown=shown_losses(model, splits["val"], batch_size),
        completions=[
            _complete(model, prompt, prompts.max_new_tokens) for prompt in prompts.prompts
        ],
        load_seconds=loaded - started,
        tokens_per_second=sum(found.tokens for found in losses.values()) / seconds,
        peak_memory=peak_memory(device),
    )


def choose_precision(
    setting: Literal["auto", "fp32", "bf16"], parameters: int, device: torch.device
) -> Precision:
    """`gpt2.precision`; `auto` is fp32 where its 4 bytes a parameter fit the device's memory."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        import psutil

        memory = psutil.virtual_memory().total
    return "fp32" if 4 * parameters + WORKSPACE <= memory else "bf16"


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most bytes that this process has held so far, by `ram` and, on CUDA, `gpu`."""
    peaks = {}
    try:
        import resource
        import sys
    except ImportError:  # Windows keeps no such count
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peaks["ram"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        peaks["gpu"] = torch.cuda.max_memory_allocated(device)
    return peaks


def as_report(size: str, splits: Splits, found: Baseline | str) -> dict[str, Any]:
    """What `reports/baselines/SIZE.json` holds of a size that was measured, or why it was not."""
    windows = splits["val"]
    measured = None if isinstance(found, str) else found
    completions = measured.completions if measured else []
    return {
        "model": size,
        "status": "measured" if measured else "unavailable",
        "reason": None if measured else found,
        "parameters": measured.parameters if measured else None,
        "precision": measured.precision if measured else None,
        "context_length": windows.context_length,
        "corpus_sha256": windows.tokens.meta["corpus_sha256"],
        "train": measured.losses["train"].as_dict() if measured else None,
        "val": measured.losses["val"].as_dict() if measured else None,
        "completions": [{"prompt": c.prompt, "completion": c.completion} for c in completions],
    }


def as_token_losses(size: str, splits: Splits, found: Baseline | str) -> dict[str, Any]:
    """What `reports/token_losses/SIZE.json` holds."""
    windows = splits["val"]
    return {
        "corpus_sha256": windows.tokens.meta["corpus_sha256"],
        "context_length": windows.context_length,
        "tokens": shown_targets(windows),
        "models": {} if isinstance(found, str) else {size: found.shown},
    }


def _complete(model: GPT, prompt: str, max_new_tokens: int) -> Completion:
    started = time.perf_counter()
    text = complete(model, prompt, Sampling(temperature=0.0), max_new_tokens)
    return Completion(prompt, text, time.perf_counter() - started)
