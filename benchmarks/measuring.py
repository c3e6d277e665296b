"""Wall clock, CPU time, and the resident memory of a tree of processes. Linux, by /proc."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

Args = ParamSpec("Args")
Value = TypeVar("Value")


def peak_rss(
    command: Sequence[str],
    *,
    seconds: float = 3600.0,
    environment: Mapping[str, str] | None = None,
) -> tuple[str, int, int]:
    """Run a command; return its output, the peak of its tree's summed RSS, the most processes.

    Args:
        command: What to run.
        seconds: After which it hangs.
        environment: Its variables, instead of this process's.

    Raises:
        SystemExit: It failed, or took longer than `seconds`.
    """
    end = time.monotonic() + seconds
    peak, most = 0, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        while run.poll() is None:
            sizes = [rss(pid) for pid in tree(run.pid)]
            peak, most = max(peak, sum(sizes)), max(most, len(sizes))
            if time.monotonic() > end:
                for pid in tree(run.pid):
                    os.kill(pid, signal.SIGKILL)
                raise SystemExit(f"{' '.join(command)} hung for {seconds:.0f} s")
            time.sleep(0.05)
        if run.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {run.returncode}")
        return run.stdout.read() if run.stdout else "", peak, most


def tree(pid: int) -> list[int]:
    """Return a process and those below it."""
    out, at = [pid], 0
    while at < len(out):
        with contextlib.suppress(OSError):  # it may end meanwhile, and so may any thread
            for task in Path(f"/proc/{out[at]}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    out.extend(int(x) for x in task.read_text().split())
        at += 1
    return out


def rss(pid: int) -> int:
    """Return the resident bytes of a process; 0 when it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def timed(f: Callable[Args, Value], *args: Args.args, **kwargs: Args.kwargs) -> tuple[float, Value]:
    """Return how many seconds a call took, and its value."""
    start = time.perf_counter()
    value = f(*args, **kwargs)
    return time.perf_counter() - start, value


def busy_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have used."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, soft, *_ = map(int, fields)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the CPU seconds of this process and of those it waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def timed_among_others(f: Callable[[], object]) -> tuple[float, float]:
    """Return how many seconds a call took, and what share of all cores others used meanwhile."""
    busy, own = busy_seconds(), own_seconds()
    seconds, _ = timed(f)
    others = busy_seconds() - busy - (own_seconds() - own)
    return seconds, max(0.0, others) / seconds / (os.cpu_count() or 1)


def load() -> str:
    """Return the load average, to be printed beside times."""
    return " ".join(f"{x:.1f}" for x in os.getloadavg())
