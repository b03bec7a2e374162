"""Kernels that compute something first and run those of another attention after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from attndsl.runtime.call import Call
from attndsl.runtime.triton.scan_kernel import LinearKernel
from attndsl.schedule.tiling import Tiling

if TYPE_CHECKING:
    from attndsl.runtime.triton.kernel import TritonKernel
    from attndsl.runtime.triton.projected import ProjectedKernel
    from attndsl.runtime.triton.staged import StagedKernel


K = TypeVar("K", bound="TritonKernel | StagedKernel | ProjectedKernel")


class Wrapping(LinearKernel, ABC, Generic[K]):
    """What a kernel says of its calls as `inner`, the one that runs last, knows it."""

    inner: K

    @abstractmethod
    def shaped(self, call: Call) -> Call:
        """The call of `inner` with nothing computed for it: what does not depend on elements of tensors is right."""

    def settings(self) -> Hashable:
        """As `Kernel.settings`."""
        return self.inner.settings()

    def tiling(self, call: Call) -> Tiling | None:
        """As `Kernel.tiling`."""
        return self.inner.tiling(self.shaped(call))

    def locates(self, call: Call) -> bool:
        """As `LocatingKernel.locates`."""
        return self.inner.locates(self.shaped(call))

    def few(self, call: Call) -> bool:
        """As `TritonKernel.few`."""
        return self.inner.few(self.shaped(call))
