"""`python -m plusultra_core.rl JOB.json`."""

import sys

from plusultra_core.job import run_child
from plusultra_core.rl.tasks import TASKS

if __name__ == "__main__":
    sys.exit(run_child(TASKS))
