"""Small kernels that run one after another and make the tables of a call, on its stream."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_arguments import Argument
from attndsl.ir.attention import Attention
from attndsl.runtime.call import Call
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.compilation import Wanted, first_run, wanted
from attndsl.runtime.triton.failures import Attempt, run_time_attempt
from attndsl.runtime.triton.launch import extent_of, input_of, readable
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.submit import Ready, raw_stream

WARPS = 4
OPTIONS = {"num_warps": WARPS, "num_stages": 3}
LOOKED = 1 << 28
"""Pairs up to which every box that its ranges leave open is looked at."""
SHARING = 4
MOST_LOOKED = 1 << 34
"""Pairs up to which that is so where as many heads share what is found."""
ALIGNED = 32
"""Elements that tables begin at multiples of."""


class Filling(Protocol):
    """Tables that every call makes on its device."""

    @property
    def named(self) -> Mapping[tuple[str, int], int]:
        """Their places by the names that launches give tables."""
        ...

    def room(self, call: Call) -> Tensor:
        """Memory for the tables of a call."""
        ...

    def fill(self, call: Call, buffer: Tensor | None = None) -> Tensor:
        """The tables of a call, on its device, in the `room` that is given."""
        ...

    def wanted(self, call: Call, buffer: Tensor) -> list[Wanted]:
        """The kernels that `fill` is going to compile on the current device."""
        ...


def looks(pairs: int, kinds: int, call: Call) -> bool:
    """Whether boxes that ranges leave open are looked at pair by pair: `pairs` of all of them, for so many kinds of
    batches and heads."""
    shared = call.sizes["B"] * call.sizes["H"] >= SHARING * kinds
    return pairs <= LOOKED or (shared and pairs <= MOST_LOOKED)


def placed(counts: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Where tables of so many elements begin in one buffer, and its length."""
    places: dict[str, int] = {}
    total = 0
    for name, count in counts.items():
        places[name] = total
        total += -(-max(count, 1) // ALIGNED) * ALIGNED
    # loops read one entry ahead
    return places, total + ALIGNED


def inputs_of(call: Call, arguments: Sequence[Argument]) -> dict[str, Tensor]:
    """The inputs that kernels with these arguments read."""
    names = {str(a.key[0]): None for a in arguments if a.role == "input"}
    return {n: input_of(call, n) for n in names}


def read(
    call: Call, arguments: Sequence[Argument], inputs: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> list[Any]:
    """The values of arguments: what expressions read, or one of `numbers`."""
    found: list[Any] = []
    for a in arguments:
        key = str(a.key[0]) if a.key else ""
        match a.role:
            case "input":
                found.append(inputs[key])
            case "input stride":
                found.append(inputs[key].stride(int(a.key[1])))
            case "input size":
                found.append(inputs[key].shape[int(a.key[1])])
            case "size":
                found.append(call.sizes[key])
            case "extent":
                found.append(extent_of(call, *map(str, a.key)))
            case "scalar":
                value = call.scalars[key]
                if isinstance(value, Tensor):
                    found.append(readable(value))
                    continue
                found.append(float(value) if a.type == "fp32" else int(value))
            case _:
                found.append(numbers[a.name])
    return found


@dataclass(frozen=True)
class Step:
    """One kernel, and how many programs it runs. `about`: what decides beside its text and the types of its arguments
    how it is compiled; `words` what a failure report says of it."""

    module: TritonModule
    programs: int
    about: Hashable = ()
    words: tuple[str, ...] = ("the boxes of a call",)


@dataclass
class Steps:
    """The kernels of calls that are alike. `compiled`: kernels by device, alignment and types of their arguments, which
    all that are given the same one share."""

    attention: Attention
    steps: tuple[Step, ...]
    compiled: dict[Hashable, Any]
    _ready: dict[Hashable, list[Ready]] = field(default_factory=dict[Hashable, "list[Ready]"])

    def run(self, call: Call, values: Sequence[Sequence[Any]], before: Callable[[int], None] = lambda _: None) -> None:
        """Run them in order with these arguments, on the current stream of the call's device. `before` is told that
        stream."""
        device = call.q.device
        if not machine.on_gpu(device):
            for step, arguments in zip(self.steps, values, strict=True):
                _kernel(step)[step.programs,](*arguments)
        elif device.index == torch.cuda.current_device():
            self._run(device.index, values, before)
        else:
            with torch.cuda.device(device):
                self._run(device.index, values, before)

    def wanted(self, call: Call, values: Callable[[], Sequence[Sequence[Any]]]) -> list[Wanted]:
        """The kernels that `run` with these arguments is going to compile on the current device."""
        if self._ready:
            return []
        index: int = call.q.device.index
        pairs = zip(self.steps, values(), strict=True)
        new = [(step, own) for step, own in pairs if _shared(step, own, index) not in self.compiled]
        return [wanted(_kernel(step), own, OPTIONS, index, _capability()) for step, own in new]

    def _run(self, index: int, values: Sequence[Sequence[Any]], before: Callable[[int], None]) -> None:
        stream = raw_stream(index)
        before(stream)
        bare = [[v.data_ptr() if isinstance(v, Tensor) else v for v in own] for own in values]
        key = index, *(v.data_ptr() % 16 == 0 for own in values for v in own if isinstance(v, Tensor))
        known = self._ready.get(key)
        if known is not None:
            for ready, own in zip(known, bare, strict=True):
                ready.run(own, index, stream)
            return
        made: list[Ready] = []
        for step, own, addresses in zip(self.steps, values, bare, strict=True):
            shared = _shared(step, own, index)
            built = self.compiled.get(shared)
            if built is None:
                built = self.compiled[shared] = self._first(step, own, addresses, index, stream)
                made.append(Ready(built, step.programs))
                continue
            made.append(Ready(built, step.programs))
            made[-1].run(addresses, index, stream)
        self._ready[key] = made

    def _first(self, step: Step, values: Sequence[Any], bare: Sequence[Any], index: int, stream: int) -> Any:
        """Compile a kernel and run it."""
        capability = _capability()

        def attempt(stages: int) -> Attempt:
            options = {**OPTIONS, "num_stages": stages}
            return run_time_attempt(
                self.attention, step.module, step.module.name, values, options, capability, step.words
            )  # fmt: skip

        return first_run(
            _kernel(step), values, OPTIONS, index, capability,
            lambda built: Ready(built, step.programs).run(bare, index, stream), attempt,
        )  # fmt: skip


def _kernel(step: Step) -> Any:
    return getattr(load_module(step.module.source), step.module.name)


def _shared(step: Step, values: Sequence[Any], index: int) -> Hashable:
    """What compiled kernels are found by."""
    types = tuple((v.dtype, v.data_ptr() % 16 == 0) for v in values if isinstance(v, Tensor))
    return step.module.source, step.module.name, step.about, index, types


def _capability() -> int:
    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor
