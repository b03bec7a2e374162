"""The Triton backend: generated kernels, their tables, and how they are launched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attndsl.runtime.triton.kernel import TritonKernel

__all__ = ["TritonKernel"]


def __getattr__(name: str) -> Any:
    """Configurations and what is known of them are asked for without torch; the kernel imports it."""
    if name != "TritonKernel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from attndsl.runtime.triton.kernel import TritonKernel

    return TritonKernel
