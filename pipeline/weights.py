"""Any model of this repository by one name, for whoever trains from it, samples or exports it.

    scratch     random weights; only a training starts from them (`train.init_from`)
    trained     what the train stage wrote last: `models/scratch`
    gpt2-SIZE   OpenAI's GPT-2, from where the `gpt2` section of params says
    FOLDER      a folder with `config.json` and `model.pth`
    RUN         a training's run: its key or MLflow id, of which six characters are enough

They are looked up in this order; a folder whose name reads otherwise is `./NAME`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.gpt2.load import architecture, available, load_gpt2
from pipeline.gpt2.sizes import SIZES
from pipeline.model.gpt import GPT, GPTConfig
from pipeline.model.saved import FILES, OPTIMIZER, Weights, load_config, load_model
from pipeline.model.start import Start, adapted_model, random_model
from pipeline.params import Gpt2
from pipeline.system.digest_cache import digest_of
from pipeline.system.files import given_path
from pipeline.system.text import quoted
from pipeline.tokens.tokenizer import VOCABULARY
from pipeline.tracking.artifacts import folder_of_run

SCRATCH, TRAINED, GPT2 = "scratch", "trained", "gpt2-"
FOLDER = Path("models/scratch")
OTHERS = "gpt2-SIZE, a folder, or a run that `lossbook runs --json` lists"


@dataclass(frozen=True)
class Source:
    """Where a named model's weights lie.

    Attributes:
        size: of GPT-2, or None.
        folder: of every other model.
        which: of a trained model's weights.
    """

    name: str
    size: str | None = None
    folder: Path | None = None
    which: Weights = "last"

    def load(self, gpt2: Gpt2 | None = None) -> GPT:
        """The model, in evaluation mode, on the CPU.

        Args:
            gpt2: where OpenAI's weights are.

        Raises:
            UserError: it cannot be read.
        """
        if self.size is not None:
            return load_gpt2(self.size, gpt2)
        assert self.folder is not None, "a source is a size or a folder"
        return load_model(self.folder, self.which)

    def config(self, gpt2: Gpt2 | None = None) -> GPTConfig:
        """The model's architecture, as `load` has it; nothing of the weights is read.

        Raises:
            UserError: it cannot be had.
        """
        if self.size is not None:
            return architecture(available(self.size, gpt2 or Gpt2()))
        assert self.folder is not None, "a source is a size or a folder"
        return load_config(self.folder)

    @property
    def files(self) -> list[Path]:
        """The files of a folder that what comes of it depends on."""
        if self.folder is None:
            return []
        names = ("config.json", FILES[self.which], *([OPTIMIZER] if self.which == "last" else []))
        return [path for name in names if (path := self.folder / name).is_file()]


def find(name: str, which: Weights = "last", optional: Sequence[str] = ()) -> Source:
    """Look a model up by its name.

    Args:
        which: of a trained model's weights.
        optional: files beside the weights that a run's folder shall have, where it left them.

    Raises:
        UserError: there is no such model.
    """
    if name == SCRATCH:
        raise UserError(
            f"{SCRATCH} is random weights, which a training starts from; the model that was "
            f"trained here is `{TRAINED}`"
        )
    if name == TRAINED:
        return Source(name, folder=FOLDER, which=which)
    return _find_other(name, which, optional, f"`{TRAINED}`, {OTHERS}")


def _find_other(name: str, which: Weights, optional: Sequence[str], names: str) -> Source:
    """Any but the two words; `names` says what there is, for the error."""
    if name.startswith(GPT2):
        size = name.removeprefix(GPT2)
        if size not in SIZES:
            raise UserError(f"{name}: GPT-2's sizes are {', '.join(SIZES)}")
        return Source(name, size=size)
    folder = given_path(name, "a model")
    if not folder.is_dir():
        files = ("config.json", FILES[which])
        return Source(name, folder=folder_of_run(name, files, optional, names), which=which)
    if not all((folder / file).is_file() for file in ("config.json", FILES[which])):
        raise UserError(f"{name}: holds no config.json and {FILES[which]}")
    return Source(name, folder=folder, which=which)


def find_start(init_from: str) -> Source | None:
    """What `train.init_from` names; None for random weights.

    Raises:
        UserError: it names nothing.
    """
    if init_from == SCRATCH:
        return None
    refuse_output(init_from, FOLDER)
    try:
        return _find_other(init_from, "last", [OPTIMIZER], f"`{SCRATCH}`, {OTHERS}")
    except UserError as error:
        raise UserError(f"train.init_from: {error}") from None


def is_trained(name: str) -> bool:
    """Whether it names what the train stage wrote last."""
    return name == TRAINED or Path(name).resolve() == FOLDER.resolve()


def find_members(names: Sequence[str], context_length: int) -> list[Source]:
    """The models of `evaluate.ensemble`, each with its best weights.

    Raises:
        UserError: one of them is not there, is there twice, or reads other windows.
    """
    found = {name: _find_member(name, context_length) for name in names}
    names_by_weights: dict[str, str] = {}
    for name, source in found.items():
        assert source.folder is not None, "sizes of GPT-2 are refused"
        digest = digest_of(source.folder / FILES[source.which])
        if (other := names_by_weights.setdefault(digest, name)) != name:
            raise UserError(
                f"evaluate.ensemble: {quoted(name)} has the weights of {quoted(other)}; name each "
                "model once"
            )
    return list(found.values())


def _find_member(name: str, context_length: int) -> Source:
    try:
        source = find(name, "best")
        config = source.config() if source.size is None else None
    except UserError as error:
        raise UserError(f"evaluate.ensemble: {error}") from None
    if config is None:
        raise UserError(f"evaluate.ensemble: {name} has a row of its own; name trained models")
    for key, value, wanted in (
        ("context_length", config.context_length, context_length),
        ("vocab_size", config.vocab_size, VOCABULARY),
    ):
        if value != wanted:
            raise UserError(
                f"evaluate.ensemble: {quoted(name)} has {key} {value:,}, not {wanted:,}"
            )
    return source


def refuse_output(init_from: str, folder: Path) -> None:
    """Refuse to start a training from the folder that it is about to write.

    Raises:
        UserError: `init_from` names it; DVC has removed what it held.
    """
    if init_from == TRAINED or Path(init_from).resolve() == folder.resolve():
        raise UserError(
            f"train.init_from: {init_from} is what a training replaces; name the run that left it "
            "(`lossbook runs --json`), or a copy of the folder"
        )


def starting_model(
    config: GPTConfig, start: Start, source: Source | None, gpt2: Gpt2 | None = None
) -> GPT:
    """The weights of step 0.

    Args:
        source: what `find_start` says.

    Raises:
        UserError: they cannot be read, or are of another architecture.
    """
    if source is None:
        return random_model(config, start)
    return adapted_model(source.load(gpt2), config, start)
