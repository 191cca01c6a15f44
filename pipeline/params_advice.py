"""Settings that are right one by one and hardly meant together: a line of advice for each.

What can never be meant is refused by `params`. Here stands what trains, and trains something else
than its author is likely to think: a key that another one leaves without effect, a warm-up that
is longer than the training. A line names the key and says what would be right. Keys that have
their default are not named: a short trial of one setting needs no advice on the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from pipeline.gpt2.sizes import SIZES
from pipeline.numbers import counted
from pipeline.params import Params, Train, flatten

GPT2 = SIZES["124M"].hparams  # its vocabulary and context are those of all sizes
NAMED_CORPORA = ("what-seemed-likely", "the-verdict", "gutenberg")  # whose field is known

# Keys (or the beginning of several), when nothing reads them, and why.
IDLE: tuple[tuple[str, Callable[[Params], bool], str], ...] = (
    (
        "prepare.gutenberg.",
        lambda params: params.prepare.corpus != "gutenberg",
        "prepare.corpus is not gutenberg",
    ),
    (
        "prepare.text_field",
        lambda params: params.prepare.corpus in NAMED_CORPORA,
        "prepare.corpus has no fields to choose from",
    ),
    (
        "train.epochs",
        lambda params: params.train.max_steps is not None,
        "train.max_steps decides; set that to null to train epochs",
    ),
    (
        "train.init_optimizer",
        lambda params: params.train.init_from.startswith(("scratch", "gpt2-")),
        "train.init_from names no training whose optimizer there is",
    ),
    (
        "train.decay_steps",
        lambda params: params.train.schedule != "wsd",
        "only train.schedule wsd decays over so many steps",
    ),
    (
        "train.min_learning_rate",
        lambda params: params.train.schedule == "constant",
        "train.schedule constant stays at learning_rate; set cosine or wsd",
    ),
    (
        "train.replicas",
        lambda params: params.train.sharding == "none",
        "train.sharding none replicates the model in every process",
    ),
    (
        "train.processes",
        lambda params: params.train.launcher is not None,
        "train.launcher says how many processes it starts",
    ),
    *(
        (
            f"sample.{key}",
            lambda params: params.sample.temperature == 0,
            "sample.temperature 0 always takes the likeliest token",
        )
        for key in ("top_k", "top_p", "min_p")
    ),
    *(
        (f"gpt2.{key}", lambda params: not params.gpt2.sizes, "gpt2.sizes is empty")
        for key in ("precision", "required")
    ),
)


def advice(
    params: Params, *, total_steps: int | None = None, processes: int | None = None
) -> list[str]:
    """A line `section.key: what is odd; what would be right` for each likely mistake.

    Args:
        total_steps: optimizer steps of the training, where the tokens are there to be counted;
            without it only `train.max_steps` says.
        processes: that train together, where they are known; by default `train.processes`.
    """
    steps = params.train.max_steps if total_steps is None else total_steps
    lines = [*_idle(params), *_weights(params), *_reference(params)]
    if steps is not None:
        lines += _lengths(params.train, steps)
    if processes is None and params.train.launcher is None:
        processes = params.train.processes
    if params.train.sharding == "full" and processes == 1:
        lines.append(
            "train.sharding: full shards nothing in a single process; set train.processes or "
            "train.launcher"
        )
    return [*lines, *_sampling(params)]


def _idle(params: Params) -> Iterator[str]:
    values, defaults = flatten(params), flatten(Params())
    for start, is_idle, reason in IDLE:
        if is_idle(params):
            for key, value in values.items():
                if key.startswith(start) and value != defaults[key]:
                    yield f"{key}: has no effect, since {reason}"


def _reference(params: Params) -> Iterator[str]:
    key = params.compare.reference or ""
    size = key.removeprefix("gpt2_")
    missing = ""
    if size != key and size not in params.gpt2.sizes:
        missing = f"add {size} to gpt2.sizes"
    if key == "ensemble" and not params.evaluate.ensemble:
        missing = "name its runs in evaluate.ensemble"
    if key == "scratch_ema" and params.train.ema_decay is None:
        missing = "set train.ema_decay"
    if missing:
        found = f"compare.reference: {key} is not in the table, so there are no differences"
        yield f"{found}; {missing}"


def _weights(params: Params) -> Iterator[str]:
    model = params.model
    if model.tie_weights and model.init == "pytorch" and params.train.init_from == "scratch":
        yield (
            "model.tie_weights: with model.init pytorch the head is an embedding from N(0, 1), "
            f"whose untrained loss is far above ln {GPT2.n_vocab} = 10.8; set model.init to gpt2"
        )
    if model.context_length > GPT2.n_ctx and params.gpt2.sizes:
        yield (
            f"model.context_length: {model.context_length} is more than the {GPT2.n_ctx} tokens "
            "that GPT-2 reads, so none can be compared; lower it, or set gpt2.sizes to []"
        )


def _lengths(train: Train, steps: int) -> Iterator[str]:
    """What does not fit into a training of so many steps."""
    whole = f"the training's {counted(steps, 'step')}"
    decay = 0.0
    if train.schedule == "wsd":
        decay = train.decay_steps * (steps if train.decay_steps < 1 else 1)
    if train.warmup_steps >= steps:
        yield (
            f"train.warmup_steps: {train.warmup_steps} of {whole}: learning_rate "
            f"{train.learning_rate:g} is never reached; lower it"
        )
    elif train.warmup_steps + decay > steps:
        yield (
            f"train.decay_steps: {decay:g} after train.warmup_steps {train.warmup_steps} are more "
            f"than {whole}: learning_rate {train.learning_rate:g} is never reached; lower one"
        )
    evaluations = -(-steps // train.eval_every)
    if train.early_stopping and train.early_stopping >= evaluations:
        yield (
            f"train.early_stopping: {train.early_stopping} of {counted(evaluations, 'evaluation')} "
            "stops nothing; lower it, or train.eval_every"
        )
    defaults = Train()
    if train.eval_every > steps and train.eval_every != defaults.eval_every:
        yield (
            f"train.eval_every: {train.eval_every} is above {whole}, which is evaluated at its "
            "beginning and its end alone; lower it"
        )
    if train.checkpoint_every > steps and train.checkpoint_every != defaults.checkpoint_every:
        yield (
            f"train.checkpoint_every: {train.checkpoint_every} is above {whole}, which leaves no "
            "checkpoint to go on from after a kill; lower it"
        )


def _sampling(params: Params) -> Iterator[str]:
    top_ks = {"sample.top_k": (params.sample.top_k,), "sample.grid.top_k": params.sample.grid.top_k}
    for key, values in top_ks.items():
        for top_k in values:
            if top_k is not None and top_k > GPT2.n_vocab:
                yield f"{key}: {top_k} keeps all of {GPT2.n_vocab} tokens; null says so"
    for key, prompts in (("sample", params.sample.prompts), ("compare", params.compare.prompts)):
        for prompt, times in Counter(prompts).items():
            if times > 1:
                yield f"{key}.prompts: {prompt!r} stands in it {times} times; once is enough"
