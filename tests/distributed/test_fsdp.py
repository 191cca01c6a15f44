"""FSDP2 in a process group of one: what is gathered in which precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from pipeline.distributed import fsdp
from pipeline.distributed.world import ALONE
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime
from pipeline.params import Train

CPU = torch.device("cpu")


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("tie_weights", [False, True])
def test_weights_are_gathered_in_bf16_and_gradients_are_fp32(
    group: None, monkeypatch: pytest.MonkeyPatch, tie_weights: bool
) -> None:
    """As on CUDA: embeddings and head too, and with them the residual stream."""
    monkeypatch.setattr(fsdp, "BF16_ON", {"cpu"})
    config = GPTConfig(2, 2, 16, 8, vocab_size=50, dropout=0.0, tie_weights=tie_weights)
    model = GPT(config)
    initialise(model, "gpt2", 1)
    tokens = torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(2))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    runtime = Runtime(CPU, bf16=True)
    expected = Objective(model, Train(), CPU)(inputs, targets)
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    fsdp.shard(model, runtime, ALONE)
    objective = Objective(model, Train(), CPU)
    parallel = fsdp.Sharded(ALONE, objective)
    types: set[torch.dtype] = set()
    for module in (model.wte, model.h[1].ln_1, model.ln_f):
        module.register_forward_hook(
            lambda module, given, out: types.update((module.weight.dtype, out.dtype))
        )
    with parallel.micro_batch(is_last=True), runtime.autocast():
        loss = objective(inputs, targets)
        loss.backward()
    assert types == {torch.bfloat16}
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    for name, parameter in model.named_parameters():
        found = parameter.grad.full_tensor()
        assert found.dtype == torch.float32
        error = (found - gradients[name]).norm() / gradients[name].norm()
        assert error < 0.05, name
