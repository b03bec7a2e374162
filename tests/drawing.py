"""How many examples random tests draw, and from which seed."""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, Phase, settings

SEED = int(os.environ.get("ATTNDSL_SEED") or random.SystemRandom().randrange(2**31))
os.environ["ATTNDSL_SEED"] = str(SEED)  # for the processes that run tests side by side
FACTOR = int(os.environ.get("ATTNDSL_FUZZ") or 1)
"""`ATTNDSL_FUZZ=50` draws 50 times as many examples; `ATTNDSL_SEED=n` draws those of an earlier run."""


def drawn(examples: int) -> settings:
    """Settings of a random test that draws this many examples in an ordinary run."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
