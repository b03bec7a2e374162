"""Compiled kernels, launched without Triton's look at every argument, which takes longer than the launch.

Whoever launches one again vouches that its arguments are like those of the first launch: of the same types, with
pointers as much aligned. Numbers are not specialised.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


class Ready:
    """A compiled kernel and its number of programs."""

    def __init__(self, compiled: Any, programs: int) -> None:
        from triton import knobs

        self.compiled, self.programs = compiled, programs
        self._hooks: Any = knobs.runtime
        self._scratch = getattr(compiled.metadata, "global_scratch_size", 1) > 0

    def run(self, values: Sequence[Any], device: int, stream: int) -> None:
        """Launch on a stream of the current device, whose index is `device`. Pointers are tensors or addresses."""
        if self._scratch:
            allocate_on(device)
        compiled, hooks = self.compiled, self._hooks
        if _called(hooks.launch_enter_hook) or _called(hooks.launch_exit_hook):
            compiled[self.programs, 1, 1](*values)
            return
        compiled.run(
            self.programs, 1, 1, stream, compiled.function, compiled.packed_metadata, None, None, None, *values
        )  # fmt: skip


def _called(hook: Any) -> bool:
    """Whether a profiler, say, listens."""
    return bool(getattr(hook, "calls", hook))


def raw_stream(device: int) -> int:
    """The current stream of a device, as a number."""
    found: int = torch._C._cuda_getCurrentRawStream(device)
    return found


def allocate_on(device: int) -> None:
    """Have the kernels of this thread that ask for memory get it on this device."""
    import triton

    # a context variable: other threads do not have it
    triton.set_allocator(_allocator(device))


@lru_cache(maxsize=64)
def _allocator(device: int) -> Any:
    place = torch.device("cuda", device)

    def scratch(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device=place)

    return scratch
