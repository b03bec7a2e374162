"""The CPU backend: executes a plan tile by tile with torch operations."""

from attndsl.runtime.cpu.kernel import CpuKernel

__all__ = ["CpuKernel"]
