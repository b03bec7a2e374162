"""The kernel of an attention: which parts of it run before and after its tiles."""

from __future__ import annotations

import torch

from attndsl.ir.attention import Attention
from attndsl.ir.finished import finished
from attndsl.ir.vector_sums import VectorSums, vector_sums
from attndsl.runtime.call import Call
from attndsl.runtime.triton.finished import FinishedKernel
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.projected import ProjectedKernel, projected_kernel
from attndsl.runtime.triton.staged import StagedKernel
from attndsl.runtime.triton.summed import SummedKernel

AnyKernel = TritonKernel | StagedKernel | ProjectedKernel | SummedKernel | FinishedKernel
"""What runs an attention on this backend."""


def kernel_for(attention: Attention) -> AnyKernel:
    """The kernel of an attention on this backend."""
    found = finished(attention)
    inner = _summed(attention if found is None else found.inner)
    return inner if found is None else FinishedKernel(attention, found, inner)


def _summed(attention: Attention) -> TritonKernel | StagedKernel | ProjectedKernel | SummedKernel:
    found = vector_sums(attention)
    return SummedKernel(attention, found) if isinstance(found, VectorSums) else projected_kernel(attention)


def summing_of(kernel: AnyKernel, call: Call) -> tuple[TritonKernel | StagedKernel, Call]:
    """The kernel that torch computes nothing before or after, and its call."""
    kernel, call = _last_of(kernel, call)
    if isinstance(kernel, ProjectedKernel):
        kernel, call = kernel.inner, kernel.projected(call)
    return kernel, call


def tiles_of(kernel: AnyKernel, call: Call, *, shaped: bool = False) -> tuple[TritonKernel, Call]:
    """The kernel that runs tiles at last, and its call; `shaped`: of the right shapes, with nothing computed for it."""
    with torch.no_grad():
        kernel, call = _last_of(kernel, call, shaped=shaped)
        if isinstance(kernel, ProjectedKernel):
            kernel, call = kernel.inner, kernel.shaped(call) if shaped else kernel.projected(call)
        if isinstance(kernel, StagedKernel):
            kernel, call = kernel.inner, kernel.shaped(call) if shaped else kernel.final(call)
        return kernel, call


def _last_of(
    kernel: AnyKernel, call: Call, *, shaped: bool = False
) -> tuple[TritonKernel | StagedKernel | ProjectedKernel, Call]:
    """The kernel that runs after sums of vectors and before an output clause, and its call."""
    if isinstance(kernel, FinishedKernel):
        kernel, call = kernel.inner, kernel.shaped(call)
    if isinstance(kernel, SummedKernel):
        kernel, call = kernel.inner, kernel.shaped(call) if shaped else kernel.final(call)
    return kernel, call
