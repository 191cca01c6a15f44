"""The one door to GPT-2's weights for whoever measures, trains from or exports them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.gpt2 import huggingface, release
from pipeline.gpt2.cache import Place, Record, place_of
from pipeline.gpt2.release import Hparams
from pipeline.params import Gpt2

if TYPE_CHECKING:
    import torch

    from pipeline.model.gpt import GPT


def load_gpt2(size: str, settings: Gpt2 | None = None, dtype: torch.dtype | None = None) -> GPT:
    """Build GPT-2 `size` from where `settings` say that it is, without a network.

    Args:
        size: 124M, 355M, 774M or 1558M.
        settings: the `gpt2` section of params; OpenAI's release in the cache by default.
        dtype: of the parameters; float32 by default.

    Returns:
        The model in evaluation mode, on the CPU, without dropout.

    Raises:
        UserError: the weights are not there, have changed since they were fetched, or are damaged.
    """
    place = place_of(size, settings or Gpt2())
    if place.source != "local" and not Record(place).is_whole:
        raise UserError(
            f"GPT-2 {size} is not in Lossbook's cache: name it in gpt2.sizes, and `dvc repro` "
            f"fetches it"
        )
    return read(place, dtype)


def hparams_of(place: Place) -> Hparams:
    """The architecture that the files at `place` state.

    Raises:
        UserError: they state none.
    """
    if place.layout == "huggingface":
        return huggingface.read_config(place.folder / huggingface.CONFIG)
    return release.read_hparams(place.folder / release.HPARAMS)


def read(place: Place, dtype: torch.dtype | None = None) -> GPT:
    """Build the model of the weights at `place`.

    Raises:
        UserError: they are damaged.
    """
    if place.layout == "huggingface":
        return huggingface.load(place.folder, dtype)
    import torch

    from pipeline.gpt2 import tf_checkpoint

    return tf_checkpoint.load(place.folder, dtype or torch.float32)
