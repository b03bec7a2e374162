"""The Triton backend: generated kernels, their tables, and how they are launched."""

from attndsl.runtime.triton.kernel import TritonKernel

__all__ = ["TritonKernel"]
