"""Which hosts can be reached, and how long to keep trying."""

from __future__ import annotations

import queue
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from pipeline.errors import Unavailable, UserError
from pipeline.system.http import reason_of
from pipeline.system.text import quoted

REACH = 2.0  # seconds for the hosts to accept a connection, all asked at once
PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080}


@dataclass(frozen=True)
class Patience:
    """How long to keep trying before a file is given up; times in seconds.

    Attributes:
        attempts: in a row, without progress.
        connect: to establish a connection.
        stall: without a byte, or below a trickle.
        longest_wait: that a server may ask for by `Retry-After`.
    """

    attempts: int = 5
    connect: float = 10.0
    stall: float = 20.0
    longest_wait: float = 120.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def wait_after(self, failures: int) -> float:
        """1, 2, 4 … at most 30 seconds, times 0.5 to 1.5, so that many clients spread out."""
        return float(min(2 ** (failures - 1), 30) * (0.5 + self.jitter()))


def web_address(url: str, where: str) -> str:
    """The URL without a slash at its end; `where` names it in errors.

    Raises:
        UserError: it is no URL of a web server.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{where}: {_shown(url)} must start with http:// or https://")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        if re.fullmatch(r"[A-Za-z0-9._:%-]+", host) and parts.port != 0:
            return url.rstrip("/")
    except ValueError:  # of the host's name, its brackets or its port
        pass
    raise UserError(f"{where}: {_shown(url)} is no URL such as https://example.org/gpt2")


def _shown(url: str) -> str:
    """What can be shown of a URL that may be none: not what stands before an `@`."""
    return quoted(re.sub(r"//[^/]*@", "//", url))


def reachable(urls: Sequence[str], seconds: float = REACH) -> list[str]:
    """Those of `urls` whose host, or the proxy on the way there, accepts a connection.

    Looking up a name may hang far longer than any timeout that can be set, so each host is asked
    in a thread of its own that is left behind when the time is over.

    Raises:
        Unavailable: none is; says why, for each.
    """
    answers: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def ask(url: str) -> None:
        try:
            socket.create_connection(_host_and_port(url), timeout=seconds).close()
            answers.put((url, None))
        except (OSError, ValueError) as error:
            answers.put((url, reason_of(error)))

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    reasons: dict[str, str | None] = dict.fromkeys(urls, "no answer")
    deadline = time.monotonic() + seconds
    for _ in urls:
        try:
            url, reason = answers.get(timeout=max(deadline - time.monotonic(), 0.001))
        except queue.Empty:
            break
        reasons[url] = reason
    if all(reasons.values()):
        hosts = {urlsplit(url).hostname: reason for url, reason in reasons.items()}
        raise Unavailable(
            "; ".join(f"{host} cannot be reached ({reason})" for host, reason in hosts.items())
        )
    return [url for url in urls if reasons[url] is None]


def _host_and_port(url: str) -> tuple[str, int]:
    """Host and port to connect to: the URL's own, or its proxy's."""
    proxy = select_proxy(url, get_environ_proxies(url, no_proxy=None))
    if proxy:
        url = proxy if "://" in proxy else f"http://{proxy}"
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"{url} names no host")
    return parts.hostname, parts.port or PORTS.get(parts.scheme, 80)
