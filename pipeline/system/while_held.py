"""Run a command for as long as whoever started this holds its standard input open.

    python -m pipeline.system.while_held COMMAND...

The kernel closes the input when its holder is gone, however it went: a closed terminal, `kill -9`.
The whole process group is then ended, so it is to be one of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 5.0  # seconds between asking and killing


def main(command: list[str]) -> int:
    """Run the command; its exit status, the shell's 128 + N for a signal."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child gets it too, and ends us by its end
    threading.Thread(target=_end_with_input, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _end_with_input() -> None:
    while os.read(0, 1 << 16):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
