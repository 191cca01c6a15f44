"""GPT-2 checkpoints in OpenAI's exact layout, with random weights, written by TensorFlow.

python -m tests.helpers.checkpoints FOLDER SIZE
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.gpt2.sizes import SIZES, Hparams

Array = npt.NDArray[np.float32]

TINY = Hparams(n_vocab=50257, n_ctx=64, n_embd=8, n_head=2, n_layer=2)


def random_weights(name: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """What OpenAI's training would leave, roughly: small weights, layer norms around 1."""
    rng = np.random.default_rng([seed, *name.encode()])
    noise = rng.standard_normal(shape, dtype=np.float32)
    return 1 + noise / 10 if name.endswith("/g") else noise * np.float32(0.05)


def write_checkpoint(
    folder: Path,
    hparams: Hparams,
    seed: int = 0,
    *,
    changed: Mapping[str, npt.NDArray | None] | None = None,
) -> Path:
    """Write the five files of a size into `folder`.

    Args:
        changed: variables to write in place of the right ones, or, where None, to leave out.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    v1 = tf.compat.v1
    changed = changed or {}
    shapes = {n: s for n, s in hparams.shapes.items() if changed.get(n, True) is not None}
    extra = {n: a.shape for n, a in changed.items() if a is not None}
    types = {n: a.dtype for n, a in changed.items() if a is not None}
    folder.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), v1.Session() as session:
        for name, shape in {**shapes, **extra}.items():
            value = changed.get(name)
            if value is None:
                value = random_weights(name, shape, seed)
            # not through the graph, which holds no more than 2 GB
            fed = v1.placeholder(types.get(name, np.float32), shape)
            variable = v1.get_variable(name, initializer=fed, use_resource=False)
            session.run(variable.initializer, {fed: value})
        v1.train.Saver(save_relative_paths=True).save(session, str(folder / "model.ckpt"))
    (folder / "hparams.json").write_text(json.dumps(asdict(hparams)))
    return folder


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[1]), SIZES[sys.argv[2]].hparams)
