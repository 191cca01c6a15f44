"""baseline, through its command: GPT-2 measured as our own model is, or said not to be."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from pipeline.comparison.columns import to_markdown
from pipeline.comparison.page import unbroken
from pipeline.comparison.report import published_note
from pipeline.comparison.table import read_comparison
from pipeline.comparison.verdict import comparison_verdict
from pipeline.errors import UserError
from pipeline.evaluation.size import choose_precision
from pipeline.gpt2.release import DATA
from pipeline.gpt2.sizes import SIZES, PublishedLosses, Size
from pipeline.params import load_params
from pipeline.reports import BaselineReport, EvaluationReport, SplitLosses
from pipeline.system.files import sha256_of
from pipeline.tokens.token_losses import TokenLosses
from pipeline.tokens.tokenizer import byte_lengths, decode, encode
from pipeline.tokens.windows import Windows
from pipeline.weights import find
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.make_golden import GOLDEN
from tests.helpers.reference import transformers_logits
from tests.helpers.tokens import write_split

PROMPTS = ["The capital of France is", "Two plus two equals"]
LENGTH = 16

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "124M", TINY)


@pytest.fixture
def run(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path, offline: None
) -> Run:
    """Runs fetch_gpt2, with the reading in this process, and then baseline."""
    from pipeline.gpt2 import fetch

    monkeypatch.setattr(fetch, "verify_apart", fetch.verify_here)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    write_split(tmp_path / "data/tokens/train", encode("It was the best of times. " * 40))
    write_split(tmp_path / "data/tokens/val", encode("It was the worst of times: naïve. " * 10))

    def run(*, size: str = "124M", fetched: bool = True, **sections: dict) -> Result:
        params = {
            "model": {"context_length": LENGTH},
            "evaluate": {"batch_size": 3},
            "compare": {"prompts": PROMPTS, "max_new_tokens": 5},
            "gpt2": {"source": str(weights.parent)},
        }
        for section, values in sections.items():
            params[section] = {**params[section], **values}
        Path("params.yaml").write_text(json.dumps(params))
        if fetched:
            done = invoke("fetch_gpt2", size, "--report", f"reports/gpt2/{size}.json")
            assert done.exit_code == 0, done.output
        return invoke(
            "baseline",
            size,
            *("--tokens", "data/tokens", "--weights", f"reports/gpt2/{size}.json"),
            *("--report", f"reports/baselines/{size}.json"),
            *("--token-losses", f"reports/token_losses/{size}"),
            *("--journal", f"journals/baselines/{size}"),
        )

    return run


def invoke(stage: str, size: str, *arguments: str) -> Result:
    main = import_module(f"stages.{stage}").main
    return CliRunner().invoke(main, ["--size", size, *arguments])


def report() -> dict:
    return json.loads(Path("reports/baselines/124M.json").read_text())


def token_losses() -> TokenLosses:
    return TokenLosses.open(Path("reports/token_losses/124M"))


def their_losses(weights: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`transformers`' nats for each target token of each window, and these tokens."""
    tokens = torch.from_numpy(np.fromfile(f"data/tokens/{split}/00000.bin", "<u2").astype("i8"))
    count = (len(tokens) - 1) // LENGTH
    inputs = tokens[: count * LENGTH].view(count, LENGTH)
    targets = tokens[1 : count * LENGTH + 1].view(count, LENGTH)
    logits = transformers_logits(weights, TINY, inputs)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    )
    return losses.view(count, LENGTH), targets


def test_losses_are_those_of_transformers_on_the_same_windows(run: Run, weights: Path) -> None:
    done = run()
    assert done.exception is None, done.output
    found = report()
    assert found["status"] == "measured"
    assert found["parameters"] == TINY.parameters
    assert (found["context_length"], found["corpus_sha256"]) == (LENGTH, "c" * 64)
    for split in ("train", "val"):
        losses, targets = their_losses(weights, split)
        numbers = found[split]
        assert numbers["tokens"] == losses.numel()
        assert (
            numbers["windows"]
            == len(losses)
            == len(Windows.open(Path("data/tokens", split), LENGTH))
        )
        assert numbers["loss"] == pytest.approx(losses.double().mean().item(), abs=1e-5)
        assert numbers["perplexity"] == pytest.approx(math.exp(numbers["loss"]))
        read = byte_lengths()[targets.numpy()].sum()
        bits = losses.double().sum().item() / math.log(2) / read
        assert numbers["bits_per_byte"] == pytest.approx(bits, abs=1e-5)
    theirs, targets = their_losses(weights, "val")
    kept = token_losses()
    windows = Windows.open(Path("data/tokens/val"), LENGTH)
    assert windows.targets(kept.windows("val")).tolist() == targets.tolist()
    np.testing.assert_allclose(kept.of("124M", "val"), theirs, atol=1e-4)


def test_completions_are_the_likeliest_tokens_of_transformers(run: Run, weights: Path) -> None:
    run()
    assert [c["prompt"] for c in report()["completions"]] == PROMPTS
    for completion in report()["completions"]:
        tokens = encode(completion["prompt"])
        for _ in range(5):
            logits = transformers_logits(weights, TINY, torch.tensor([tokens]))
            tokens.append(int(logits[0, -1].argmax()))
        assert completion["completion"] == decode(tokens[-5:])


def test_equal_work_gives_equal_bytes_and_the_run_has_the_times(run: Run) -> None:
    kept = ("124M.val.npy", "meta.json", "_SHA256SUMS")
    names = ("reports/baselines/124M.json", *(f"reports/token_losses/124M/{n}" for n in kept))
    run()
    first = [Path(name).read_bytes() for name in names]
    assert BaselineReport.read(Path(names[0])).status == "measured"
    assert token_losses().meta.context_length == LENGTH
    journal = "".join(p.read_text() for p in Path("journals/baselines/124M").rglob("*.jsonl"))
    for name in ("load_seconds", "tokens_per_second", "peak_ram_gb", "last/val_loss"):
        assert name in journal
    assert '"role":"baseline"' in journal.replace(" ", "")
    run()
    assert [Path(name).read_bytes() for name in names] == first


def test_a_size_is_one_external_model_in_mlflow(
    run: Run, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tracking.mlflow.store import connect

    monkeypatch.delenv("LOSSBOOK_OFFLINE")
    run()
    run()
    store = connect()
    models = store.client.search_logged_models(
        [store.experiment_id("lossbook")], filter_string="name = 'gpt2-124M'"
    )
    (model,) = (m for m in models if m.params["precision"] == "fp32")
    assert model.tags["mlflow.model.isExternal"] == "true"
    assert model.tags["lossbook.weights"] == sha256_of(weights / DATA)
    assert model.params["parameters"] == str(TINY.parameters)
    losses = {m.value for m in model.metrics if m.key == "val_loss"}
    assert report()["val"]["loss"] in losses


def test_bf16_is_close_and_said(run: Run) -> None:
    run()
    full = report()
    run(gpt2={"precision": "bf16"})
    half = report()
    assert (full["precision"], half["precision"]) == ("fp32", "bf16")
    assert half["val"]["loss"] != full["val"]["loss"]
    assert half["val"]["loss"] == pytest.approx(full["val"]["loss"], abs=0.05)


def test_what_was_not_fetched_is_unavailable_for_the_same_reason(run: Run) -> None:
    done = run(gpt2={"source": "openai", "mirror": "http://127.0.0.1:1"})
    reason = "127.0.0.1 cannot be reached (Connection refused)"
    assert done.exit_code == 0
    assert done.stderr == f"GPT-2 124M: not measured: {reason}\n"
    found = report()
    assert found.pop("_sha256")
    assert found == {
        "model": "124M",
        "status": "unavailable",
        "reason": reason,
        "parameters": None,
        "precision": None,
        "context_length": LENGTH,
        "corpus_sha256": "c" * 64,
        "train": None,
        "val": None,
        "completions": [],
    }
    assert token_losses().meta.models == ()
    # DVC warns of an empty folder.
    assert [path.name for path in Path("journals/baselines/124M").iterdir()] == ["no_run.txt"]
    assert BaselineReport.read(Path("reports/baselines/124M.json")).status == "unavailable"


def test_an_unavailable_size_takes_no_torch(run: Run) -> None:
    """Four stages of a default run that is offline would import it, three seconds each."""
    run(gpt2={"source": "openai"})
    program = """
import sys
from pathlib import Path
from pipeline.evaluation.baseline import baseline
names = "params.yaml", "data/tokens", "reports/gpt2/124M.json", "r.json", "losses", "journal"
params, tokens, weights, report, losses, journal = map(Path, names)
assert baseline(params, "124M", tokens, weights, report, losses, journal).status == "unavailable"
print({"torch", "mlflow", "tensorflow"} & sys.modules.keys())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "set()\n", done.stderr


def test_windows_longer_than_gpt2_reads_are_unavailable(run: Run) -> None:
    done = run(model={"context_length": 65})
    assert done.exit_code == 0
    assert report()["reason"] == "it reads 64 tokens at most; model.context_length is 65"


def test_weights_that_are_not_those_reported_are_refused(run: Run, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "other" / "124M", TINY, seed=1).parent
    run(gpt2={"source": str(source)})
    before = report()
    data = source / "124M" / DATA
    data.write_bytes(bytes(len(data.read_bytes())))
    done = run(fetched=False, gpt2={"source": str(source)})
    assert done.exit_code == 1
    assert done.output.startswith(
        "Error: GPT-2 124M: the weights are not those of reports/gpt2/124M.json"
    )
    assert report() == before


def test_too_few_tokens_are_told(run: Run) -> None:
    done = run(model={"context_length": 60000})
    assert done.exit_code == 1
    assert "model.context_length" in done.output
    assert not Path("reports/baselines").exists()


def test_auto_is_fp32_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    cpu, xl = torch.device("cpu"), 1_557_611_200
    for memory, precision in ((24, "fp32"), (8, "bf16")):
        total = psutil.virtual_memory()._replace(total=memory * 2**30)
        monkeypatch.setattr(psutil, "virtual_memory", lambda total=total: total)
        assert choose_precision("auto", xl, cpu) == precision
        assert choose_precision("fp32", xl, cpu) == "fp32"
        assert choose_precision("bf16", 1, cpu) == "bf16"


def test_a_new_size_is_one_entry(
    run: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings, fetching, reading, measuring and the comparison know it."""
    published = PublishedLosses(val=4.25, train=4.5)
    monkeypatch.setitem(SIZES, "7M", Size("7M", "GPT-2 tiny", TINY, "nobody/tiny", published))
    (tmp_path / "7M").symlink_to(weights)
    done = run(size="7M", gpt2={"source": str(tmp_path), "sizes": ["124M", "7M"]})
    assert done.exit_code == 0, done.output
    assert find("gpt2-7M").load(load_params().gpt2).count_parameters() == TINY.parameters
    Path("wrong.yaml").write_text("gpt2: {sizes: [8M]}")
    with pytest.raises(UserError, match="'774M', '1558M' or '7M', not '8M'"):
        load_params(Path("wrong.yaml"))

    measured = BaselineReport.read(Path("reports/baselines/7M.json"))
    assert measured.train is not None
    assert measured.val is not None
    both = SplitLosses(train=measured.train, val=measured.val)
    EvaluationReport(
        corpus_sha256="c" * 64,
        context_length=LENGTH,
        train=both.train,
        val=both.val,
        best=both,
        untrained=both,
    ).write(Path("reports/evaluate.json"))
    comparison = read_comparison(
        Path("reports/evaluate.json"), GOLDEN / "train.json", Path("reports/baselines"), ["7M"]
    )
    last = to_markdown(comparison.models.values()).splitlines()[-1]
    assert last.startswith(f"| GPT-2 tiny (7M) | {TINY.parameters:,} | {both.train.loss:.3f} |")
    assert "GPT-2 tiny, 7M, predicts this text" in comparison_verdict(comparison, 1)
    assert published_note().endswith("3.3046 for XL and 4.5000 for tiny.")
    assert unbroken("GPT-2 tiny (7M)") == '<span class="unbroken">GPT-2 tiny (7M)</span>'
