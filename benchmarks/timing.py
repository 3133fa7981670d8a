"""CPU-seconds of a call: on machines that others share, the clock says little."""

import time
from collections.abc import Callable


def cpu_seconds(repeats: int, call: Callable[..., object], *args: object, **named: object) -> float:
    """The least of some runs: what else the machine does only adds."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call(*args, **named)
        found.append(time.process_time() - start)
    return min(found)
