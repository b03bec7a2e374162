"""Calls as on a GPU, on CPU tensors and without one: kernels are compiled as their launches would, and nothing runs.

What comes out of such a call is not a result; what was compiled for it is what a GPU would run, gradients of inputs and
tables that are made on the device included.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import attndsl.runtime.entry
import attndsl.runtime.runner
import attndsl.runtime.scans
from attndsl.runtime.cache.key import Machine
from attndsl.runtime.triton import backward, kernel, launch, locate, scan_launch
from attndsl.runtime.triton.compiled import our_cache
from attndsl.runtime.triton.config import stages_that_fit

H200 = Machine("NVIDIA H200", 90, 132, 227 << 10)


@dataclass(frozen=True)
class Kernel:
    """A kernel that a call compiled: its function, its options, and what Triton made of it."""

    function: Any
    options: dict[str, int]
    built: Any

    @property
    def name(self) -> str:
        return str(self.function.fn.__name__)


Compile = Callable[[Any, tuple[Any, ...], dict[str, int]], Any]


@contextmanager
def gpu(done: Callable[[Kernel], None], machine: Machine = H200) -> Generator[None]:
    """Calls with CPU tensors within compile the kernels that they would run on `machine`; `done` is told of each."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        def get_current_target(self) -> Any:
            return GPUTarget("cuda", machine.capability, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, _device: int) -> int:
            return 0

    as_is: Any = JITFunction.run

    def compiled(function: Any, *values: Any, grid: Any, warmup: bool, **options: int) -> Any:
        if "num_stages" not in options:
            options = {"num_warps": locate.WARPS}
        while True:
            with our_cache():
                built = as_is(function, *values, grid=grid, warmup=True, **options)
            if built.metadata.shared <= machine.shared_memory or options.get("num_stages", 1) == 1:
                break
            options = {**options, "num_stages": options["num_stages"] - 1}
        done(Kernel(function, dict(options), built))
        return built

    def first(self: Any, it: launch.Launch) -> None:
        q, v = it.call.q, it.call.v
        stages = stages_that_fit(
            it.config, q.element_size(), q.shape[-1], v.shape[-1], *self.tile, machine.shared_memory,
            backward=it.module.name != "forward",
        )  # fmt: skip
        self.kernel[self.programs,](*self.arguments(it.call, it.tensors), **it.config.options(stages))

    def run_scan(self: Any, _device: Any, given: Any, spare: Any) -> None:
        values = list(self.values)
        for i, name in self.changing:
            found = given.get(name)
            values[i] = spare if found is None else found
        self.kernel[(self.programs,)](*values, num_warps=self.warps, num_stages=self.stages)

    before: Any = vars(driver)["_active"]
    driver.set_active(Driver())
    try:
        with ExitStack() as stack:
            for place in (attndsl.runtime.runner, attndsl.runtime.entry, attndsl.runtime.scans):
                stack.enter_context(patch.object(place, "choose_backend", lambda *_: "triton"))
            for place in (kernel, backward):
                stack.enter_context(patch.object(place, "machine_of", lambda _: machine))
            stack.enter_context(patch.object(launch.Prepared, "first", first))
            stack.enter_context(patch.object(launch.Prepared, "run", lambda *_: None))
            stack.enter_context(patch.object(scan_launch.Ready, "run", run_scan))
            stack.enter_context(patch.object(JITFunction, "run", compiled))
            yield
    finally:
        vars(driver)["_active"] = before
