"""GPT-2 as `transformers` computes it: its layers, its attention, its reading of the weights.

Only `torch.nn.functional.cross_entropy` is behind our own losses too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.gpt2.export import export
from pipeline.model.gpt import GPT
from pipeline.verification.files import Ids

ROWS = 128  # targets whose logits are held at once: 26 MB, which malloc keeps for the next


def require_transformers() -> None:
    """
    Raises:
        UserError: it is not installed.
    """
    try:  # an optional package
        import transformers  # noqa: F401
    except ImportError:
        raise UserError("lossbook verify needs a package: pip install 'lossbook[verify]'") from None


@contextmanager
def exported(load: Callable[[], GPT]) -> Iterator[Path]:
    """A folder of what `lossbook export` writes of the model, which is then let go."""
    with TemporaryDirectory(prefix="lossbook-verify-") as folder:
        export(load(), Path(folder) / "model")
        yield Path(folder) / "model"


class Network:
    """The model of a folder in Hugging Face's layout, in float32.

    Attributes:
        positions: tokens that it reads at most.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import GPT2LMHeadModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._device = device
        # `eager` is its attention in plain products; the weights are mapped, and held once
        self._model: Any = GPT2LMHeadModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        self._model.eval().to(device)
        self.positions: int = self._model.config.n_positions

    def losses(self, inputs: Ids, targets: Ids) -> npt.NDArray[np.float64]:
        """Nats for each target, (B, T), of inputs (B, T)."""
        with torch.inference_mode():
            ids, labels = (torch.from_numpy(ids).to(self._device) for ids in (inputs, targets))
            hidden = self._model.transformer(ids, use_cache=False).last_hidden_state
            parts = [
                F.cross_entropy(self._model.lm_head(some), label, reduction="none").cpu()
                for some, label in zip(
                    hidden.flatten(0, 1).split(ROWS), labels.flatten().split(ROWS), strict=True
                )
            ]
        found: npt.NDArray[np.float64] = torch.cat(parts).double().numpy()
        return found.reshape(targets.shape)
