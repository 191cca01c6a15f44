"""GPT-2 by `transformers`, with the weights of a checkpoint: an implementation that is not ours."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pipeline.gpt2.sizes import Hparams


def transformers_logits(folder: Path, hparams: Hparams, ids: torch.Tensor) -> torch.Tensor:
    """The logits (B, T, V) of `GPT2LMHeadModel`; names are translated without our tables."""
    import tensorflow as tf
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.initialization import no_init_weights

    config = GPT2Config(
        vocab_size=hparams.n_vocab,
        n_positions=hparams.n_ctx,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
    )
    with no_init_weights():
        model = GPT2LMHeadModel(config).eval()
    model.tie_weights()
    state = dict(model.named_parameters())
    reader = tf.train.load_checkpoint(str(folder / "model.ckpt"))
    for variable in reader.get_variable_to_shape_map():
        value = torch.from_numpy(reader.get_tensor(variable))
        path = re.sub(r"^model/h(\d+)/", r"model/h/\1/", variable)
        *parts, leaf = path.replace("model/", "transformer/", 1).split("/")
        parts += {"w": ["weight"], "g": ["weight"], "b": ["bias"]}.get(leaf, [leaf, "weight"])
        with torch.no_grad():
            state.pop(".".join(parts)).copy_(value[0] if leaf == "w" else value)
    assert not state, "every parameter was set, the head being tied"
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits
