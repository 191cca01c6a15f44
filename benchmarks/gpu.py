"""Everything that needs a GPU, in one script: is it right there, and how far from the limit is it?

Each section is a process of its own, and each result a line of JSON at once, so that a machine that
is taken away leaves what was found until then. `ok` is the verdict where there is one; the exit
status is 1 where one is false or a section failed. Sizes are those of an 80 GB GPU. It ends after
eight minutes: the section that runs then is stopped, and those that follow are left out.

It needs PyTorch and a few small packages: a machine without them is named what is missing. MLflow,
DVC and TensorFlow are not among them.

    python benchmarks/gpu.py [--only SECTION ...] [--minutes 8]
    python benchmarks/gpu.py --dry-run      all on the CPU, at a tiny size, in one process
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

PACKAGES = (  # what the imported parts of the project import, beside torch
    *("numpy", "pydantic", "tiktoken", "orjson", "psutil", "ruamel.yaml", "safetensors"),
    *("filelock", "platformdirs", "requests", "tqdm"),
)
ROOT = Path(__file__).resolve().parents[1]
DRY = "--dry-run" in sys.argv
SMALL = {"n_layer": 2}  # wide as 124M, where nothing is timed

Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure and check what needs a GPU.")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at a tiny size")
    parser.add_argument("--section", nargs="+", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    missing = [name for name in PACKAGES if find_spec(name.partition(".")[0]) is None]
    if missing:
        parser.error(f"missing here: {', '.join(missing)} (pip install them, or copy them along)")
    if arguments.section:
        return sum(not run_here(name) for name in arguments.section) and 1
    if not DRY and not has_gpu():
        print("left out: there is no CUDA GPU here (--dry-run needs none)")
        return 0
    started = time.perf_counter()
    failed = False
    # A dry run measures nothing, so one process can do all, and import everything once.
    for names in [arguments.only] if DRY else [[name] for name in arguments.only]:
        left = arguments.minutes * 60 - (time.perf_counter() - started)
        if left <= 0:
            print(json.dumps({"section": names[0], "left_out": "no time is left"}), flush=True)
            continue
        failed |= not run(names, left)
    return int(failed)


def run_here(section: str) -> bool:
    """Print the section's results; whether no verdict is against it."""
    started = time.perf_counter()
    ok = True
    for row in SECTIONS[section]():
        print(json.dumps({"section": section, **row}), flush=True)
        ok = ok and row.get("ok", True)
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"section": section, "seconds": seconds}), flush=True)
    return ok


def run(sections: list[str], limit: float) -> bool:
    """Whether the sections came to their end with no verdict against them."""
    command = [sys.executable, __file__, "--section", *sections, *(["--dry-run"] if DRY else [])]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    row: Row = {"section": " ".join(sections)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stderr=errors, start_new_session=True)
        try:
            if process.wait(limit):
                errors.seek(0)
                row["error"] = (errors.read().strip().splitlines() or ["a verdict is against it"])[
                    -1
                ]
        except subprocess.TimeoutExpired:
            row["error"] = f"took more than {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started
                process.wait()
    if "error" in row:
        print(json.dumps(row), flush=True)
    return "error" not in row


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def runtime(precision: str = "bf16") -> Any:
    from pipeline.model.runtime import choose_runtime

    return choose_runtime("cpu" if DRY else "cuda", precision)


def shape(size: str) -> dict[str, int]:
    from train_throughput import SHAPES

    return SHAPES["tiny" if DRY else size]


def context() -> int:
    return 16 if DRY else 1024


def job(folder: Path, *, size: str = "124M", model: Row | None = None, **train: Any) -> Any:
    """A training on random tokens in `folder`: of 100 steps' windows, and 21 to validate."""
    from train_throughput import write_tokens

    from pipeline.params import Params
    from pipeline.training.job import TrainingJob

    settings = {"device": "cpu" if DRY else "cuda", "precision": "bf16", "eval_every": 5, **train}
    model = {**shape(size), "context_length": context(), "dropout": 0.0, **(model or {})}
    if not (folder / "train").exists():
        windows = 100 * settings.get("batch_size", 2)
        for split, count in (("train", windows), ("val", 21)):
            write_tokens(folder / split, count * model["context_length"] + 1)
    return TrainingJob.open(Params.model_validate({"model": model, "train": settings}), folder)


def losses_of(trainer: Any) -> list[float]:
    """Train; the losses of the steps."""
    found: list[float] = []
    trainer.observer.on_step = lambda step: found.append(step.loss)
    trainer.run()
    return found


def synchronise() -> None:
    import torch

    if not DRY:
        torch.cuda.synchronize()


def seconds_of(task: Callable[[], object], times: int = 10) -> float:
    """Mean seconds of a call, after a first."""
    task()
    synchronise()
    started = time.perf_counter()
    for _ in range(times):
        task()
    synchronise()
    return (time.perf_counter() - started) / times


def machine() -> Iterator[Row]:
    """Versions; rates of products, of copies, and of reading weights for one vector."""
    import torch

    device = runtime().device
    yield {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": "cpu" if DRY else torch.cuda.get_device_name(device),
        "python": sys.version.split()[0],
    }
    width = 256 if DRY else 8192
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
        taken = seconds_of(partial(torch.mm, a, b))
        yield {"product": str(dtype), "flops": 2 * width**3 / taken}
    yield {"copy_bytes_a_second": 2 * a.nbytes / seconds_of(a.clone)}
    yield {"read_bytes_a_second": bandwidth()}


def bandwidth() -> float:
    """Bytes per second that a matrix-vector product reads, of a matrix beyond any cache."""
    import torch

    rows = 1 << (10 if DRY else 15)
    matrix = torch.ones(rows, rows, device=runtime().device, dtype=torch.bfloat16)
    vector = torch.ones(rows, device=matrix.device, dtype=torch.bfloat16)
    return matrix.nbytes / seconds_of(partial(torch.mv, matrix, vector))


def exactness() -> Iterator[Row]:
    """Loss and gradients on the GPU, in fp32 and bf16, and on the CPU, beside float64."""
    import torch
    from torch.nn import functional as F

    from pipeline.model.gpt import GPT, GPTConfig, initialise
    from pipeline.model.objective import Objective
    from pipeline.model.runtime import Runtime
    from pipeline.params import Train

    small = {**shape("124M"), "n_layer": 2}
    config = GPTConfig(**small, context_length=64, dropout=0.0)
    model = GPT(config)
    initialise(model, "gpt2", 1)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(config.vocab_size, (2, 65), generator=generator)

    def gradients(of: GPT) -> torch.Tensor:
        found = [p.grad for p in of.parameters() if p.grad is not None]
        return torch.cat([each.flatten().double().cpu() for each in found])

    wide = GPT(config).double()
    wide.load_state_dict(model.state_dict())
    logits = wide(tokens[:, :-1])
    reference = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    reference.backward()
    expected = gradients(wide)
    cpu, device = torch.device("cpu"), runtime().device
    for where, bf16, bound in ((cpu, False, 1e-5), (device, False, 1e-4), (device, True, 3e-2)):
        here, at = Runtime(where, bf16), GPT(config).to(where)
        at.load_state_dict(model.state_dict())
        inputs, targets = tokens[:, :-1].to(where), tokens[:, 1:].to(where)
        with here.autocast():
            loss = Objective(at, Train(compile=False), where).train()(inputs, targets)
        loss.backward()
        loss_error = abs(loss.item() - reference.item()) / reference.item()
        error = ((gradients(at) - expected).norm() / expected.norm()).item()
        yield {
            "device": where.type,
            "precision": here.precision,
            "loss_error": loss_error,
            "gradient_error": error,
            "ok": max(loss_error, error) < bound,
        }


def compiled() -> Iterator[Row]:
    """Compiled against eager: 20 steps after an evaluation whose batches are not whole."""
    import torch
    from torch._dynamo.utils import counters

    steps = 20
    found = {}
    counters.clear()
    with tempfile.TemporaryDirectory() as folder:
        for compiles in (False, True):
            settings = {"batch_size": 8, "max_steps": steps, "precision": "fp32"}
            trainer = job(Path(folder), model=SMALL, compile=compiles, **settings).trainer(
                observer()
            )
            started = time.perf_counter()
            found[compiles] = losses_of(trainer)
            yield {"compile": compiles, "seconds": time.perf_counter() - started}
    errors = [abs(a - b) / a for a, b in zip(found[False], found[True], strict=True)]
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    yield {
        "largest_difference": max(errors),
        "graphs": graphs,
        "graph_breaks": breaks,
        "ok": len(errors) == steps and max(errors) < 1e-3 and graphs == 3 and not breaks,
    }
    torch._dynamo.reset()


def observer() -> Any:
    from pipeline.training.events import NullObserver

    return NullObserver()


def one_step(trainer: Any) -> Callable[[], None]:
    """A training step, always on the same batch."""
    batch = next(next(trainer.reader.epoch(0)))

    def step() -> None:
        trainer.reset_gradients()
        trainer.backpropagate(trainer.calculate_loss(batch))
        trainer.update_weights()

    return step


def unsynchronised() -> Iterator[Row]:
    """Compiled steps, clipped, in which whatever waits for the device is an error."""
    import torch

    from pipeline.model import loss

    guarded = range(3, 10)
    row: Row = {"steps": len(guarded), "ok": True}
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(loss, "CUDA_CHUNK", 2048),  # so that chunks are summed
    ):
        settings = {"batch_size": 8, "max_steps": 12, "eval_every": 10**6, "grad_clip": 1.0}
        trainer = job(Path(folder), model={**SMALL, "dropout": 0.1}, **settings).trainer(observer())
        begin = trainer.reset_gradients

        def reset_gradients() -> None:
            if not DRY:
                torch.cuda.set_sync_debug_mode("error" if trainer.step in guarded else "default")
            begin()

        trainer.reset_gradients = reset_gradients
        try:
            trainer.run()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            row |= {"step": trainer.step, "waits": f"{frame.filename}:{frame.lineno}", "ok": False}
        finally:
            if not DRY:
                torch.cuda.set_sync_debug_mode("default")
    yield row


def attention() -> Iterator[Row]:
    """The kernels of attention in a training step; cuDNN's on Hopper and on data centre Blackwell.

    There PyTorch prefers them itself, from cuDNN 9.15.1 on.
    """
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import profile

    with tempfile.TemporaryDirectory() as folder:
        step = one_step(
            job(Path(folder), model=SMALL, batch_size=8, compile=False).trainer(observer())
        )
        step()
        with profile() as profiler:
            step()
            synchronise()
    on_device = DeviceType.CPU if DRY else DeviceType.CUDA
    names = {event.name for event in profiler.events() if event.device_type == on_device}
    kernels = sorted(name for name in names if re.search("attention|flash|fmha|sdpa", name, re.I))
    row: Row = {"cudnn": torch.backends.cudnn.version(), "kernels": kernels}
    if not DRY and torch.cuda.get_device_capability() in ((9, 0), (10, 0)):
        row["ok"] = bool(kernels) and any("cudnn" in kernel for kernel in kernels)
    yield row


def ablations() -> Iterator[Row]:
    """Tokens per second of training steps, each choice made for GPUs taken back by itself."""
    import torch

    from pipeline.model import gpt, loss, objective

    nowhere: set[str] = set()
    here = {runtime().device.type}
    batch_size, steps = (2, 1) if DRY else (64, 10)  # as training-124M, whose graphs are kept
    without: dict[str, Any] = {
        "nothing": (),
        "bf16 residual stream": patch.object(gpt, "NARROW_ON", nowhere),
        "blocks compiled together": patch.object(objective, "WHOLE_ON", nowhere),
        "chunks of 8,192 rows": patch.object(loss, "CUDA_CHUNK", 2048),
        "sums in the head's product": patch.object(loss, "SUMS_IN_PRODUCT", nowhere),
        "fused softmax": patch.object(loss, "_compiled_softmax", lambda: loss._softmax),
        "cuDNN's attention": cudnn_left_out(),
        "leaving out the gradient's norm": {"grad_clip": 1e9},
        "nothing, again": (),
    }
    whole = 0.0
    for name, change in without.items():
        torch._dynamo.reset()
        loss._compiled_softmax.cache_clear()
        settings: Row = {**change} if isinstance(change, dict) else {}
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.object(gpt, "NARROW_ON", here),
            patch.object(objective, "WHOLE_ON", here),
            nullcontext() if isinstance(change, dict | tuple) else change,
        ):
            compiles = not DRY or not whole  # a dry run once, to be quick
            settings |= {"batch_size": batch_size, "eval_every": 10**6, "compile": compiles}
            trainer = job(Path(folder), **settings).trainer(observer())
            if not DRY:
                torch.cuda.reset_peak_memory_stats()
            step = one_step(trainer)
            started = time.perf_counter()
            step()
            synchronise()
            first = time.perf_counter() - started  # compiles
            speed = batch_size * context() / seconds_of(step, steps)
            peak = None if DRY else torch.cuda.max_memory_allocated()
        whole = whole or speed
        yield {
            "without": name,
            "tokens_a_second": speed,
            "times_all": speed / whole,
            "first_step": first,
            "gpu_memory": peak,
        }
        del trainer, step
        gc.collect()  # the compiled model holds itself
    torch._dynamo.reset()


@contextmanager
def cudnn_left_out() -> Iterator[None]:
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


def repeated() -> Iterator[Row]:
    """The same training twice, as it comes and with deterministic algorithms only: equal bits?"""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with tempfile.TemporaryDirectory() as folder:
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            ends = []
            for _ in range(2):
                settings = {"batch_size": 8, "max_steps": 10}
                trainer = job(Path(folder), model={**SMALL, "dropout": 0.1}, **settings).trainer(
                    observer()
                )
                losses = losses_of(trainer)
                ends.append((losses, trainer.history, trainer.last_weights.tensors))
            (losses, history, weights), (others, other_history, other_weights) = ends
            same = all(torch.equal(tensor, other_weights[name]) for name, tensor in weights.items())
            row: Row = {"deterministic": deterministic, "equal_losses": losses == others}
            row |= {"equal_evaluations": history == other_history, "equal_weights": same}
            if deterministic:
                row["ok"] = same and losses == others and history == other_history
            yield row
    torch.use_deterministic_algorithms(False)


def resumed() -> Iterator[Row]:
    """A training that goes on from the checkpoint between two evaluations, beside a whole one."""
    from pipeline.training.checkpointer import Checkpointer

    settings = {"batch_size": 8, "max_steps": 12, "checkpoint_every": 7}

    class Killed(Exception):
        pass

    with tempfile.TemporaryDirectory() as folder:
        tokens, checkpoints = Path(folder, "tokens"), Path(folder, "checkpoints")
        whole = losses_of(job(tokens, model=SMALL, **settings).trainer(observer()))
        with Checkpointer(checkpoints, notify=print) as keeper:
            trainer = job(tokens, model=SMALL, **settings).trainer(observer(), keeper)

            def die(step: Any) -> None:
                if step.step == 9:
                    keeper.wait()
                    raise Killed

            trainer.observer.on_step = die
            with suppress(Killed):
                trainer.run()
            trainer = job(tokens, model=SMALL, **settings).trainer(observer(), keeper)
            rest = losses_of(trainer)
    errors = [abs(a - b) / a for a, b in zip(whole[7:], rest, strict=True)]
    yield {"equal": whole[7:] == rest, "largest_difference": max(errors), "ok": max(errors) < 1e-3}


def training(size: str, batch_size: int) -> Iterator[Row]:
    """Tokens per second, MFU and peak memory beside nanoGPT's loop, in turns."""
    import train_throughput

    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder, "numbers.json")
        arguments = ["--size", "tiny" if DRY else size, "--device", "cpu" if DRY else "cuda"]
        arguments += ["--batch-size", "2" if DRY else str(batch_size), "--context", str(context())]
        arguments += ["--dropout", "0", "--rounds", "1", "--steps", "2" if DRY else "20"]
        arguments += ["--only", "nanoGPT, bf16", "Lossbook, bf16", "--json", str(numbers)]
        if DRY:
            arguments.append("--one-process")
        with redirect_stdout(None):
            train_throughput.main(arguments)
        found = json.loads(numbers.read_text(encoding="utf-8"))
    for name, row in found["contenders"].items():
        yield {"size": size, "batch_size": batch_size, "contender": name, **row}


def stalls() -> Iterator[Row]:
    """What evaluations and checkpoints take from a training at the defaults' pace."""
    from pipeline.training.checkpointer import Checkpointer

    taken = {"evaluate": 0.0, "save_checkpoint": 0.0}
    steps = 22 if DRY else 61
    defaults = {"batch_size": 2, "precision": "auto", "max_steps": steps}
    book = {"context_length": 32 if DRY else 256, "dropout": 0.1}
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpointer(Path(folder, "checkpoints"), notify=print) as keeper,
    ):
        trainer = job(Path(folder), model=book, **defaults).trainer(observer(), keeper)
        begin = trainer.reset_gradients
        started: list[float] = []

        def reset_gradients() -> None:
            if trainer.step == 1:  # compiled, and evaluated once
                synchronise()
                taken.update(dict.fromkeys(taken, 0.0))
                started.append(time.perf_counter())
            begin()

        def timed(name: str, method: Callable[..., None], *arguments: Any) -> None:
            synchronise()
            began = time.perf_counter()
            method(*arguments)
            synchronise()
            taken[name] += time.perf_counter() - began

        trainer.reset_gradients = reset_gradients
        for name in taken:
            setattr(trainer, name, partial(timed, name, getattr(trainer, name)))
        trainer.run()
        whole = time.perf_counter() - started[0]
    shares = {f"{name}_share": seconds / whole for name, seconds in taken.items()}
    yield {"steps": steps - 1, "seconds": whole, **shares}


def evaluation() -> Iterator[Row]:
    """Tokens per second of evaluations beside those of training steps."""
    from pipeline.model.perplexity import total_nats

    batch_size = 2 if DRY else 32
    with tempfile.TemporaryDirectory() as folder:
        settings = {"batch_size": batch_size, "max_steps": 100, "eval_every": 10**6}
        trainer = job(Path(folder), **settings).trainer(observer())

        def evaluate() -> None:
            with trainer.runtime.autocast():
                windows = range(4 * batch_size)
                model = trainer.working.model
                total_nats(model, trainer.train_windows, batch_size, windows, pads=True)

        learned = batch_size * context() / seconds_of(one_step(trainer), 2 if DRY else 10)
        evaluated = 4 * batch_size * context() / seconds_of(evaluate, 1 if DRY else 3)
    yield {"training": learned, "evaluation": evaluated, "times": evaluated / learned}


def automatic() -> Iterator[Row]:
    """`train.batch_size: auto`: what it finds, how long that takes, and a step with it."""
    import torch

    from pipeline.model.gpt import GPT, GPTConfig
    from pipeline.model.objective import Objective
    from pipeline.params import Train
    from pipeline.training.batch_size import largest_batch
    from pipeline.training.optim import build_optimizer

    started = time.perf_counter()
    if DRY:
        model = GPT(GPTConfig(**shape("124M"), context_length=context()))
        objective = Objective(model, Train(), torch.device("cpu"))
        found = largest_batch(objective, build_optimizer(model, Train()), runtime(), limit=3)
        yield {"batch_size": found, "seconds": time.perf_counter() - started, "ok": found == 3}
        return
    with tempfile.TemporaryDirectory() as folder:
        job(Path(folder), batch_size=256)  # writes the tokens
        chosen = job(Path(folder), batch_size="auto", max_steps=3)
        size = chosen.params.train.batch_size
        yield {"batch_size": size, "seconds": time.perf_counter() - started}
        losses_of(chosen.trainer(observer()))
        peak = torch.cuda.max_memory_allocated() / torch.cuda.get_device_properties(0).total_memory
        yield {"batch_size": size, "peak_share_of_memory": peak, "ok": peak > 0.5}


def decoding() -> Iterator[Row]:
    """Greedy decoding beside what reading the weights would allow, and beside recomputing."""
    import torch
    from decode import GREEDY, PROMPT, bytes_per_token, random_model

    from pipeline.generation.decode import Decoder

    limit, tokens = bandwidth(), 16 if DRY else 200
    for size, precision in (("124M", "fp32"), ("124M", "bf16"), ("1558M", "bf16")):
        arguments = Namespace(size="tiny" if DRY else size, precision=precision)
        model = random_model(arguments).to(runtime().device)
        decoder = Decoder(model).prepare()

        def decode(count: int = tokens, decoder: Decoder = decoder) -> Any:
            return decoder.generate([PROMPT], [GREEDY], count, end_of_text=-1)

        (found,) = decode()
        synchronise()
        started = time.perf_counter()
        decode()
        synchronise()
        speed = tokens / (time.perf_counter() - started)
        said, agree = list(PROMPT), 0
        with torch.no_grad():
            for token in found.tokens[:32]:
                row = torch.tensor([said], device=runtime().device)
                agree += int(model(row)[0, -1].argmax()) == token
                said.append(token)
        row_: Row = {"size": size, "precision": precision, "tokens_a_second": speed}
        row_ |= {"share_of_bandwidth": speed * bytes_per_token(model) / limit}
        row_ |= {"as_recomputed": agree, "of": len(said) - len(PROMPT)}
        if precision == "fp32":
            row_["ok"] = agree == row_["of"]
        yield row_
        del model, decoder, decode


def ranks() -> Iterator[Row]:
    """A process group of one rank (NCCL) through DDP and FSDP2, beside none."""
    import torch
    import torch.distributed as dist

    from pipeline.distributed.base import Parallel
    from pipeline.distributed.ddp import Replicated
    from pipeline.distributed.fsdp import Sharded, shard
    from pipeline.distributed.world import ALONE
    from pipeline.model.gpt import GPT, GPTConfig, initialise
    from pipeline.model.objective import Objective
    from pipeline.params import Train
    from pipeline.training.optim import build_optimizer

    here = runtime("fp32")
    dist.init_process_group(
        "gloo" if DRY else "cpu:gloo,cuda:nccl",
        store=dist.HashStore(),
        rank=0,
        world_size=1,
        device_id=None if DRY else here.device,
    )
    settings = Train(compile=False)
    config = GPTConfig(**{**shape("124M"), "n_layer": 2}, context_length=64, dropout=0.0)
    tokens = torch.randint(config.vocab_size, (2, 65), generator=torch.Generator().manual_seed(2))
    tokens = tokens.to(here.device)
    expected: list[float] = []
    for kind in ("Parallel", "Replicated", "Sharded"):
        model = GPT(config)
        initialise(model, "gpt2", 1)
        model.to(here.device)
        if kind == "Sharded":
            shard(model, here, ALONE)
        objective = Objective(model, settings, here.device)
        parallel: Parallel
        if kind == "Sharded":
            parallel = Sharded(ALONE, objective)
        else:
            is_ddp = kind == "Replicated"
            parallel = Replicated(ALONE, objective) if is_ddp else Parallel(ALONE, model, objective)
        optimizer = build_optimizer(model, settings)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            with parallel.micro_batch(is_last=True):
                loss = parallel.objective(tokens[:, :-1], tokens[:, 1:])
                loss.backward()
            parallel.finish_gradients()
            optimizer.step()
            with torch.no_grad(), parallel.evaluation():
                losses.append(objective(tokens[:, :-1], tokens[:, 1:]).item())
        expected = expected or losses
        difference = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
        norm = float(parallel.gradient_norm())
        learned = losses[-1] < losses[0]
        row: Row = {"kind": kind, "largest_difference": difference, "gradient_norm": norm}
        yield {**row, "ok": learned and difference < 1e-4}
    dist.destroy_process_group()


SECTIONS: dict[str, Callable[[], Iterator[Row]]] = {
    section.__name__: section
    for section in (
        *(machine, exactness, ranks, repeated, resumed, compiled, unsynchronised, attention),
        *(automatic, decoding, stalls, evaluation),
    )
} | {
    "training-124M": partial(training, "124M", 64),
    "ablations": ablations,
    "training-774M": partial(training, "774M", 16),
    "training-355M": partial(training, "355M", 32),
}

if __name__ == "__main__":
    if DRY and "--section" in sys.argv:
        import torch

        torch.set_num_threads(1)
        # The compiler's work without its kernels: CXX is looked for, and not called.
        os.environ["CXX"] = sys.executable
        torch.compile = partial(torch.compile, backend="aot_eager")
    sys.exit(main())
