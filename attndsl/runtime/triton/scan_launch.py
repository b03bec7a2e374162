"""Launches of scans, prepared once for calls that are alike."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_arguments import Argument
from attndsl.runtime.triton import machine, submit
from attndsl.runtime.triton.compilation import first_run

Memo = dict[Any, Any]
"""What calls that are alike share: prepared launches, and what was decided for them."""
_CHANGING = frozenset(("tensor", "input", "scalar"))


@lru_cache(maxsize=512)
def memo_of(key: tuple[Any, ...]) -> Memo:
    """The memo of all calls with this key."""
    return {}


def likeness(t: Tensor | None) -> Any:
    """What two tensors share for which the same launches are right, whatever they hold."""
    return None if t is None else (t.shape, t.stride(), t.dtype, t.data_ptr() % 16 == 0)


@dataclass(frozen=True, eq=False)
class Launched:
    """A kernel as it would have been launched: its arguments in order, warps and stages."""

    kernel: Any
    values: tuple[Any, ...]
    warps: int
    stages: int


@dataclass(frozen=True, eq=False)
class Recording:
    """What scans of tensors that are on no GPU would launch on one of this compute capability (times ten), with so many
    multiprocessors."""

    capability: int
    multiprocessors: int
    launches: list[Launched] = field(default_factory=list[Launched])

    @property
    def target(self) -> tuple[int, int]:
        """The GPU."""
        return self.capability, self.multiprocessors


_RECORDING: ContextVar[Recording | None] = ContextVar("attndsl_scan_recording", default=None)


@contextmanager
def recording(capability: int, multiprocessors: int) -> Generator[list[Launched]]:
    """Within, scans of tensors that are on no GPU run nothing: the list has what they would launch on one."""
    made = Recording(capability, multiprocessors)
    token = _RECORDING.set(made)
    try:
        yield made.launches
    finally:
        _RECORDING.reset(token)


def recorded() -> Recording | None:
    """What `recording` records here."""
    return _RECORDING.get()


@contextmanager
def launching(device: torch.device) -> Generator[None]:
    """Kernels of scans run within this."""
    if not machine.on_gpu(device):
        yield
        return
    with torch.cuda.device(device):
        submit.allocate_on(torch.cuda.current_device())
        yield


@dataclass(frozen=True, eq=False)
class Ready:
    """A launch but for tensors and scalars: `changing` are their places and names. `compiled` are the kernels that ran,
    by what Triton distinguishes of tensors: their types, and whether they are aligned to 16 bytes."""

    kernel: Any
    programs: int
    values: tuple[Any, ...]
    changing: tuple[tuple[int, str], ...]
    warps: int
    stages: int
    compiled: dict[Any, submit.Ready] = field(default_factory=dict[Any, submit.Ready])

    @staticmethod
    def of(
        kernel: Any, arguments: Sequence[Argument], known: Mapping[str, Any], programs: int, warps: int, stages: int
    ) -> Ready:
        """Prepare a launch from the values of arguments by their names. Of tensors and scalars only names are kept."""
        changing = tuple((i, a.name) for i, a in enumerate(arguments) if a.role in _CHANGING)
        values = tuple(None if a.role in _CHANGING else known[a.name] for a in arguments)
        return Ready(kernel, programs, values, changing, warps, stages)

    def run(self, device: torch.device, given: Mapping[str, Any], spare: Tensor) -> None:
        """Launch on the current stream, within `launching`. `spare` stands for tensors that are not read."""
        values = list(self.values)
        for i, name in self.changing:
            found = given.get(name)
            values[i] = spare if found is None else found
        if not machine.on_gpu(device):
            into = recorded()
            if into is not None:
                into.launches.append(Launched(self.kernel, tuple(values), self.warps, self.stages))
                return
            self.kernel[(self.programs,)](*values)
            return
        tensors = [values[i] for i, _ in self.changing]
        key = tuple((t.dtype, t.data_ptr() % 16 == 0) for t in tensors if isinstance(t, Tensor))
        compiled = self.compiled.get(key)
        if compiled is None:
            self.compiled[key] = submit.Ready(self._first(values, device.index), self.programs)
        else:
            compiled.run(values, device.index, submit.raw_stream(device.index))

    def _first(self, values: list[Any], device: int) -> Any:
        """Compile and launch, with one stage less where it does not fit."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        major, minor = torch.cuda.get_device_capability(device)
        return first_run(
            self.kernel, values, options, device, major * 10 + minor,
            lambda built: submit.Ready(built, self.programs).run(values, device, submit.raw_stream(device)),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Reading:
    """What maps read beside components: inputs, scalars and sizes of a call."""

    inputs: Mapping[str, Tensor]
    scalars: Mapping[str, float]
    sizes: Mapping[str, int]

    def numbers(self, arguments: Sequence[Argument]) -> dict[str, int]:
        """What stays the same for calls that are alike: sizes, and strides and sizes of inputs."""
        found: dict[str, int] = {}
        for a in arguments:
            key = str(a.key[0])
            if a.role == "size":
                found[a.name] = self.sizes[key]
            elif a.role == "input stride":
                found[a.name] = self.inputs[key].stride(int(a.key[1]))
            elif a.role == "input size":
                found[a.name] = self.inputs[key].shape[int(a.key[1])]
        return found

    def values(self, arguments: Sequence[Argument]) -> dict[str, Any]:
        """Inputs and scalars."""
        found: dict[str, Any] = {}
        if self.inputs or self.scalars:
            for a in arguments:
                key = str(a.key[0])
                if a.role == "scalar":
                    found[a.name] = float(self.scalars[key]) if a.type == "fp32" else int(self.scalars[key])
                elif a.role == "input":
                    found[a.name] = self.inputs[key]
        return found
