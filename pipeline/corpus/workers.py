"""Where partitioned work is done: threads of this process, Dask's processes, or a Dask cluster.

Work is a function and a stream of small descriptions of its parts; results come back in the
parts' order, with a bounded number of them under way, so that neither the order in which workers
finish nor their number shows in what is written. A part whose worker dies at it is done again by
another one; what is done stays done.

`scheduler` is `prepare.scheduler`: `threads`; `processes`, a local Dask cluster of one process a
core; the address of a cluster, such as `tcp://10.0.0.5:8786`; or `auto`, which is `threads` until
the corpus is so large that starting processes is nothing. The workers of a cluster must have
Lossbook installed and see the corpus under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pipeline.errors import UserError
from pipeline.system.text import quoted

if TYPE_CHECKING:  # Dask takes a second to import, and threads need none
    from distributed import Client
    from distributed import Future as Remote

LARGE = 1 << 30  # bytes of text from which `auto` means processes
CONNECT = 10  # seconds to find a cluster
DEATHS = 3  # workers that a part may lose before it is held to be the one that kills them

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """A pool and how many of its workers there are."""

    pool: Executor
    number: int

    def in_order(
        self, function: Callable[[Part], Result], parts: Iterable[Part]
    ) -> Iterator[Result]:
        """`function` of each part, in the parts' order, some parts ahead of the reader."""
        ahead = 2 * self.number
        running: deque[Future[Result]] = deque()
        try:
            for part in parts:
                running.append(self.pool.submit(function, part))
                if len(running) > ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


class Cluster(Executor):
    """Dask's workers.

    A result is fetched as soon as it is there, and Dask is left to forget it. Dask's own executor
    has it kept where it was made for as long as its future lives, and made again when that worker
    dies, though it has been fetched.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        result: Future[Any] = Future()
        remote = self._client.submit(function, *args, pure=False, **kwargs)
        remote.add_done_callback(partial(_fetch, result))
        return result


def _fetch(result: Future[Any], remote: Remote) -> None:
    from distributed import KilledWorker

    if not result.set_running_or_notify_cancel():
        return
    try:
        result.set_result(remote.result())
    except KilledWorker as error:
        message = (
            f"prepare.scheduler: {error.allowed_failures + 1} workers died at the same part, the "
            f"last at {error.last_worker.address}; their logs say of what, often too little memory"
        )
        result.set_exception(UserError(message))
    except BaseException as error:  # whatever the worker raised
        result.set_exception(error)


@contextmanager
def start_workers(scheduler: str, size: int = 0, threads: int | None = None) -> Iterator[Workers]:
    """The workers that `scheduler` names, for a corpus of `size` bytes.

    Raises:
        UserError: no cluster answers at the address.
    """
    if scheduler == "auto":
        scheduler = "processes" if size >= LARGE and cores() > 1 else "threads"
    if scheduler == "threads":
        number = threads or cores()
        pool = ThreadPoolExecutor(number, thread_name_prefix="corpus")
        try:
            yield Workers(pool, number)
        finally:
            pool.shutdown(cancel_futures=True)
        return
    with _client(scheduler) as client:
        number = max(sum(client.nthreads().values()), 1)
        yield Workers(Cluster(client), number)


@contextmanager
def _client(scheduler: str) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    if scheduler != "processes":
        _check_address(scheduler)
        try:
            client = Client(scheduler, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"prepare.scheduler: no Dask scheduler answers at {scheduler} "
                f"({type(error).__name__}); `dask scheduler --host ADDRESS` starts one"
            ) from None
        with client:
            yield client
        return
    logging.getLogger("distributed").setLevel(logging.ERROR)  # a worker's death is not ours
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": DEATHS}),
        LocalCluster(
            n_workers=cores(),
            threads_per_worker=1,
            host="127.0.0.1",
            memory_limit=0,  # parts are small, and a worker that is paused helps nobody
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _check_address(address: str) -> None:
    """Refuse what Dask would try for ever.

    Raises:
        UserError: it has no host that can be one, or no port.
    """
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:
        host, port = b"", None
    if not host or len(host) > 253 or port is None:
        raise UserError(
            f"prepare.scheduler: {quoted(address)} must be the address of a Dask scheduler, "
            "such as tcp://10.0.0.5:8786"
        )


def cores() -> int:
    """The cores that this process may use, where the system knows."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
