"""`python -m plusultra_core.rl.curriculum CONFIG`: the stages of a training, before it runs."""

import sys
from pathlib import Path

from plusultra_core import config
from plusultra_core.errors import ConfigError
from plusultra_core.rl.curriculum.risk import TERMS
from plusultra_core.rl.curriculum.stages import as_text, plan, preview
from plusultra_core.rl.train import RLConfig


def main(arguments: list[str]) -> int:
    """Print the table of stages of a config, and how the coefficients of risk go."""
    if len(arguments) != 1:
        print("usage: python -m plusultra_core.rl.curriculum CONFIG", file=sys.stderr)
        return 2
    try:
        cfg = config.load(RLConfig, Path(arguments[0]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    train = cfg.train
    stages = plan(cfg.curriculum.stages, train.num_updates, train.episode_bars, cfg.ppo.gamma)
    print(as_text(preview(stages, train.num_accounts * train.num_steps)))
    for name in TERMS:
        schedule = getattr(cfg.risk, name)
        if not schedule.is_off:
            print(f"risk.{name}: {schedule.kind} from {schedule.start:g} to {schedule.at(1.0):g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
