"""The Triton backend: generated kernels, their tables, and how they are launched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attndsl.runtime.triton.kernel import TritonKernel
    from attndsl.runtime.triton.kernels import kernel_for

__all__ = ["TritonKernel", "kernel_for"]


def __getattr__(name: str) -> Any:
    """Configurations and what is known of them are asked for without torch; kernels import it."""
    if name == "TritonKernel":
        from attndsl.runtime.triton.kernel import TritonKernel

        return TritonKernel
    if name == "kernel_for":
        from attndsl.runtime.triton.kernels import kernel_for

        return kernel_for
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
