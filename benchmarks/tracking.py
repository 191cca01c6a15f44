"""What recording a step costs its training: Lossbook beside MLflow itself.

Each runs against a fresh SQLite store, in a process of its own, between the optimizer steps of a
GPT of two layers: as short as a real step gets. Medians of the call and the slowest in a hundred;
of the whole time, the share that the calls took from the training thread, and the processor time
of all other threads and processes beside it; how many points the store has in the end.

MLflow is imported, and its store open, before the clock starts.

    python benchmarks/tracking.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

POINTS = {"lossbook": 2000, "mlflow, asynchronous": 2000, "mlflow, synchronous": 300}
METRICS = ("train/loss", "train/learning_rate", "train/tokens_per_second")

Log = Callable[[dict[str, float], int], object]


def main() -> None:
    print(f"one call of log_metrics with {len(METRICS)} metrics, in microseconds")
    headings = ("step, ms", "median", "p99", "share", "beside", "arrived")
    print(f"{'':24}" + "".join(f"{heading:>10}" for heading in headings))
    for name, count in POINTS.items():
        result = measured_apart(name)
        times, seconds = result["times"], result["seconds"]
        median, high = statistics.median(times), sorted(times)[int(0.99 * len(times))]
        print(
            f"{name:24}{seconds / count * 1e3:10.2f}{median * 1e6:10.1f}{high * 1e6:10.1f}"
            f"{sum(times) / seconds:10.2%}{result['beside'] / seconds:10.2%}"
            f"{result['arrived']:10.1%}"
        )


def measured_apart(name: str) -> dict[str, Any]:
    """Run one of them in a new process and an empty repository."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DVC_ROOT": folder, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, __file__, name]
        done = subprocess.run(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str) -> dict[str, Any]:
    """Log all points, timing each call; what came of them."""
    if name == "lossbook":
        return with_lossbook()
    return with_mlflow(synchronous=name.endswith(", synchronous"))


def timed(log: Log, count: int) -> dict[str, Any]:
    train, times = small_training(), []
    for _ in range(20):
        train()
    begin, processor = time.perf_counter(), processor_time_beside()
    for step in range(count):
        metrics = dict.fromkeys(METRICS, train())
        start = time.perf_counter()
        log(metrics, step)
        times.append(time.perf_counter() - start)
    return {
        "times": times,
        "seconds": time.perf_counter() - begin,
        "beside": processor_time_beside() - processor,
    }


def processor_time_beside() -> float:
    """Seconds of all threads but this one, and of the processes that this one has started."""
    import psutil

    children = [child.cpu_times() for child in psutil.Process().children()]
    threads = time.process_time() - time.thread_time()
    return threads + sum(times.user + times.system for times in children)


def small_training() -> Callable[[], float]:
    """A function that makes one optimizer step on one thread, and gives its loss."""
    import torch
    from torch.nn.functional import cross_entropy

    from pipeline.model.gpt import GPT, GPTConfig

    torch.set_num_threads(1)
    model = GPT(GPTConfig(vocab_size=256, n_layer=2, n_head=2, n_embd=64, context_length=64))
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(0, 256, (2, 65))

    def train() -> float:
        logits = model(tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def with_lossbook() -> dict[str, Any]:
    from pipeline.tracking.cursor import CURSOR
    from pipeline.tracking.mlflow.store import connect
    from pipeline.tracking.run import start_run

    count = POINTS["lossbook"]
    with start_run("bench", experiment="bench") as run:
        while not (run.folder / CURSOR).exists():
            time.sleep(0.1)
        result = timed(lambda metrics, step: run.log_metrics(metrics, step=step), count)
    store = connect()
    found = store.find_run(run.key)
    assert found is not None
    points = store.client.get_metric_history(found.info.run_id, METRICS[0])
    return {**result, "arrived": len(points) / count}


def with_mlflow(synchronous: bool) -> dict[str, Any]:
    import mlflow

    from pipeline.tracking.mlflow.store import connect

    store = connect()  # the same store, in the same journal mode
    mlflow.set_tracking_uri(store.uri)
    count = POINTS["mlflow, synchronous" if synchronous else "mlflow, asynchronous"]

    def log(metrics: dict[str, float], step: int) -> None:
        mlflow.log_metrics(metrics, step=step, synchronous=synchronous)

    with mlflow.start_run(experiment_id=store.experiment_id("bench")) as run:
        result = timed(log, count)
        mlflow.flush_async_logging()
    points = store.client.get_metric_history(run.info.run_id, METRICS[0])
    return {**result, "arrived": len(points) / count}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
