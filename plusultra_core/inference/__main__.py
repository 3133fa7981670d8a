"""`python -m plusultra_core.inference JOB.json`: one job of this station in this process."""

from plusultra_core.inference.tasks import TASKS
from plusultra_core.job import run_child

if __name__ == "__main__":
    raise SystemExit(run_child(TASKS))
