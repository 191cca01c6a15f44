"""The search for the largest batch, with a limit that stands in for a GPU's memory."""

from __future__ import annotations

import pytest
import torch
from torch.cuda._utils import _get_device_index

from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime, choose_runtime
from pipeline.params import Params, Train
from pipeline.training.batch_size import (
    ROOM,
    _limited_memory,
    largest_batch,
    largest_that_fits,
    with_largest_batch,
)
from pipeline.training.optim import build_optimizer

CPU = Runtime(torch.device("cpu"), bf16=False)


@pytest.mark.parametrize(
    ("room", "limit", "found"),
    [(0, 9, 0), (1, 9, 1), (5, 100, 4), (6, 100, 6), (7, 100, 6), (100, 100, 96), (100, 5, 4)],
)
def test_tries_powers_of_two_and_what_lies_halfway(room: int, limit: int, found: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= room

    assert largest_that_fits(fits, limit) == found
    assert tried == sorted(set(tried))
    assert max(tried) <= limit
    assert sum(size > room for size in tried) <= 1  # one failure is enough


@pytest.fixture
def objective(config) -> Objective:
    return Objective(GPT(config), Train(), CPU.device)


def limit_memory(model: GPT, windows: int) -> None:
    """Have the last block run out of memory for more windows, as an allocator would."""

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > windows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. More words")

    model.h[-1].register_forward_pre_hook(refuse)


def test_finds_the_largest_batch_that_a_step_can_be_taken_with(objective: Objective) -> None:
    limit_memory(objective.model, 7)
    optimizer = build_optimizer(objective.model, Train())
    assert largest_batch(objective, optimizer, CPU, limit=100) == 6
    assert optimizer.state  # AdamW's moments were there when it was tried
    assert all(p.grad is None for p in objective.model.parameters())


def test_not_one_window_is_an_error_with_a_way_out(objective: Objective) -> None:
    limit_memory(objective.model, 0)
    with pytest.raises(UserError, match=r"train\.batch_size: not one window.*checkpointing: true"):
        largest_batch(objective, build_optimizer(objective.model, Train()), CPU, limit=100)


def test_an_error_that_is_not_memory_is_no_answer(objective: Objective) -> None:
    objective.model.h[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        largest_batch(objective, build_optimizer(objective.model, Train()), CPU, limit=100)


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_the_memory_that_is_limited_is_that_of_the_chosen_gpu(monkeypatch, name: str) -> None:
    """PyTorch wants its number, and refuses a plain `cuda`."""
    limits: list[tuple[float, int]] = []

    def limit(share: float, device: torch.device) -> None:
        limits.append((share, _get_device_index(device)))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    with pytest.raises(ValueError, match="index"), _limited_memory(torch.device("cuda")):
        pass
    with _limited_memory(choose_runtime(name, "fp32").device):
        pass
    number = int(name == "cuda:1")
    assert limits == [(ROOM, number), (1.0, number)]


def test_only_a_cuda_gpu_can_be_searched() -> None:
    params = Params.model_validate({"train": {"batch_size": "auto"}})
    with pytest.raises(UserError, match=r"train\.batch_size: auto .* CUDA GPU.* is cpu here"):
        with_largest_batch(params, 10, CPU)
