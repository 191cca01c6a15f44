"""A model from weights that arrive one tensor at a time: never a second copy of it.

The model is built on the meta device, where parameters have shapes and no memory, and gets
memory that each tensor read is written to, transposed on the way where it must be.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from pipeline.gpt2.sizes import Hparams
from pipeline.model.gpt import GPT, GPTConfig, meta_model

READERS = 2  # threads; each holds one tensor twice
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored (in, out) by OpenAI


def assemble(config: GPTConfig, read: Callable[[str], Tensor], dtype: torch.dtype) -> GPT:
    """Build a model of tensors that `read` gives.

    Args:
        read: our parameter's name to its tensor in OpenAI's orientation, (in, out) for matrices;
            called from several threads. The model gets a copy.
        dtype: of the model's parameters.

    Returns:
        The model in evaluation mode, on the CPU.
    """
    model = meta_model(config)
    # The largest first: the embedding comes and goes while nothing else is held. A page that
    # nothing was written to is not held either, so all are asked for now.
    parameters = sorted(model.named_parameters(), key=lambda item: -item[1].numel())
    state = {name: torch.empty(p.shape, dtype=dtype) for name, p in parameters}

    def fill(name: str) -> None:
        tensor = read(name).to(dtype)  # cast first: a copy that does both at once is 4 x slower
        state[name].copy_(tensor.T if name.endswith(MATRICES) else tensor)

    # Who asks for bf16 is short of memory; in fp32 the readers keep theirs, and save a third.
    sparing = nullcontext() if dtype == torch.float32 else _freed_memory_returned()
    with sparing, ThreadPoolExecutor(READERS) as pool:
        list(pool.map(fill, state))
    model.load_state_dict(state, assign=True)
    return model.eval()


def config_of(hparams: Hparams, *, tie_weights: bool = True) -> GPTConfig:
    """Our words for an architecture of OpenAI's; no dropout, as one reads rather than trains."""
    return GPTConfig(
        n_layer=hparams.n_layer,
        n_head=hparams.n_head,
        n_embd=hparams.n_embd,
        context_length=hparams.n_ctx,
        vocab_size=hparams.n_vocab,
        dropout=0.0,
        qkv_bias=True,
        tie_weights=tie_weights,
    )


@contextmanager
def _freed_memory_returned() -> Iterator[None]:
    """Within the block, glibc gives every freed megabyte back at once.

    Left alone, it keeps up to 130 MB that the readers have freed, differing from run to run.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:  # to where glibc's own rule would have taken them
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 64 << 20)
