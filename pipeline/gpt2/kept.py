"""GPT-2 for those who load it again and again: a copy that is mapped into memory, not read.

OpenAI's checkpoints are read with TensorFlow, whose import alone takes four to five seconds. So a
size that was verified is kept once more, beside its record in the user's cache, as our own state
dict: as large as the weights, and there in a tenth of a second. The copy is named by the digests
of what it was made from, and made again where it is gone or unreadable.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.gpt2.cache import Record, place_of
from pipeline.gpt2.load import load_gpt2
from pipeline.model.saved import load_model, save_config, save_weights
from pipeline.system.files import folder_aside

if TYPE_CHECKING:
    from pipeline.model.gpt import GPT
    from pipeline.params import Gpt2


def load_kept(size: str, settings: Gpt2) -> GPT:
    """As `load_gpt2` in float32, and quick from the second time on.

    Raises:
        UserError: as `load_gpt2`.
    """
    place = place_of(size, settings)
    record = Record(place)
    if place.layout != "openai" or not record.is_whole:
        return load_gpt2(size, settings)  # is quick without a copy, or not there
    digests = json.dumps(record.digests(), sort_keys=True)
    name = f"{place.record.stem}-{hashlib.sha256(digests.encode()).hexdigest()[:12]}"
    copy = place.record.with_name(name)
    with suppress(UserError):
        return load_model(copy)
    model = load_gpt2(size, settings)
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
