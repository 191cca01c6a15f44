"""Settings that are hardly meant together: each is named, and what ships is not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.params import Params, Train, load_params
from pipeline.params_advice import advice
from tests.helpers.commands_in_docs import PAGES, all_commands

SHIPPED = Path(__file__).parents[1] / "params.yaml"


def params(**sections: dict[str, Any]) -> Params:
    return Params.model_validate(sections, strict=False)


def test_the_defaults_and_the_shipped_file_need_no_advice() -> None:
    for steps in (None, 1, 60, 10**6):
        assert advice(Params(), total_steps=steps) == []
        assert advice(load_params(SHIPPED), total_steps=steps) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_of_the_docs_needs_advice(page: Path) -> None:
    for words in all_commands(page):
        if words[:3] == ["dvc", "exp", "run"]:
            assert advice(set_by(words)) == [], words


def set_by(words: list[str]) -> Params:
    """The shipped file as `-S KEY=VALUE` changes it; of a list of values, the first."""
    values = YAML(typ="safe").load(SHIPPED.read_text(encoding="utf-8"))
    for option, word in pairwise(words):
        if option == "-S":
            key, _, value = word.partition("=")
            section = values
            *outer, last = key.split(".")
            for name in outer:
                section = section[name]
            value = value if value.startswith("[") else value.partition(",")[0]
            section[last] = YAML(typ="safe").load(value)
    return params(**values)


@pytest.mark.parametrize(
    ("sections", "steps", "line"),
    [
        ({"model": {"tie_weights": True}}, None, "model.tie_weights: with model.init pytorch"),
        ({"model": {"context_length": 2048}}, None, "model.context_length: 2048 is more than"),
        (
            {"compare": {"reference": "gpt2_355M"}},
            None,
            "compare.reference: gpt2_355M is not in the table, so there are no differences; add "
            "355M to gpt2.sizes",
        ),
        (
            {"compare": {"reference": "scratch_ema"}},
            None,
            "compare.reference: scratch_ema is not in the table, so there are no differences; set "
            "train.ema_decay",
        ),
        (
            {"compare": {"reference": "ensemble"}},
            None,
            "compare.reference: ensemble is not in the table, so there are no differences; name "
            "its runs in evaluate.ensemble",
        ),
        ({"train": {"warmup_steps": 1000, "max_steps": 6}}, None, "train.warmup_steps: 1000 of"),
        ({"train": {"warmup_steps": 1000}}, 6, "train.warmup_steps: 1000 of the training's 6"),
        ({"train": {"warmup_steps": 1}}, 1, "train.warmup_steps: 1 of the training's 1 step:"),
        (
            {"train": {"schedule": "wsd", "decay_steps": 5, "warmup_steps": 6}},
            10,
            "train.decay_steps: 5 after train.warmup_steps 6",
        ),
        (
            {"train": {"schedule": "wsd", "decay_steps": 0.6, "warmup_steps": 5}},
            10,
            "train.decay_steps: 6 after train.warmup_steps 5",
        ),
        ({"train": {"decay_steps": 10}}, None, "train.decay_steps: has no effect, since only"),
        ({"train": {"min_learning_rate": 1e-5}}, None, "train.min_learning_rate: has no effect"),
        ({"train": {"max_steps": 5, "epochs": 2}}, None, "train.epochs: has no effect"),
        ({"train": {"early_stopping": 4}}, 20, "train.early_stopping: 4 of 4 evaluations stops"),
        ({"train": {"eval_every": 100}}, 20, "train.eval_every: 100 is above the training's 20"),
        ({"train": {"checkpoint_every": 99}}, 20, "train.checkpoint_every: 99 is above"),
        ({"train": {"init_optimizer": "fresh"}}, None, "train.init_optimizer: has no effect"),
        ({"train": {"sharding": "full"}}, None, "train.sharding: full shards nothing"),
        ({"train": {"replicas": 2}}, None, "train.replicas: has no effect, since train.sharding"),
        ({"train": {"launcher": "srun", "processes": 2}}, None, "train.processes: has no effect"),
        ({"sample": {"temperature": 0.0, "top_k": 5}}, None, "sample.top_k: has no effect"),
        ({"sample": {"temperature": 0.0, "top_p": 0.9}}, None, "sample.top_p: has no effect"),
        ({"sample": {"temperature": 0.0, "min_p": 0.1}}, None, "sample.min_p: has no effect"),
        ({"sample": {"top_k": 60000}}, None, "sample.top_k: 60000 keeps all of 50257 tokens"),
        ({"sample": {"grid": {"top_k": (1, 50258)}}}, None, "sample.grid.top_k: 50258 keeps all"),
        ({"sample": {"prompts": ("a", "b", "a")}}, None, "sample.prompts: 'a' stands in it 2"),
        ({"compare": {"prompts": ("a", "a")}}, None, "compare.prompts: 'a' stands in it 2 times"),
        ({"prepare": {"gutenberg": {"limit": 5}}}, None, "prepare.gutenberg.limit: has no effect"),
        ({"prepare": {"text_field": "body"}}, None, "prepare.text_field: has no effect"),
        ({"gpt2": {"sizes": (), "required": True}}, None, "gpt2.required: has no effect"),
        ({"gpt2": {"sizes": (), "precision": "bf16"}}, None, "gpt2.precision: has no effect"),
    ],
)
def test_what_is_hardly_meant_is_named(
    sections: dict[str, dict[str, Any]], steps: int | None, line: str
) -> None:
    found = advice(params(**sections), total_steps=steps)
    assert len(found) == 1, found
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("sections", "steps"),
    [
        ({"model": {"tie_weights": True, "init": "gpt2"}}, None),
        ({"model": {"tie_weights": True}, "train": {"init_from": "gpt2-124M"}}, None),
        ({"model": {"context_length": 2048}, "gpt2": {"sizes": ()}}, None),
        ({"compare": {"reference": "gpt2_124M"}}, None),
        ({"compare": {"reference": "scratch_last"}}, None),
        ({"train": {"warmup_steps": 5}}, 6),
        ({"train": {"schedule": "wsd", "decay_steps": 5, "warmup_steps": 5}}, 10),
        ({"train": {"early_stopping": 3}}, 20),
        ({"train": {"eval_every": 20, "checkpoint_every": 10}}, 20),
        ({"train": {"sharding": "full", "processes": 2}}, None),
        (
            {"train": {"sharding": "full", "processes": 4, "batch_size": 4, "replicas": 2}},
            None,
        ),
        ({"train": {"sharding": "full", "launcher": "srun"}}, None),
        ({"sample": {"temperature": 0.0}}, None),
        ({"sample": {"top_k": 50257}}, None),
        ({"prepare": {"corpus": "gutenberg", "gutenberg": {"limit": 5}}}, None),
        ({"prepare": {"corpus": "texts", "text_field": "body"}}, None),
    ],
)
def test_what_may_be_meant_is_not(sections: dict[str, dict[str, Any]], steps: int | None) -> None:
    assert advice(params(**sections), total_steps=steps) == []


def test_torchruns_processes_count_before_those_of_params() -> None:
    sharded = params(train={"sharding": "full"})
    assert advice(sharded, processes=2) == []
    assert len(advice(sharded, processes=1)) == 1


def test_early_stopping_that_is_said_to_stop_nothing_does_not() -> None:
    from pipeline.reports import HistoryRow
    from pipeline.training.stopping import patience_is_over

    every, steps = 5, 23
    at = sorted({*range(0, steps + 1, every), steps})
    rising = [HistoryRow(step, 0.0, 0, 1.0, 1.0 + step, 1e-3) for step in at]
    for patience in range(1, 9):
        stops = any(patience_is_over(rising[:n], patience) for n in range(1, len(rising)))
        train = Train(early_stopping=patience, eval_every=every)
        assert stops != bool(advice(Params(train=train), total_steps=steps)), patience
