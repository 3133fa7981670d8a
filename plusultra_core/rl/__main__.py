"""`python -m plusultra_core.rl JOB.json`: one job of this station in this process."""

from plusultra_core.job import run_child
from plusultra_core.rl.tasks import TASKS

if __name__ == "__main__":
    raise SystemExit(run_child(TASKS))
