"""params.yaml: every problem at once, a line each; its page in docs/ is what the fields say."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from docs.params_page import PAGE, updated
from pipeline.errors import UserError
from pipeline.params import Params, flatten, load_params, refuse_missing

ROOT = Path(__file__).parents[1]

SHIPPED = Path(__file__).parents[1] / "params.yaml"


def load(folder: Path, text: str) -> Params:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(folder, text)
    return str(caught.value).splitlines()[1:]


def test_the_shipped_file_names_every_setting() -> None:
    """So DVC, which sees values of the file only, sees every value that decides a result."""
    from ruamel.yaml import YAML

    named = YAML(typ="safe").load(SHIPPED.read_text(encoding="utf-8"))
    assert set(flatten(named)) == set(flatten(Params()))
    for section, settings in Params().model_dump().items():  # where one is empty, too
        if isinstance(settings, dict):
            assert named[section].keys() == settings.keys(), section


def test_the_shipped_file_is_the_default_but_for_prompts() -> None:
    shipped, default = flatten(load_params(SHIPPED)), flatten(Params())
    differing = {key for key, value in shipped.items() if default[key] != value}
    assert differing == {"sample.prompts", "compare.prompts"}


def test_the_page_in_docs_is_what_make_docs_writes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, "stale: run `make docs`"


def test_every_setting_says_what_it_means() -> None:
    def silent(section: type[BaseModel], path: str = "") -> list[str]:
        found = []
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                found += silent(field.annotation, f"{path}{name}.")
            elif not field.description:
                found.append(f"{path}{name}")
        return found

    assert silent(Params) == []


def test_an_empty_section_list_is_enough(tmp_path: Path) -> None:
    assert load(tmp_path, "seed: 7\n").train.learning_rate == 4e-4


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, "train: {learning_rate: 1e-3}").train.learning_rate == 0.001


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Params().train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: {learning_rate: abc}", "train.learning_rate: input should be a valid number"),
        ("train: {learning_rate: -1}", "train.learning_rate: input should be greater than 0"),
        ("train: {learning_rate: .nan}", "train.learning_rate: input should be a finite number"),
        ("train: {learning_rate: .inf}", "train.learning_rate: input should be a finite number"),
        ("train: {epochs: 2.5}", "train.epochs: input should be a valid integer"),
        ("train: {epochs: true}", "train.epochs: input should be a valid integer"),
        ("train: {epochs: 0}", "train.epochs: input should be greater than or equal to 1"),
        ("train: {learning_rte: 1e-3}", "train.learning_rte: unknown key; did you mean"),
        ("trian: {}", "trian: unknown key; did you mean `train`?"),
        (
            "train: {schedule: linear}",
            "train.schedule: input should be 'constant', 'cosine' or",
        ),
        ("train: {decay_steps: 1.5}", "train: decay_steps 1.5 is neither whole steps nor a share"),
        ("train: {early_stopping: 0}", "train.early_stopping: input should be greater than or"),
        ("train: {batch_size: 0}", "train.batch_size: input should be greater than or equal"),
        ("train: {batch_size: most}", "train.batch_size: input should be 'auto', not 'most'"),
        ("train: {device: gpu}", "train.device: string should match pattern"),
        ("train: {launcher: ''}", "train.launcher: string should have at least 1 character"),
        ("train: {launcher: ' '}", "train.launcher: a program and its arguments, which no shell"),
        ("train: {launcher: srun | tee x}", "train.launcher: a program and its arguments, which"),
        ("train: {launcher: torchrun $ARGS}", "train.launcher: a program and its arguments, which"),
        ('train: {launcher: "srun\\n-n 2"}', "train.launcher: a program and its arguments, which"),
        ("train: {launcher: srun 'x}", "train.launcher: no closing quotation"),
        ("train: {min_learning_rate: 0.5}", "train: min_learning_rate 0.5 is above"),
        ("train: {processes: 3}", "train: batch_size 2 cannot be shared equally by processes 3"),
        (
            "train: {batch_size: 4, processes: 4, sharding: full, replicas: 3}",
            "train: replicas 3 cannot share processes 4 equally; make it a divisor",
        ),
        ("train: {batch_size: auto, processes: 2}", "train: batch_size auto is for one process"),
        ("train: {betas: [0.9, 1]}", "train.betas[1]: input should be less than 1"),
        ("train: {betas: [0.9]}", "train.betas[1]: field required"),
        ("train: {eps: 1e-40}", "train: eps 1e-40 is as good as 0 in fp32; 1e-8 is usual"),
        ("train: {eps: 0}", "train.eps: input should be greater than 0"),
        ("train: {ema_decay: 1}", "train.ema_decay: input should be less than 1"),
        (
            "train: {optimizer: muon, sharding: full}",
            "train: optimizer muon needs whole matrices, of which sharding full gives",
        ),
        ("train: {init_optimizer: restored}", "train: init_optimizer restored needs a run"),
        (
            "train: {init_optimizer: restored, init_from: gpt2-124M}",
            "train: init_optimizer restored needs a run or a folder in init_from, not gpt2-124M",
        ),
        ("sample: {grid: {top_k: [1, 5, 1]}}", "sample.grid: a value stands twice in top_k"),
        ("sample: {grid: {top_k: [null, null]}}", "sample.grid: a value stands twice in top_k"),
        (
            "sample: {grid: {temperature: [1.0, 1.0000001]}}",
            "sample.grid: a value stands twice in temperature",
        ),
        ("model: {n_head: 5}", "model: n_embd 768 is not a multiple of n_head 5"),
        ("model: {dropout: 1}", "model.dropout: input should be less than 1"),
        ("model: {tie_weights: 1}", "model.tie_weights: input should be a valid boolean"),
        ("model: [1, 2]", "model: "),
        ("split: {train_fraction: 1.0}", "split.train_fraction: input should be less than 1"),
        ("sample: {temperature: -0.1}", "sample.temperature: input should be greater than or"),
        ("sample: {top_k: 0}", "sample.top_k: input should be greater than or equal to 1"),
        ("sample: {grid: {top_k: [1, x]}}", "sample.grid.top_k[1]: input should be a valid int"),
        ("sample: {prompts: []}", "sample.prompts: "),
        ("gpt2: {sizes: [124M, 125M]}", "gpt2.sizes[1]: input should be '124M', '355M'"),
        ("gpt2: {sizes: [124M, 124M]}", "gpt2: a size stands twice"),
        ("split: {test_fraction: 0.1}", "split: train_fraction 0.9 and test_fraction 0.1 leave"),
        ("prepare: {scheduler: dask}", "prepare.scheduler: string should match pattern"),
        ("prepare: {corpus: 7}", "prepare.corpus: input should be a valid string"),
        ("prepare: {sha256: abc}", "prepare.sha256: string should match pattern"),
        ("evaluate: {ensemble: [a]}", "evaluate: ensemble takes two models or more, each of them"),
        ("evaluate: {ensemble: [a, b, a]}", "evaluate: ensemble takes two models or more, each"),
        ("seed: -1", "seed: input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, line: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(line)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "train: {epochs: no, batch_size: 0}\nmodel: {n_layer: x}\nsede: 1\n")
    assert [line.partition(":")[0] for line in found] == [
        "model.n_layer",
        "train.epochs",
        "train.batch_size",
        "sede",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("train: {epochs: 1", "not valid YAML"),
        ("seed: 1\nseed: 2\n", "not valid YAML"),
        ("- a\n", "must hold sections"),
        ("", "must hold sections"),
    ],
)
def test_a_file_that_is_no_params_file(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        load(tmp_path, text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_params(tmp_path / "params.yaml")


def test_a_key_that_dvc_watches_and_the_file_lacks_is_named(tmp_path: Path) -> None:
    path, pipeline = tmp_path / "params.yaml", tmp_path / "dvc.yaml"
    path.write_text("seed: 1\ngpt2:\n  sizes: []\n")
    refuse_missing(path, pipeline)
    pipeline.write_text("stages:\n  a: {params: [seed, gpt2.sizes]}\n  b: {}\n")
    refuse_missing(path, pipeline)
    pipeline.write_text("stages:\n  a: {params: [seed, gpt2.sha256, train]}\n")
    with pytest.raises(UserError, match=r"params\.yaml: lacks gpt2\.sha256, train, without which"):
        refuse_missing(path, pipeline)


def test_the_shipped_file_has_all_that_dvc_watches() -> None:
    refuse_missing(ROOT / "params.yaml", ROOT / "dvc.yaml")
