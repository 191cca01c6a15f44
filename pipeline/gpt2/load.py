"""Load GPT-2's weights, in either layout, into our model."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from pipeline.errors import UserError
from pipeline.gpt2 import huggingface, release, tf_checkpoint
from pipeline.gpt2.assemble import assemble, config_of
from pipeline.gpt2.fetch import fetch
from pipeline.gpt2.location import FileRecord, Location, locate
from pipeline.gpt2.sizes import Hparams
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.saved import load_model, save_config, save_weights
from pipeline.model.tensors import check_finite
from pipeline.params import Gpt2
from pipeline.system.checksums import SUMS, write_sums
from pipeline.system.files import folder_aside
from pipeline.system.text import quoted


def load_gpt2(size: str, settings: Gpt2 | None = None, dtype: torch.dtype = torch.float32) -> GPT:
    """Load GPT-2 `size` from where `settings` say that it is, fetched if it is not there yet.

    Args:
        settings: the `gpt2` section of params; OpenAI's release in the cache by default.
        dtype: of the parameters.

    Returns:
        The model in evaluation mode, on the CPU, without dropout.

    Raises:
        UserError: the weights cannot be had, or are damaged.
    """
    return read(available(size, settings or Gpt2()), dtype)


def available(size: str, settings: Gpt2) -> Location:
    """Where the weights are, fetched if they are not there yet.

    Those of a local folder are where they are; reading them is all that it takes to check them.

    Raises:
        UserError: they cannot be had.
    """
    location = locate(size, settings)
    if location.source != "local":
        found = fetch(size, settings)
        if found.status != "available":
            raise UserError(f"GPT-2 {size} cannot be had: {found.reason}")
    return location


def load_kept(size: str, settings: Gpt2) -> GPT:
    """As `load_gpt2` in float32, and quick from the second time on.

    OpenAI's checkpoints are read with TensorFlow, whose import alone takes four to five seconds.
    So a size that was verified is kept once more, beside its record in the user's cache, as our
    own state dict: as large as the weights, and mapped into memory in a tenth of a second. The
    copy is named by the digests of what it was made from, and made again where it is not what was
    written.

    Raises:
        UserError: as `load_gpt2`.
    """
    location = available(size, settings)
    record = FileRecord(location)
    if location.layout != "openai" or not record.is_whole:
        return read(location)  # is quick without a copy, or was not looked at
    files = {name: file.model_dump() for name, file in record.digests().items()}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
    copy = location.record.with_name(f"{location.record.stem}-{digest}")
    if (copy / SUMS).exists():  # which reading compares its files with
        with suppress(UserError):
            return load_model(copy)
    model = read(location)
    with suppress(OSError):  # a full disk: without a copy, then
        _keep(model, copy)
    return model


def _keep(model: GPT, copy: Path) -> None:
    """Write the copy, whole or not at all, in the place of those of other weights."""
    stem = copy.name.rpartition("-")[0]
    for older in copy.parent.glob(f"{stem}-{'[0-9a-f]' * 12}"):
        shutil.rmtree(older, ignore_errors=True)
    with folder_aside(copy) as aside:
        save_config(aside, model.config)
        save_weights(aside, model.state_dict(), "last")
        write_sums(aside)


def hparams_of(location: Location) -> Hparams:
    """The architecture that the files at `location` state.

    Raises:
        UserError: they state none.
    """
    if location.layout == "huggingface":
        return huggingface.read_config(location.folder / huggingface.CONFIG)
    return release.read_hparams(location.folder / release.HPARAMS)


def architecture(location: Location) -> GPTConfig:
    """The model's architecture at `location`; no weights are read.

    Raises:
        UserError: the files state none.
    """
    untied = location.layout == "huggingface" and huggingface.HEAD in huggingface.tensor_names(
        location.folder
    )
    return config_of(hparams_of(location), tie_weights=not untied)


def read(location: Location, dtype: torch.dtype = torch.float32) -> GPT:
    """Build the model of the weights at `location`.

    Raises:
        UserError: they are damaged.
    """
    if location.layout == "huggingface":
        return load_huggingface(location.folder, dtype)
    return tf_checkpoint.load(location.folder, dtype)


def load_huggingface(folder: Path, dtype: torch.dtype = torch.float32) -> GPT:
    """Build the model in `folder`, on the CPU, in evaluation mode.

    Raises:
        UserError: as `huggingface.verify`; or a tensor is not finite.
    """
    path, names = folder / huggingface.WEIGHTS, huggingface.tensor_names(folder)
    hparams = huggingface.read_config(folder / huggingface.CONFIG)
    config = config_of(hparams, tie_weights=huggingface.HEAD not in names)
    try:
        with safe_open(path, framework="pt") as file:

            def read_tensor(name: str) -> torch.Tensor:
                return check_finite(path, name, file.get_tensor(names[name]))

            return assemble(config, read_tensor, dtype)
    except SafetensorError as error:  # it has changed since its header was looked at
        raise UserError(f"{path}: is no whole safetensors file ({quoted(str(error))})") from None
