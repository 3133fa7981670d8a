"""`python -m plusultra_core.training JOB.json`: one training job in this process."""

from plusultra_core.job import run_child
from plusultra_core.training.tasks import TASKS

if __name__ == "__main__":
    raise SystemExit(run_child(TASKS))
