"""attndsl: write the mask, the score and the weight of an attention; get the kernel."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attndsl.api import AttentionFunction, MissingSpecError, attention, load
    from attndsl.diagnostics.report import SpecError
    from attndsl.runtime.failures import KernelError
    from attndsl.runtime.state import State
    from attndsl.runtime.tuning import tuning
    from attndsl.schedule.plan import Plan

__version__ = "0.1.0"
__all__ = [
    "AttentionFunction",
    "KernelError",
    "MissingSpecError",
    "Plan",
    "SpecError",
    "State",
    "__version__",
    "attention",
    "load",
    "tuning",
]

_HOMES = {
    "AttentionFunction": "attndsl.api",
    "KernelError": "attndsl.runtime.failures",
    "MissingSpecError": "attndsl.api",
    "Plan": "attndsl.schedule.plan",
    "SpecError": "attndsl.diagnostics.report",
    "State": "attndsl.runtime.state",
    "attention": "attndsl.api",
    "load": "attndsl.api",
    "tuning": "attndsl.runtime.tuning",
}


def __getattr__(name: str) -> Any:
    """Names are imported on first use, so that `import attndsl` costs nothing to who does not call."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'attndsl' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "torch" in sys.modules:
    # who has torch is about to call
    from attndsl.runtime.preload import preload

    preload()
    del preload
