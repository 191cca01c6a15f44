"""The second copy of GPT-2: the same model, without TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.gpt2.fetch import fetch, verify_here
from pipeline.gpt2.load import load_gpt2, load_kept
from pipeline.params import Gpt2

PROGRAM = """
import sys
from pipeline.gpt2.load import load_kept
from pipeline.params import Gpt2

load_kept("124M", Gpt2(source=sys.argv[1]))
print("tensorflow" in sys.modules)
"""


def copies(cache: Path) -> list[Path]:
    return sorted(cache.glob("gpt2/*/model.pth"))


@pytest.fixture
def verified(tiny: Path, tmp_path: Path, cache: Path) -> Gpt2:
    (tmp_path / "124M").symlink_to(tiny)  # under a size's name, whatever size it is
    settings = Gpt2(source=str(tmp_path))
    assert fetch("124M", settings, verify=verify_here).status == "available"
    return settings


def test_the_copy_is_the_model_and_needs_no_tensorflow(verified: Gpt2, cache: Path) -> None:
    wanted = load_gpt2("124M", verified)
    for _ in range(2):  # made, then mapped
        model = load_kept("124M", verified)
        assert model.config == wanted.config
        assert not model.training
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)
    assert len(copies(cache)) == 1
    command = [sys.executable, "-c", PROGRAM, verified.source]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_damaged_copy_is_made_again(verified: Gpt2, cache: Path) -> None:
    load_kept("124M", verified)
    (copy,) = copies(cache)
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-100])
    load_kept("124M", verified)
    assert copy.read_bytes() == whole


@pytest.mark.parametrize("name", ["model.pth", "config.json", "_SHA256SUMS"])
def test_an_altered_copy_is_made_again(name: str, verified: Gpt2, cache: Path) -> None:
    """Whole and readable, but not what was written: another's weights, or one byte of them."""
    wanted = load_kept("124M", verified).state_dict()
    path = copies(cache)[0].with_name(name)
    right = path.read_bytes()
    if name == "model.pth":
        altered = {key: tensor + 1 for key, tensor in wanted.items()}
        torch.save(altered, path)
    else:
        path.write_bytes(right.replace(b"2", b"1", 1))
    found = load_kept("124M", verified).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    assert path.read_bytes() == right


def test_without_verified_weights_nothing_is_kept(tiny: Path, cache: Path) -> None:
    load_kept("124M", Gpt2(source=str(tiny)))
    assert copies(cache) == []
    with pytest.raises(UserError, match="GPT-2 124M cannot be had"):
        load_kept("124M", Gpt2(mirror="http://127.0.0.1:1"))
