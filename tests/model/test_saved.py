"""A model's folder: what was written is read, what is damaged is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.saved import load_model, save_config, save_weights
from pipeline.system.files import read_json, write_json

CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=8, context_length=4, vocab_size=11)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_config(tmp_path, CONFIG)
    save_weights(tmp_path, GPT(CONFIG).state_dict(), "last")
    return tmp_path


def test_round_trip(tmp_path: Path) -> None:
    model = GPT(CONFIG)
    save_config(tmp_path, CONFIG)
    save_weights(tmp_path, model.state_dict(), "best")
    loaded = load_model(tmp_path, "best")
    assert loaded.config == CONFIG
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_averaged_weights_are_a_file_of_their_own_which_few_trainings_leave(folder: Path) -> None:
    with pytest.raises(UserError, match=r"ema\.pth: no such file; a training with"):
        load_model(folder, "ema")
    model = GPT(CONFIG)
    save_weights(folder, model.state_dict(), "ema")
    assert torch.equal(load_model(folder, "ema").wte.weight, model.wte.weight)
    assert not torch.equal(load_model(folder).wte.weight, model.wte.weight)


def test_plain_torch_reads_it(folder: Path) -> None:
    state = torch.load(folder / "model.pth", weights_only=True)
    assert set(state) == set(GPT(CONFIG).state_dict())


def change(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    state = torch.load(folder / "model.pth", weights_only=True)
    state.pop(name, None)
    if tensor is not None:
        state[name] = tensor
    save_weights(folder, state, "last")


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change(folder, "ln_f.bias", None)
    with pytest.raises(UserError, match=r"tensor ln_f\.bias is missing"):
        load_model(folder)


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    change(folder, "surprise", torch.zeros(1))
    with pytest.raises(UserError, match="tensor 'surprise' is unknown"):
        load_model(folder)


def test_a_misshapen_tensor_is_named(folder: Path) -> None:
    change(folder, "wpe.weight", torch.zeros(3, 8))
    with pytest.raises(UserError, match=r"wpe\.weight has shape \(3, 8\).*\(4, 8\)"):
        load_model(folder)


def test_a_cut_file_is_named(folder: Path) -> None:
    path = folder / "model.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.pth: not a readable state dict"):
        load_model(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"best\.pth: no such file"):
        load_model(folder, "best")


def test_a_config_of_something_else_is_named(folder: Path) -> None:
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "rope": True})
    with pytest.raises(UserError, match=r"config\.json: rope: extra inputs are not permitted"):
        load_model(folder)


def test_another_process_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.save names the archive after its path; the file aside is named after the process."""
    model, written = GPT(CONFIG), []
    for pid in (11, 2222):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        save_weights(tmp_path, model.state_dict(), "last")
        written.append((tmp_path / "model.pth").read_bytes())
    assert written[0] == written[1]
