"""What a file of weights holds is looked at before anything computes with it."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.saved import load_model, save_config, save_weights
from pipeline.system.files import write_json

CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=8, context_length=4, vocab_size=11)
State = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_config(tmp_path, CONFIG)
    save_weights(tmp_path, GPT(CONFIG).state_dict(), "last")
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert len(message) < len(str(folder)) + 300
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "value", [[1, 2], torch.zeros(3), 7, None, "text", {"model": {}}, {}, {1: 2}]
)
def test_what_is_no_state_dict(value: object, folder: Path) -> None:
    torch.save(value, folder / "model.pth")
    message = refused(folder)
    assert "must hold tensors by name" in message or "tensor wte.weight is missing" in message


def with_nan(t: torch.Tensor) -> torch.Tensor:
    t = t.clone()
    t[2, 1] = float("nan")
    return t


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, "tensor wpe.weight holds nan at [2, 1]"),
        (lambda t: t / 0, "tensor wpe.weight holds"),
        (lambda t: t.int(), "is int32, not float32"),
        (lambda t: t.to(torch.complex64), "is complex64, not"),
        (lambda t: t.bfloat16(), "is bfloat16, not float32"),
        (lambda t: t.to_sparse(), "is not a dense tensor"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is not a dense tensor"),
        (lambda t: t.to("meta"), "is not a dense tensor"),
        (lambda t: t[0, 0], "has shape ()"),
        (lambda t: torch.zeros(1).expand(4, 8), "repeats its numbers"),
        (lambda t: torch.zeros(1).expand(10**6, 10**6), "has shape (1000000, 1000000)"),
        (lambda t: t.tolist(), "no tensor"),
        (lambda t: {"data": t}, "no tensor"),
    ],
)
def test_a_tensor_that_cannot_be_a_weight_is_named(
    change: Callable[[torch.Tensor], Any], message: str, folder: Path
) -> None:
    state = GPT(CONFIG).state_dict()
    state["wpe.weight"] = change(state["wpe.weight"])
    torch.save(state, folder / "model.pth")
    assert message in refused(folder)


def test_a_transposed_view_of_whole_memory_is_a_weight(folder: Path) -> None:
    state = GPT(CONFIG).state_dict()
    state |= {n: t.T.contiguous().T for n, t in state.items() if t.dim() == 2}
    torch.save(state, folder / "model.pth")
    loaded = load_model(folder).state_dict()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].is_contiguous()


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_code_in_a_file_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    torch.save({"wte.weight": Code()}, folder / "model.pth")
    assert "not a readable state dict (UnpicklingError)" in refused(folder)
    (folder / "model.pth").write_bytes(pickle.dumps(Code()))
    assert "not a readable state dict" in refused(folder)
    assert not (folder / "ran").exists()


def test_a_compressed_archive_is_not_unfolded(folder: Path) -> None:
    path = folder / "model.pth"
    torch.save({"wte.weight": torch.zeros(10**7)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert path.stat().st_size < 10**5
    assert "not a readable state dict (BadZipFile)" in refused(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "model.pth").unlink()
    os.mkfifo(folder / "model.pth")
    assert "no such file" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layer", 10**9),
        ("n_layer", 2**24),
        ("n_embd", 2**24),
        ("vocab_size", 10**9),
        ("n_head", 0),
        ("n_head", 3),
        ("n_head", -2),
        ("context_length", 4.0),
        ("context_length", "4"),
        ("context_length", True),
        ("context_length", None),
        ("n_layer", 10**400),
        ("n_layer", [1]),
        ("dropout", 1.5),
        ("dropout", "no"),
        ("qkv_bias", 1),
    ],
)
def test_a_config_that_cannot_be_right_is_one_line(key: str, value: object, folder: Path) -> None:
    """Before a model is built: a thousand million blocks would take all memory."""
    write_json(folder / "config.json", asdict(CONFIG) | {key: value})
    refused(folder)


def test_half_precision_weights_are_a_model(folder: Path) -> None:
    state = {name: t.bfloat16() for name, t in GPT(CONFIG).state_dict().items()}
    torch.save(state, folder / "model.pth")
    assert load_model(folder).wte.weight.dtype == torch.bfloat16
