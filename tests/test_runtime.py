"""Seeds with owners, devices by name."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import UserError
from pipeline.runtime import choose_runtime, derive_seed


def test_each_owner_has_a_seed_of_its_own() -> None:
    owners = ["weights", "batches/0", "batches/1", "dropout/0/0"]
    seeds = [derive_seed(seed, owner) for seed in (0, 1) for owner in owners]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_stay_what_they_are() -> None:
    """Another value here means that no earlier run can be repeated."""
    assert derive_seed(123, "weights") == 375707550717088323


def test_the_precision_asked_for() -> None:
    assert not choose_runtime("cpu", "fp32").bf16
    runtime = choose_runtime("cpu", "bf16")
    assert runtime.precision == "bf16"
    with runtime.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"train\.device: cuda asked for.*0 CUDA GPUs"):
        choose_runtime("cuda")
