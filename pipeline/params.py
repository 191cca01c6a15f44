"""`params.yaml` as typed, frozen sections: every setting is described here, once.

`make docs` writes the tables of `docs/params.md` from these fields: their types, bounds, defaults
and descriptions, which are Markdown. The defaults are the run of chapter 5 of *Build a Large
Language Model (From Scratch)*. Every problem of the file is reported at once, each in a line
`section.key: what is wrong`. Every number and every list has an end: what is asked for by mistake
is refused before anything is built.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
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

from pipeline.errors import Problems, UserError
from pipeline.gpt2.sizes import SIZES
from pipeline.params_errors import explain
from pipeline.system.yaml_file import read_yaml
from pipeline.training.optim import OPTIMIZERS
from pipeline.training.schedule import SCHEDULES


def _size_of_gpt2(value: Any) -> Any:
    if not isinstance(value, str) or value not in SIZES:
        *most, last = map(repr, SIZES)
        choices = f"{', '.join(most)} or {last}"
        raise PydanticCustomError("size", "Input should be {choices}", {"choices": choices})
    return value


Size = Annotated[
    str, BeforeValidator(_size_of_gpt2), WithJsonSchema({"type": "string", "enum": [*SIZES]})
]


OURS = {
    "untrained": "untrained",
    "scratch_best": "best",
    "scratch_last": "last",
    "scratch_ema": "ema",
    "ensemble": "ensemble",
}
"""The comparison's rows that `evaluate` measures, in their order, and its name for each."""


def _rows() -> list[str]:
    return [*OURS, *(f"gpt2_{size}" for size in SIZES)]


def _row_of_the_table(value: Any) -> Any:
    if value is not None and value not in _rows():
        *most, last = map(repr, _rows())
        choices = f"null, {', '.join(most)} or {last}"
        raise PydanticCustomError("row", "Input should be {choices}", {"choices": choices})
    return value


Row = Annotated[
    str, BeforeValidator(_row_of_the_table), WithJsonSchema({"type": "string", "enum": _rows()})
]


def _runs_without_a_shell(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise PydanticCustomError("command", "{why}", {"why": str(error)}) from None
    if not words or not words[0] or re.search(r"[|&;<>$`\x00-\x1f]", command):
        raise PydanticCustomError(
            "command",
            "a program and its arguments, which no shell reads; put what needs one into a script",
            {},
        )
    return command


MOST_PARAMETERS = 10**12
MOST_NEW_TOKENS = 100_000  # of a completion
MOST_SAMPLED = 10**8  # tokens of a sampling grid
LEAST_EPS = 1e-30
EVAL_BATCH = 2  # windows of one of `train.eval_batches`: the book's batch

Text = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Command = Annotated[Text, AfterValidator(_runs_without_a_shell)]
Count = Annotated[int, Field(ge=1, le=10**9)]  # of steps, windows, books: what there may be many of
Batch = Annotated[int, Field(ge=1, le=10**6)]  # what is held in memory at once
Width = Annotated[int, Field(ge=1, le=2**20)]  # of the architecture, and its context
Few = Annotated[int, Field(ge=1, le=1000)]  # layers, processes
NewTokens = Annotated[int, Field(ge=1, le=MOST_NEW_TOKENS)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Auto = Annotated[
    Annotated[Batch, Tag("number")] | Annotated[Literal["auto"], Tag("word")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Temperature = Annotated[float, Field(ge=0.0, le=1000.0)]


class Section(BaseModel):
    """Frozen; unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Gutenberg(Section):
    """Which books of Project Gutenberg: those that meet every criterion that is given."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = Field(
        "en",
        description="the catalogue's code; a book that turns out to be in another language is left "
        "out",
    )
    authors: tuple[Text, ...] = Field(
        (), description="one of these words stands in the catalogue's field; no words: any"
    )
    subjects: tuple[Text, ...] = Field((), description="as `authors`")
    bookshelves: tuple[Text, ...] = Field((), description="as `authors`")
    ids: tuple[Count, ...] = Field((), description="only these numbers; none: any")
    limit: Count | None = Field(
        100,
        description="so many of those, at random; a larger limit keeps what a smaller one chose; "
        "null: all",
    )
    seed: Seed = Field(123, description="of that choice")
    mirror: Annotated[str, Field(pattern=r"^https?://.+")] = Field(
        "https://aleph.pglaf.org",
        description="where books come from; Project Gutenberg asks robots to keep off its own site",
    )
    catalogue: Text = Field(
        "https://www.gutenberg.org/cache/epub/feeds/pg_catalog.csv.gz",
        description="a URL, fetched once and kept, or a file",
    )
    connections: Annotated[int, Field(ge=1, le=8)] = Field(2, description="at once")
    pause: float = Field(
        0.5,
        ge=0.0,
        le=60.0,
        description="seconds between two requests, all connections together",
    )


class Prepare(Section):
    """Which text."""

    corpus: Text = Field(
        "what-seemed-likely",
        description="`what-seemed-likely` (packaged), `the-verdict` (fetched), `gutenberg`, a "
        "file, a folder or a URL of `.txt`, `.md`, `.jsonl`, `.parquet`, plain, `.gz` or `.zst`; "
        "`s3://…`, `hf://datasets/…` and what else fsspec opens ([corpora.md](corpora.md))",
    )
    sha256: Sha256 | None = Field(
        None, description="what a file or URL must hash to; for `gutenberg`, the catalogue"
    )
    text_field: Text = Field("text", description="the text's column in `.jsonl` and `.parquet`")
    separator: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = Field(
        None,
        description="between the documents of a `.txt` or `.md` file, such as "
        "`<\\|endoftext\\|>`; it becomes no part of them; null: each file is one document, and all "
        "of it is ordinary text",
    )
    on_error: Literal["skip", "fail"] = Field(
        "skip",
        description="a document that cannot be read is left out, counted and listed; `fail`: it is "
        "an error",
    )
    gutenberg: Gutenberg = Gutenberg()
    scheduler: Annotated[
        str, Field(pattern=r"^(auto|threads|processes|(tcp|tls|ws|wss)://.+)$")
    ] = Field(
        "auto",
        description="who does the work of prepare and split: `threads`, `processes`, or a Dask "
        "cluster, `tcp://HOST:PORT`; `auto`: processes from a gigabyte of text on. It changes no "
        "byte, and reruns nothing",
    )


class Split(Section):
    """Which part of the text is for what."""

    train_fraction: float = Field(
        0.9,
        gt=0.0,
        lt=1.0,
        description="of one document's characters; or of the bytes of many documents, which go "
        "whole to a side, by a hash of their text ([corpora.md](corpora.md)). The rest is for "
        "validation",
    )
    test_fraction: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="kept aside at the cost of validation; models are judged on it, and nothing is "
        "chosen by it; 0: no test split, as in the book",
    )

    @model_validator(mode="after")
    def something_is_left_for_validation(self) -> Split:
        if self.train_fraction + self.test_fraction >= 1:
            raise PydanticCustomError(
                "fractions",
                "train_fraction {train} and test_fraction {test} leave nothing for validation; "
                "lower one",
                {"train": self.train_fraction, "test": self.test_fraction},
            )
        return self


class Model(Section):
    """The architecture: GPT-2's."""

    n_layer: Few = Field(12, description="blocks")
    n_head: Width = Field(12, description="attention heads of a block")
    n_embd: Width = Field(768, description="the width; a multiple of `n_head`")
    context_length: Annotated[Width, Field(ge=2)] = Field(
        256, description="tokens in a window, in training and in every measurement"
    )
    dropout: float = Field(
        0.1,
        ge=0.0,
        lt=1.0,
        description="after embeddings, on attention weights, after each half of a block",
    )
    qkv_bias: bool = Field(False, description="GPT-2 has it, the book's model has not")
    tie_weights: bool = Field(False, description="the head is the token embedding, as in GPT-2")
    init: Literal["pytorch", "gpt2"] = Field(
        "pytorch",
        description="`pytorch`: each layer's own default, with embeddings from N(0, 1), the "
        "book's; `gpt2`: N(0, 0.02), residual projections scaled by 1/sqrt(2 n_layer)",
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

    @model_validator(mode="after")
    def fits_some_machine(self) -> Model:
        gpt2 = SIZES["124M"].hparams
        shape = replace(
            gpt2, n_ctx=self.context_length, n_embd=self.n_embd, n_head=1, n_layer=self.n_layer
        )
        if shape.parameters > MOST_PARAMETERS:
            raise PydanticCustomError(
                "parameters",
                "{count} parameters are more than {most}; lower n_layer or n_embd",
                {"count": f"{shape.parameters:.1e}", "most": f"{MOST_PARAMETERS:.0e}"},
            )
        return self


class Train(Section):
    """How it is trained, on the training split."""

    init_from: Text = Field(
        "scratch",
        description="`scratch`; a training's run, by MLflow's id or the key that `lossbook runs "
        "--json` shows: its last weights, as long as DVC's cache holds them; a folder with "
        "`config.json` and `model.pth` (not `models/scratch`, which DVC removes first); or "
        "`gpt2-124M`, `gpt2-355M`, `gpt2-774M`, `gpt2-1558M`",
    )
    init_optimizer: Literal["auto", "fresh", "restored"] = Field(
        "auto",
        description="`restored`: with the moments of the run's or the folder's `optimizer.pth`; "
        "`fresh`: without; `auto`: restored where there is one",
    )
    epochs: Batch = Field(10, description="passes over the training windows")
    max_steps: Count | None = Field(
        None, description="optimizer steps; where it is given, it decides and `epochs` does not"
    )
    early_stopping: Count | None = Field(
        None,
        description="training ends after so many evaluations in a row without a new lowest "
        "validation loss",
    )
    batch_size: Auto = Field(
        2,
        description="windows in a forward pass, all processes together; `auto`: the most that fit "
        "into a CUDA GPU, for one process",
    )
    gradient_accumulation: Batch = Field(1, description="forward passes in an optimizer step")
    optimizer: Literal[*OPTIMIZERS] = Field(  # type: ignore[valid-type]
        "adamw",
        description="`adamw`: AdamW, PyTorch's fused one; `muon`: PyTorch's Muon, of momentum "
        "0.95, for the blocks' matrices, with updates of AdamW's size, and AdamW for all else, at "
        "a cost that a small batch feels ([measured.md](measured.md)); not with `sharding: full`",
    )
    learning_rate: float = Field(4.0e-4, gt=0.0, le=10.0, description="at its peak")
    weight_decay: float = Field(0.1, ge=0.0, le=10.0, description="on matrices only")
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999), description="of AdamW's two moments, the share that a step keeps"
    )
    eps: float = Field(1.0e-8, gt=0.0, le=1.0, description="of AdamW, added to its denominator")
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        None,
        description="of an exponential moving average of the weights, which is measured at each "
        "evaluation and left as `ema.pth`; it grows up to this as (1 + t) / (10 + t) with the step "
        "t. What is best, and `early_stopping`, go by the weights themselves; null: no average",
    )
    schedule: Literal[*SCHEDULES] = Field(  # type: ignore[valid-type]
        "constant",
        description="of the learning rate; down to `min_learning_rate`: `cosine` from the end of "
        "the warm-up on, `wsd` (warm-up, stable, decay) linearly over the last `decay_steps`",
    )
    warmup_steps: int = Field(0, ge=0, le=10**9, description="linear, before the schedule")
    decay_steps: float = Field(
        0.2, gt=0.0, le=1e9, description="of `wsd`: steps, or below 1 a share of all steps"
    )
    min_learning_rate: float = Field(0.0, ge=0.0, description="where `cosine` and `wsd` end")
    grad_clip: Annotated[float, Field(gt=0.0, le=1e9)] | None = Field(
        None, description="the largest norm of the whole gradient; null: any"
    )
    eval_every: Count = Field(5, description="optimizer steps between two evaluations")
    eval_batches: Batch = Field(
        1,
        description="fixed training batches that an evaluation looks at, of two windows each (the "
        "book's) whatever `batch_size` is, so that runs can be compared",
    )
    eval_windows: Count | None = Field(
        None,
        description="validation windows that it looks at, at most, evenly spread; null: all. For a "
        "corpus whose validation split alone would take longer than the training; what `evaluate` "
        "measures is `evaluate.windows`",
    )
    checkpoint_every: Count = Field(
        20, description="optimizer steps between two checkpoints, for going on after a kill"
    )
    sample_every: Count | None = Field(
        None, description="optimizer steps between two samples; null: one after each epoch"
    )
    sample_prompt: Text = Field(
        "Every effort moves you", description="what samples complete, greedily"
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")] = Field(
        "auto", description="`auto`: CUDA before MPS before the CPU"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="`auto`: bf16 products where the hardware has them and they are the faster "
        "ones (measured once, kept in the user's cache), else fp32",
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="`torch.compile`; `auto`: where it pays, on CUDA; elsewhere it needs a C++ "
        "compiler",
    )
    activation_checkpointing: bool = Field(
        False,
        description="keep each block's input alone and compute the rest again in the backward "
        "pass: less memory, more time, the same bits",
    )
    processes: Few = Field(
        1,
        description="on this machine, a GPU each, or a share of the CPU's cores; they divide each "
        "batch among them. `launcher`'s count goes before it",
    )
    launcher: Command | None = Field(
        None,
        description="what starts the processes, on several machines: `torchrun` or `srun` with its "
        "arguments, such as `srun --nodes 2 --ntasks-per-node 8`; what it runs is added. No shell "
        "reads it. null: the stage starts `processes` itself. [scale.md](scale.md)",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="`full`: each process holds a part of the model, its gradient and its moments "
        "(FSDP2); `none`: all of it (DDP)",
    )
    replicas: Few = Field(
        1,
        description="of the model under `sharding: full`: it is sharded within so many equal "
        "groups of processes, and gradients alone travel between groups (HSDP); as many as there "
        "are machines where links between them are slow",
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
    def processes_share_a_batch(self) -> Train:
        if self.processes > 1 and self.batch_size == "auto":
            raise PydanticCustomError(
                "processes",
                "batch_size auto is for one process, not for processes {processes}; give a number",
                {"processes": self.processes},
            )
        if self.batch_size != "auto" and self.batch_size % self.processes:
            raise PydanticCustomError(
                "processes",
                "batch_size {windows} cannot be shared equally by processes {processes}; make it "
                "a multiple",
                {"windows": self.batch_size, "processes": self.processes},
            )
        if self.sharding == "full" and self.processes > 1 and self.processes % self.replicas:
            raise PydanticCustomError(
                "replicas",
                "replicas {replicas} cannot share processes {processes} equally; make it a divisor",
                {"replicas": self.replicas, "processes": self.processes},
            )
        return self

    @model_validator(mode="after")
    def moments_come_with_a_training(self) -> Train:
        without = self.init_from == "scratch" or self.init_from.startswith("gpt2-")
        if without and self.init_optimizer == "restored":
            raise PydanticCustomError(
                "init_optimizer",
                "init_optimizer restored needs a run or a folder in init_from, not {start}",
                {"start": self.init_from},
            )
        return self

    @model_validator(mode="after")
    def eps_is_above_0_in_fp32(self) -> Train:
        if self.eps < LEAST_EPS:
            raise PydanticCustomError(
                "eps", "eps {eps} is as good as 0 in fp32; 1e-8 is usual", {"eps": self.eps}
            )
        return self

    @model_validator(mode="after")
    def muon_needs_whole_matrices(self) -> Train:
        if self.optimizer == "muon" and self.sharding == "full":
            raise PydanticCustomError(
                "optimizer",
                "optimizer muon needs whole matrices, of which sharding full gives each process a "
                "part; set sharding to none, or optimizer to adamw",
                {},
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
    """How losses over whole splits are measured."""

    batch_size: Batch = Field(8, description="windows in a forward pass; no number depends on it")
    windows: Count | None = Field(
        None,
        description="of each split, at most, evenly spread; null: all. Every model is measured on "
        "the same",
    )
    ensemble: tuple[Text, ...] = Field(
        (),
        max_length=100,
        description="runs or folders, as `train.init_from` names them, whose best weights together "
        "make a row, by the mean of their probabilities; `trained` is this training's model "
        "([read.md](read.md#ensembles))",
    )

    @model_validator(mode="after")
    def members_differ(self) -> Evaluate:
        if len(self.ensemble) == 1 or len(set(self.ensemble)) != len(self.ensemble):
            raise PydanticCustomError(
                "ensemble", "ensemble takes two models or more, each of them once", {}
            )
        return self


class Grid(Section):
    """Every temperature with every top-k, measured side by side."""

    temperature: tuple[Temperature, ...] = Field(
        (0.0, 0.7, 1.0, 1.4), min_length=1, max_length=100, description="the grid's lines"
    )
    top_k: tuple[Count | None, ...] = Field(
        (1, 25, 50, None), min_length=1, max_length=100, description="the grid's columns"
    )

    @model_validator(mode="after")
    def every_setting_once(self) -> Grid:
        for name, values in (("temperature", self.temperature), ("top_k", self.top_k)):
            written = [f"{value:g}" if isinstance(value, float) else value for value in values]
            if len(set(written)) != len(values):
                raise PydanticCustomError(
                    "grid", "a value stands twice in {name} (to six digits)", {"name": name}
                )
        return self


class Sample(Section):
    """What the trained model writes."""

    prompts: tuple[Text, ...] = Field(
        ("Every effort moves you",),
        min_length=1,
        max_length=1000,
        description="what to complete; `params.yaml` names three",
    )
    max_new_tokens: NewTokens = Field(50, description="fewer where end-of-text comes first")
    temperature: Temperature = Field(1.4, description="0 is greedy")
    top_k: Count | None = Field(25, description="null keeps every token")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None, description="applied after top-k"
    )
    min_p: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        None, description="applied after top-k"
    )
    seed: Seed = Field(123, description="reproduces each sample")
    grid: Grid = Grid()

    @model_validator(mode="after")
    def ends_some_day(self) -> Sample:
        lines, columns = len(self.grid.temperature), len(self.grid.top_k)
        tokens = lines * columns * len(self.prompts) * self.max_new_tokens
        if tokens > MOST_SAMPLED:
            raise PydanticCustomError(
                "tokens",
                "{lines} temperatures x {columns} top_k x {prompts} prompts x {each} "
                "max_new_tokens are {tokens} tokens, more than {most}",
                {
                    "lines": lines,
                    "columns": columns,
                    "prompts": len(self.prompts),
                    "each": self.max_new_tokens,
                    "tokens": tokens,
                    "most": MOST_SAMPLED,
                },
            )
        return self


class Gpt2(Section):
    """Which of OpenAI's models to compare with."""

    sizes: tuple[Size, ...] = Field(
        ("124M", "774M", "1558M"), description="the rows of the comparison"
    )
    source: Text = Field(
        "openai",
        description="OpenAI's TensorFlow checkpoints; or `huggingface`, or a local folder",
    )
    mirror: Text | None = Field(
        None, description="a URL that holds `SIZE/` folders as OpenAI's does"
    )
    sha256: dict[Size, Sha256] = Field(
        {},
        description="by size, the SHA-256 that its file of weights must have, whoever sends it "
        "(`model.ckpt.data-00000-of-00001`, `model.safetensors`); without one it must be what is "
        "known of the size, and what was fetched first",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto`: fp32; `bf16` halves the memory"
    )
    required: bool = Field(False, description="true: a size that cannot be had is an error")

    @model_validator(mode="after")
    def sizes_once(self) -> Gpt2:
        if len(set(self.sizes)) != len(self.sizes):
            raise PydanticCustomError("sizes", "a size stands twice in sizes", {})
        return self


class Compare(Section):
    """What the comparison measures all models by."""

    reference: Row | None = Field(
        None,
        description="the row that each row's difference is from; null: this repository's model at "
        "its best",
    )

    prompts: tuple[Text, ...] = Field(
        ("The capital of France is",),
        max_length=1000,
        description="completed greedily by every model; `params.yaml` names five facts",
    )
    max_new_tokens: NewTokens = Field(20, description="of each completion")


class Tracking(Section):
    """Where runs are logged."""

    experiment: Text = Field(
        "lossbook", description="MLflow's experiment; renaming it reruns nothing"
    )


class Params(Section):
    """The whole of `params.yaml`."""

    seed: Seed = Field(
        123, description="from it come the seeds of weights, batches, dropout; each has its own"
    )
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
        return Params.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise Problems(explain(path, error, Params)) from None


def refuse_missing(path: Path, pipeline: Path) -> None:
    """Refuse a file without a key that `pipeline`, a dvc.yaml, watches; an older one may lack it.

    Raises:
        UserError: it does; names the keys.
    """
    stages = read_yaml(pipeline).get("stages", {}) if pipeline.exists() else {}
    watched = {key for stage in stages.values() for key in stage.get("params", ())}
    values = read_yaml(path)
    if missing := sorted(key for key in watched if not _holds(values, key.split("."))):
        raise UserError(
            f"{path}: lacks {', '.join(missing)}, without which DVC runs nothing; add what "
            "docs/params.md has as the default"
        )


def _holds(values: Any, key: list[str]) -> bool:
    for part in key:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def flatten(section: BaseModel | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train.learning_rate": 4e-4, …}`: nested keys joined by dots, lists kept as values."""
    values = section.model_dump() if isinstance(section, BaseModel) else section
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
