"""Kernels compiled in the background, each once, from the moment a call is known to need them.

Triton's passes, its assembler and the C compiler that builds launchers run without Python's lock: the kernels of a
call compile side by side while its tables are made, and the launcher of a kernel beside the kernel. Whoever launches
a kernel waits for it, and is told what went wrong.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock
from types import SimpleNamespace
from typing import Any, TypeVar

from torch import Tensor

from attndsl.runtime.failures import KernelError, one_stage
from attndsl.runtime.triton.compiled import compiling, our_cache, used_entries
from attndsl.runtime.triton.failures import ELEMENTS, Attempt, reported

WORKERS = 8
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Wanted:
    """A kernel to compile: a function of Triton's, types of its arguments and values of its constants by name,
    attributes of arguments by position, options, and a device with its compute capability (times ten)."""

    function: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    attributes: Mapping[tuple[int, ...], list[list[Any]]]
    options: Mapping[str, int]
    device: int
    capability: int

    @cached_property
    def key(self) -> Hashable:
        """Equal for the same kernel on the same device, as long as its function lives."""
        # to hash a function of Triton's is to parse it
        return (
            id(self.function), tuple(self.signature.values()), tuple(self.constants.values()), tuple(self.attributes),
            tuple(self.options.items()), self.device, self.capability,
        )  # fmt: skip


def wanted(function: Any, values: Sequence[Any], options: Mapping[str, int], device: int, capability: int) -> Wanted:
    """The kernel that a launch with these values of all arguments needs, as Triton itself tells kernels apart:
    by the element types of tensors, whether they begin at a multiple of 16 bytes, and constants."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, (parameter, value) in enumerate(zip(function.params, values, strict=True)):
        name = parameter.name
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = "*" + ELEMENTS[str(value.dtype).removeprefix("torch.")]
            if value.data_ptr() % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = parameter.annotation_type
    return Wanted(function, signature, constants, attributes, options, device, capability)


class Compilation:
    """A kernel that is being compiled, or was."""

    def __init__(self, it: Wanted) -> None:
        self._function = it.function
        self._entries: list[Any] = []
        self._launcher: Future[None] | None = None
        self._loading = Lock()
        self.told = False
        """Whether someone was told that it failed: it may go better the next time."""
        self._kernel: Future[Any] = _submit(lambda: self._compile(it))

    def _compile(self, it: Wanted) -> Any:
        import triton
        from triton import knobs
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        source = ASTSource(it.function, dict(it.signature), dict(it.constants), dict(it.attributes))
        self._launcher = _submit(lambda: _build_launcher(source))
        # as a launch by Triton itself has it
        more = {"debug": bool(knobs.runtime.debug), "instrumentation_mode": knobs.compilation.instrumentation_mode}
        entries = used_entries()
        entries.clear()
        with our_cache():
            try:
                target = GPUTarget("cuda", it.capability, 32)
                return triton.compile(source, target=target, options={**it.options, **more})
            finally:
                self._entries += entries

    def loaded(self) -> Any:
        """The compiled kernel, loaded on the current device. Raises what Triton's compiler or the driver raised."""
        try:
            built = self._kernel.result()
        except BaseException:
            self.told = True
            raise
        finally:
            # who finds that one cannot be loaded deletes them
            used_entries().extend(self._entries)
        if self._launcher is not None:
            wait([self._launcher])
        with self._loading:
            # a second thread must not meet it half loaded
            _ = built.run
        return built


def _build_launcher(source: Any) -> None:
    """Build what launches a kernel, and the library that loads kernels, into the cache. Loading the kernel finds it
    there, or does the same again and says what is wrong."""
    nothing = SimpleNamespace(
        tensordesc_meta=None, num_ctas=1, global_scratch_size=0, global_scratch_align=1, profile_scratch_size=0,
        profile_scratch_align=1, launch_cooperative_grid=False, launch_pdl=False,
    )  # fmt: skip
    with suppress(Exception), our_cache():
        _driver().launcher_cls(source, nothing)


_driver_lock = Lock()


def _driver() -> Any:
    from triton.runtime import driver

    with _driver_lock:
        return driver.active


MOST = 1024
"""Kernels that a process keeps loaded; what has been prepared for launches keeps its own beside these."""
_known: OrderedDict[Hashable, Compilation] = OrderedDict()
_known_lock = Lock()


def begin(it: Wanted) -> Compilation:
    """Compile a kernel in the background; the compilation that is under way, or was, where there is one."""
    with _known_lock:
        found = _known.get(it.key)
        if found is None or found.told:
            found = _known[it.key] = Compilation(it)
            while len(_known) > MOST:
                _known.popitem(last=False)
        _known.move_to_end(it.key)
        return found


def _forget(it: Wanted) -> None:
    with _known_lock:
        _known.pop(it.key, None)


def first_run(
    function: Any,
    values: Sequence[Any],
    options: Mapping[str, int],
    device: int,
    capability: int,
    launch: Callable[[Any], object],
    attempt: Callable[[int], Attempt] | None = None,
    spare: bool = False,
) -> Any:
    """Compile a kernel, or wait for it, load it on the current device and `launch` it; with fewer stages where so many
    do not fit. Returns the compiled kernel. `attempt` tells a KernelError what was tried, by stages.

    What mask code and tables take of shared memory is known to the compiler alone: where its count is above the
    limit, one stage less is compiled, and one stage that does not fit is an error. With `spare` a kernel that does not
    compile for another reason is compiled with one stage, without a pipeline, and a warning says so; the error is the
    first one where that does not compile either.
    """
    from triton.runtime.errors import OutOfResources

    stages = options.get("num_stages", 1)
    first: KernelError | None = None
    while True:
        it = wanted(function, values, {**options, "num_stages": stages}, device, capability)

        def run(it: Wanted = it) -> Any:
            built = begin(it).loaded()
            launch(built)
            return built

        try:
            with nullcontext() if attempt is None else reported(partial(attempt, stages)):
                try:
                    built = compiling(run, lambda it=it: _forget(it))
                except OutOfResources:
                    if stages == 1:
                        raise
                    stages -= 1
                    continue
        except KernelError as error:
            if first is not None:
                raise first from None
            if stages == 1 or not spare:
                raise
            first, stages = error, 1
            continue
        if first is not None:
            one_stage(first)
        return built


# Threads

_pool: ThreadPoolExecutor | None = None
_pool_lock = Lock()


def _submit(work: Callable[[], T]) -> Future[T]:
    global _pool
    try:
        with _pool_lock:
            if _pool is None:
                _pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="attndsl-compile")
            return _pool.submit(work)
    except RuntimeError:
        # while the process ends there are no more threads
        found: Future[T] = Future()
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)
        return found


def _after_fork() -> None:
    global _pool, _pool_lock, _known, _known_lock, _driver_lock
    _pool, _known = None, OrderedDict()
    _pool_lock, _known_lock, _driver_lock = Lock(), Lock(), Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def warm_up() -> None:
    """Find out in the background what the first compilation would wait for: the key of Triton's compiler, and the
    library that loads kernels."""

    from triton.backends.nvidia import compiler
    from triton.runtime import cache

    def within(ask: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            # whoever compiles asks again, and says what is wrong
            with suppress(Exception), our_cache():
                ask()

        return run

    # as they are within our cache: the answers of an earlier process
    for ask in (_driver, lambda: cache.triton_key(), lambda: compiler.get_ptxas_version()):
        _submit(within(ask))
