"""OpenAI's checkpoints become our model: the same logits as `transformers`, or a clear refusal."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.gpt2 import tf_checkpoint
from pipeline.gpt2.release import DATA, HPARAMS, INDEX
from pipeline.gpt2.sizes import SIZES, Hparams
from tests.helpers.checkpoints import TINY, random_weights
from tests.helpers.reference import transformers_logits

Write = Callable[..., Path]

# The four sizes' numbers of heads, with little else; 1558M's is odd.
SMALL = {
    "124M": Hparams(n_vocab=500, n_ctx=32, n_embd=48, n_head=12, n_layer=3),
    "355M": Hparams(n_vocab=500, n_ctx=32, n_embd=64, n_head=16, n_layer=4),
    "774M": Hparams(n_vocab=500, n_ctx=32, n_embd=80, n_head=20, n_layer=5),
    "1558M": Hparams(n_vocab=500, n_ctx=32, n_embd=100, n_head=25, n_layer=6),
}


def tokens(hparams: Hparams, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(hparams.n_vocab, (2, length), generator=generator)


def our_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return tf_checkpoint.load(folder)(ids)


@pytest.mark.parametrize("size", SMALL)
def test_logits_equal_those_of_transformers(size: str, write: Write) -> None:
    hparams = SMALL[size]
    folder, ids = write(hparams), tokens(hparams, hparams.n_ctx)
    ours, theirs = our_logits(folder, ids), transformers_logits(folder, hparams, ids)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.full_size
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", SIZES)
def test_logits_equal_those_of_transformers_at_full_size(size: str, write: Write) -> None:
    """One model at a time: 1558M has 6.2 GB of weights."""
    hparams = SIZES[size]
    folder = write(hparams)
    assert (folder / DATA).stat().st_size == hparams.data_bytes
    ids = tokens(hparams, 64)
    ours = our_logits(folder, ids)
    gc.collect()
    theirs = transformers_logits(folder, hparams, ids)
    shutil.rmtree(folder)
    difference = (ours - theirs).abs().max().item()
    print(f"\n{size}: largest difference {difference:.2e}, logits' deviation {ours.std():.2f}")
    assert difference <= 1e-4


def test_bf16_is_the_rounded_weights(tiny: Path) -> None:
    full = tf_checkpoint.load(tiny)
    half = tf_checkpoint.load(tiny, torch.bfloat16)
    rounded = {name: p.to(torch.bfloat16) for name, p in full.state_dict().items()}
    torch.testing.assert_close(dict(half.state_dict()), rounded, rtol=0, atol=0)


def test_the_model_is_whole_and_ready(tiny: Path) -> None:
    model = tf_checkpoint.load(tiny)
    assert not model.training
    assert model.count_parameters() == TINY.parameters
    assert model.config.tie_weights
    assert model.config.qkv_bias
    assert model.config.context_length == TINY.n_ctx
    for name, parameter in model.named_parameters():
        assert parameter.device.type == "cpu", name
        assert parameter.dtype == torch.float32, name
        assert parameter.requires_grad, name
        assert parameter.is_contiguous(), name


def test_the_weights_are_the_model_s_own(write: Write) -> None:
    folder = write()
    model = tf_checkpoint.load(folder)
    (folder / DATA).write_bytes(bytes(TINY.data_bytes))
    wte = torch.from_numpy(random_weights("model/wte", TINY.shapes["model/wte"]))
    assert torch.equal(model.wte.weight.detach(), wte)
    with torch.no_grad():
        model.wte.weight.zero_()


WRONG_TENSORS = {
    "missing": ({"model/h1/ln_2/g": None}, "model/h1/ln_2/g is missing"),
    "unknown": ({"model/h2/ln_1/g": np.ones(8, np.float32)}, "'model/h2/ln_1/g' is unknown"),
    "misshapen": (
        {"model/h0/mlp/c_fc/w": np.ones((1, 32, 8), np.float32)},
        r"model/h0/mlp/c_fc/w has shape \[1, 32, 8\], hparams.json asks for \[1, 8, 32\]",
    ),
    "of another type": (
        {"model/ln_f/b": np.ones(8, np.float64)},
        "model/ln_f/b is float64, not float32",
    ),
    "NaN": (
        {"model/wpe": np.where(np.eye(64, 8) > 0, np.nan, 0).astype(np.float32)},
        r"model/wpe holds nan at \[0, 0\]",
    ),
    "infinite": (
        {"model/h1/attn/c_proj/w": np.full((1, 8, 8), -np.inf, np.float32)},
        r"model/h1/attn/c_proj/w holds -inf at \[0, 0\]",
    ),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_wrong_tensor_is_named(case: str, write: Write) -> None:
    changed, message = WRONG_TENSORS[case]
    folder = write(changed=changed)
    with pytest.raises(UserError, match=message):
        tf_checkpoint.load(folder)
    with pytest.raises(UserError, match=message):
        tf_checkpoint.verify(folder)


def test_large_finite_weights_are_no_infinity(write: Write) -> None:
    """Their sum overflows; they do not."""
    huge = np.full(8, 3e38, np.float32)
    model = tf_checkpoint.load(write(changed={"model/ln_f/b": huge}))
    assert model.ln_f.bias.isfinite().all()


@pytest.mark.parametrize("name", ["model/wte", "model/h0/attn/c_attn/w", "model/h1/ln_2/b"])
def test_an_altered_byte_is_noticed_and_its_tensor_named(name: str, write: Write) -> None:
    folder = write()
    data = bytearray((folder / DATA).read_bytes())
    start = data.index(random_weights(name, TINY.shapes[name]).tobytes())
    data[start + 5] ^= 1
    (folder / DATA).write_bytes(data)
    tf_checkpoint.verify_index(folder)
    for read in (tf_checkpoint.load, tf_checkpoint.verify):
        with pytest.raises(UserError, match=f"{DATA}: tensor {name} cannot be read: it is damaged"):
            read(folder)


def test_an_altered_index_is_noticed(write: Write) -> None:
    folder = write()
    index = (folder / INDEX).read_bytes()
    original = tf_checkpoint.load(folder).state_dict()
    for place in range(0, len(index), 7):
        altered = bytearray(index)
        altered[place] ^= 0x10
        (folder / INDEX).write_bytes(altered)
        try:
            state = tf_checkpoint.load(folder).state_dict()
        except UserError as error:
            assert INDEX in str(error)  # noqa: PT017 - a byte of padding may change unnoticed
        else:
            assert all(torch.equal(state[name], original[name]) for name in original)


@pytest.mark.parametrize("keep", [0, 10, 900])
def test_a_short_index_is_noticed(keep: int, write: Write) -> None:
    folder = write()
    os.truncate(folder / INDEX, keep)
    with pytest.raises(UserError, match=f"{INDEX} cannot be read: it is damaged"):
        tf_checkpoint.verify_index(folder)


@pytest.mark.parametrize("size", [0, 4, TINY.data_bytes - 1, TINY.data_bytes + 1])
def test_data_of_another_size_is_noticed(size: int, write: Write) -> None:
    folder = write()
    os.truncate(folder / DATA, size)
    with pytest.raises(UserError, match=rf"{DATA}: has {size:,} bytes, hparams.json asks for"):
        tf_checkpoint.load(folder)


@pytest.mark.parametrize("name", [HPARAMS, INDEX, DATA])
def test_a_missing_file_is_named(name: str, write: Write) -> None:
    folder = write()
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        tf_checkpoint.load(folder)


def test_hparams_of_another_model_are_noticed(write: Write) -> None:
    folder = write()
    (folder / HPARAMS).write_text(json.dumps(asdict(replace(TINY, n_layer=3))))
    with pytest.raises(UserError, match="tensor model/h2/attn/c_attn/b is missing"):
        tf_checkpoint.verify_index(folder)


def test_the_checkpoint_file_leads_nowhere(write: Write, tmp_path: Path) -> None:
    folder = write()
    (folder / "checkpoint").write_text('model_checkpoint_path: "/etc/elsewhere"')
    tf_checkpoint.load(folder)
    (folder / "checkpoint").unlink()
    tf_checkpoint.load(folder)


@pytest.mark.slow  # that it says nothing, test_fetch_gpt2 sees too
def test_reading_says_nothing_and_leaves_the_environment(tiny: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from pipeline.gpt2 import tf_checkpoint;"
        "assert 'tensorflow' not in sys.modules; before = dict(os.environ);"
        "tf_checkpoint.verify_index(Path(sys.argv[1])); assert dict(os.environ) == before"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
