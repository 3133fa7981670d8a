"""What Dagster loads."""

import warnings

from dagster._utils.warnings import BetaWarning, PreviewWarning

warnings.filterwarnings("ignore", category=BetaWarning)
warnings.filterwarnings("ignore", category=PreviewWarning)

from plusultra_dagster.build import build_defs  # noqa: E402

defs = build_defs()
