"""What calls need, imported with the package where calls are about to come: their first result does not wait for it."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

CALLS = (
    "attndsl.api", "attndsl.frontend.compile", "attndsl.ir.bind", "attndsl.ir.simplify", "attndsl.runtime.entry",
    "attndsl.runtime.given", "attndsl.runtime.registry", "attndsl.schedule.build", "attndsl.schedule.causal",
)  # fmt: skip
TRITON = ("attndsl.runtime.triton.kernel", "attndsl.runtime.triton.toolchain")
LAUNCHES = ("triton.compiler", "triton.experimental.gluon.nvidia.hopper")
"""What Triton 3.6 itself imports at its first launch."""


def preload() -> None:
    """Import what every call does, and with a torch that has CUDA what calls on a GPU do; torch is imported already."""
    for name in CALLS:
        import_module(name)
    if getattr(sys.modules["torch"].version, "cuda", None) and find_spec("triton") is not None:
        # the call that needs the backend says what is wrong with it
        with suppress(ImportError):
            for name in (*TRITON, *(LAUNCHES if "triton" in sys.modules else ())):
                import_module(name)
