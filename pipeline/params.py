"""`params.yaml` as typed, frozen sections.

The defaults are the run of chapter 5 of *Build a Large Language Model (From Scratch)*. Every
problem of the file is reported at once, each in a line `section.key: what is wrong`. The YAML is
read as DVC reads it (ruamel, YAML 1.2), so `4e-4` is a number here as it is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.errors import UserError
from pipeline.gpt2.sizes import SIZES
from pipeline.params_errors import explain


def _size_of_gpt2(value: Any) -> Any:
    if not isinstance(value, str) or value not in SIZES:
        *most, last = map(repr, SIZES)
        choices = f"{', '.join(most)} or {last}"
        raise PydanticCustomError("size", "Input should be {choices}", {"choices": choices})
    return value


Size = Annotated[
    str, BeforeValidator(_size_of_gpt2), WithJsonSchema({"type": "string", "enum": [*SIZES]})
]
Text = Annotated[str, StringConstraints(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Auto = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
]
Temperature = Annotated[float, Field(ge=0.0, le=1000.0)]


class Section(BaseModel):
    """Frozen; unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Gutenberg(Section):
    """Which books of Project Gutenberg: those that meet every criterion that is given."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = Field(
        "en", description="the catalogue's code; a book that is in fact in another one is left out"
    )
    authors: tuple[Text, ...] = Field((), description="one of these words in the author's name")
    subjects: tuple[Text, ...] = ()
    bookshelves: tuple[Text, ...] = ()
    ids: tuple[Positive, ...] = Field((), description="only these numbers")
    limit: Positive | None = Field(100, description="so many of them at random; null: all")
    seed: Seed = 123
    mirror: Annotated[str, Field(pattern=r"^https?://.+")] = "https://aleph.pglaf.org"
    catalogue: Text = "https://www.gutenberg.org/cache/epub/feeds/pg_catalog.csv.gz"
    connections: Annotated[int, Field(ge=1, le=8)] = 2
    pause: float = Field(0.5, ge=0.0, le=60.0, description="seconds between two requests")


class Prepare(Section):
    corpus: Text = Field("what-seemed-likely", description="a name, a file, a folder or a URL")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="what the corpus file must hash to; for files and URLs"
    )
    text_field: Text = Field("text", description="the column of .jsonl and .parquet that is text")
    on_error: Literal["skip", "fail"] = Field(
        "skip", description="a document that cannot be read is left out and counted; or the end"
    )
    gutenberg: Gutenberg = Gutenberg()
    scheduler: Annotated[
        str, Field(pattern=r"^(auto|threads|processes|(tcp|tls|ws|wss)://.+)$")
    ] = Field("auto", description="who does the work of prepare and split; changes no byte")


class Split(Section):
    train_fraction: float = Field(0.9, gt=0.0, lt=1.0, description="the rest is for validation")
    test_fraction: float = Field(
        0.0, ge=0.0, lt=1.0, description="taken from validation's end; 0: no test split"
    )

    @model_validator(mode="after")
    def something_is_left_for_validation(self) -> Split:
        if self.train_fraction + self.test_fraction >= 1:
            raise PydanticCustomError(
                "fractions",
                "train_fraction {train} and test_fraction {test} leave nothing for validation",
                {"train": self.train_fraction, "test": self.test_fraction},
            )
        return self


class Model(Section):
    n_layer: Positive = 12
    n_head: Positive = 12
    n_embd: Positive = 768
    context_length: Annotated[int, Field(ge=2)] = 256
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    qkv_bias: bool = False
    tie_weights: bool = Field(False, description="the head shares the token embedding, as GPT-2's")
    init: Literal["pytorch", "gpt2"] = Field(
        "pytorch",
        description="pytorch: each layer's own default, the book's; gpt2: N(0, 0.02), residual "
        "projections scaled by 1/sqrt(2 n_layer)",
    )

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> Model:
        if self.n_embd % self.n_head:
            raise PydanticCustomError(
                "n_head",
                "n_embd {n_embd} is not a multiple of n_head {n_head}",
                {"n_embd": self.n_embd, "n_head": self.n_head},
            )
        return self


class Train(Section):
    init_from: Text = Field("scratch", description="scratch, a run, a folder, or gpt2-SIZE")
    init_optimizer: Literal["auto", "fresh", "restored"] = Field(
        "auto", description="auto: restored where init_from is a folder that holds one"
    )
    epochs: Positive = 10
    max_steps: Positive | None = Field(None, description="optimizer steps, whatever epochs says")
    early_stopping: Positive | None = Field(
        None, description="evaluations without a lower validation loss before training ends"
    )
    batch_size: Auto = Field(
        2, description="windows a forward pass; auto: the most that fit into a CUDA GPU"
    )
    gradient_accumulation: Positive = Field(1, description="batches an optimizer step")
    learning_rate: float = Field(4.0e-4, gt=0.0, le=10.0)
    weight_decay: float = Field(0.1, ge=0.0, le=10.0, description="on matrices only")
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    warmup_steps: Natural = 0
    decay_steps: float = Field(
        0.2, gt=0.0, description="of wsd, the last ones; below 1 a share of all steps"
    )
    min_learning_rate: float = Field(0.0, ge=0.0, description="where cosine and wsd end")
    grad_clip: Annotated[float, Field(gt=0.0)] | None = Field(None, description="global norm")
    eval_every: Positive = Field(5, description="optimizer steps between evaluations")
    eval_batches: Positive = Field(1, description="fixed training batches an evaluation looks at")
    eval_windows: Positive | None = Field(
        None, description="validation windows an evaluation looks at, evenly spread; null: all"
    )
    checkpoint_every: Positive = 20
    sample_prompt: Text = "Every effort moves you"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto"] | bool = "auto"
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass, to save memory"
    )
    processes: Positive = Field(1, description="on this machine; torchrun's count goes before it")
    sharding: Literal["none", "full"] = Field(
        "none", description="full: each process holds a part of the model (FSDP2)"
    )

    @model_validator(mode="after")
    def decay_in_whole_steps(self) -> Train:
        if self.decay_steps > 1 and not self.decay_steps.is_integer():
            raise PydanticCustomError(
                "decay_steps",
                "decay_steps {steps} is neither whole steps nor a share below 1",
                {"steps": self.decay_steps},
            )
        return self

    @model_validator(mode="after")
    def floor_below_peak(self) -> Train:
        if self.min_learning_rate > self.learning_rate:
            raise PydanticCustomError(
                "min_learning_rate",
                "min_learning_rate {low} is above learning_rate {high}",
                {"low": self.min_learning_rate, "high": self.learning_rate},
            )
        return self


class Evaluate(Section):
    batch_size: Positive = 8


class Grid(Section):
    temperature: tuple[Temperature, ...] = Field((0.0, 0.7, 1.0, 1.4), min_length=1)
    top_k: tuple[Positive | None, ...] = Field((1, 25, 50, None), min_length=1)


class Sample(Section):
    prompts: tuple[Text, ...] = Field(("Every effort moves you",), min_length=1)
    max_new_tokens: Positive = 50
    temperature: Temperature = 1.4
    top_k: Positive | None = 25
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    min_p: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    seed: Seed = 123
    grid: Grid = Grid()


class Gpt2(Section):
    sizes: tuple[Size, ...] = ("124M", "774M", "1558M")
    source: Text = Field("openai", description="openai, huggingface, or a local folder")
    mirror: Text | None = Field(None, description="a URL that holds SIZE/ folders as OpenAI's does")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    required: bool = Field(False, description="a size that cannot be had is an error")

    @model_validator(mode="after")
    def sizes_once(self) -> Gpt2:
        if len(set(self.sizes)) != len(self.sizes):
            raise PydanticCustomError("sizes", "a size stands twice in sizes", {})
        return self


class Compare(Section):
    prompts: tuple[Text, ...] = ("The capital of France is",)
    max_new_tokens: Positive = 20


class Tracking(Section):
    experiment: Text = "lossbook"


class Params(Section):
    """The whole of `params.yaml`."""

    seed: Seed = 123
    prepare: Prepare = Prepare()
    split: Split = Split()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    sample: Sample = Sample()
    gpt2: Gpt2 = Gpt2()
    compare: Compare = Compare()
    tracking: Tracking = Tracking()


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check `params.yaml`.

    Raises:
        UserError: the file is missing, is not YAML, or has problems; all of them, a line each.
    """
    values = read_yaml(path)
    try:
        # Through JSON: strict types, and a YAML list becomes a tuple.
        return Params.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(explain(path, error, Params)) from None


def flatten(section: BaseModel | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train.learning_rate": 4e-4, …}`: nested keys joined by dots, lists kept as values."""
    values = section.model_dump() if isinstance(section, BaseModel) else section
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's values as they stand, unchecked.

    Raises:
        UserError: the file is missing, is not YAML, or holds no sections.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold sections such as `train:`, not {values!r}")
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
