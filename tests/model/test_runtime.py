"""Seeds with owners, devices by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.model import runtime
from pipeline.model.runtime import choose_runtime, derive_seed


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
    chosen = choose_runtime("cpu", "bf16")
    assert chosen.precision == "bf16"
    with chosen.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("bf16_is_faster", [True, False])
def test_auto_takes_the_faster_precision_and_remembers(
    cache: Path, monkeypatch: pytest.MonkeyPatch, bf16_is_faster: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    measured = []

    def seconds(dtype: torch.dtype) -> float:
        measured.append(dtype)
        return 1.0 if (dtype == torch.bfloat16) == bf16_is_faster else 2.0

    monkeypatch.setattr(runtime, "_seconds", seconds)
    assert [choose_runtime("cpu").bf16 for _ in range(3)] == [bf16_is_faster] * 3
    assert len(measured) == 2


def test_without_the_instructions_auto_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert choose_runtime("cpu").precision == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"train\.device: cuda asked for.*0 CUDA GPUs"):
        choose_runtime("cuda")


@pytest.mark.parametrize(
    ("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_a_cuda_device_has_a_number_and_is_the_current_one(
    monkeypatch: pytest.MonkeyPatch, name: str, index: int
) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    device = torch.device("cuda", index)
    assert choose_runtime(name, "fp32").device == device
    assert current == [device]
