"""Peak resident memory, as Linux counts it for one program.

    python tests/bench/resident.py ARGUMENT ...

runs `imagic ARGUMENT ...` and prints its peak in MiB. What a parent is told of its child by the system (`ru_maxrss`)
is no less than the parent's own.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path


def peak() -> float:
    """The most memory that this process had, MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    from imagic_cli.cli import ENVIRONMENT, run

    os.environ |= ENVIRONMENT
    with redirect_stdout(sys.stderr):
        code = run(sys.argv[1:])
    sys.stdout.write(f"{peak()}\n")
    sys.exit(code)
