"""One launch: the value of every argument of a kernel."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_form import Form
from attndsl.ir.attention import Const
from attndsl.runtime.call import Call
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.compilation import Wanted, first_run, wanted
from attndsl.runtime.triton.config import Config, all_forced, stages_that_fit
from attndsl.runtime.triton.failures import Attempt, run_time_attempt, words_of
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.submit import Ready, raw_stream
from attndsl.runtime.triton.tables import LaunchTables

SHARED_SECTION = 24 << 20
"""Bytes of keys and values of the heads that run side by side."""
SHARED_MEMORY = {8: 163 << 10, 9: 227 << 10, 10: 227 << 10, 12: 99 << 10}


TABLES = "@tables"
"""The name of the tensor that holds the tables of a call."""


@lru_cache(maxsize=1)
def interpreting() -> bool:
    """Whether Triton runs kernels in Python, on CPU tensors. It decides that once in a process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def sums_boxes() -> bool:
    """Whether TMA adds boxes to tensors here: Triton's own interpreter cannot."""
    if not interpreting():
        return True
    from triton.runtime.interpreter import InterpreterBuilder

    return hasattr(InterpreterBuilder, "create_descriptor_reduce")


class Views(dict[tuple[str, int], Tensor]):
    """Tables on a device by table and piece. `uploaded` is the event after which they are there; None: they are.
    `stream` is the one on which all of them were made, and to which their memory belongs, where it is known."""

    uploaded: Any = None
    stream: int | None = None


@dataclass(frozen=True)
class Launch:
    """A call's launch over one segment. `given` are the tensors that it reads and writes beside the call's own, by
    argument; `flags` the constants of its kernel that are no sizes."""

    call: Call
    form: Form
    module: TritonModule
    tables: LaunchTables
    views: Mapping[tuple[str, int], Tensor]
    config: Config
    given: Mapping[str, Tensor]
    flags: Mapping[str, bool]
    places: Mapping[tuple[str, int], int] | None = None
    """Where tables lie in the tensor that is given as `TABLES`, of which every call makes its own; others are views."""

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        found = {"q": self.call.q, "k": self.call.k, "v": self.call.v, **self.given}
        if isinstance(self.call.q_offset, Tensor) and "offsets" not in found:
            found["offsets"] = self.call.q_offset.to(torch.int32)
        return found

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        names = {a.key[0] for a in self.module.arguments if a.role.startswith("input")}
        return {str(n): self.input(str(n)) for n in names}

    def input(self, name: str) -> Tensor:
        """An input or const array as its kernel reads it."""
        return input_of(self.call, name)

    def value(self, a: Argument) -> Any:
        """What is passed for an argument."""
        match a.role:
            case "tensor":
                return self.tensors[str(a.key[0])]
            case "table":
                key = str(a.key[0]), int(a.key[1])
                place = None if self.places is None else self.places.get(key)
                return self.views[key] if place is None else self.given[TABLES][place:]
            case "stride":
                return self.tensors[str(a.key[0])].stride(int(a.key[1])) // self.form.stride_unit
            case "number":
                return self._number(str(a.key[0]), int(a.key[1]))
            case "size":
                return self.call.sizes[str(a.key[0])]
            case "extent":
                return extent_of(self.call, *map(str, a.key))
            case "scalar":
                value = self.call.scalars[str(a.key[0])]
                if isinstance(value, Tensor):
                    return readable(value)
                return float(value) if a.type == "fp32" else int(value)
            case "input":
                return self.inputs[str(a.key[0])]
            case "input stride":
                return self.inputs[str(a.key[0])].stride(int(a.key[1]))
            case "input size":
                return self.inputs[str(a.key[0])].shape[int(a.key[1])]
            case "sums" | "gradient" | "gradient rest":
                return self.tensors[a.name]
            case "gradient size":
                return self.call.inputs[str(a.key[0])].numel()
            case _:
                return (constants(self.form, self.tables) | dict(self.flags))[str(a.key[0])]

    def _number(self, name: str, piece: int) -> float | int:
        call, tables = self.call, self.tables
        if name in call.sizes:
            return call.sizes[name]
        match name:
            case "tiles":
                return tables.tiles
            case "section":
                return self.section
            case "q_start" | "k_start":
                return tables.start if piece < 0 else tables.pieces[piece].start
            case "q_offset":
                assert isinstance(call.q_offset, int)
                return call.q_offset
            case "class_sb" | "class_sh":
                batches, heads = tables.pieces[piece].class_of.shape
                return (heads if batches > 1 else 0) if name == "class_sb" else int(heads > 1)
            case "scale":
                # a scale of zero would make 0 * inf of a masked score
                return max(abs(call.scale), 1e-30)
            case _:
                axis = int(name.removeprefix("split_"))
                return tables.splits[axis] if piece < 0 else tables.pieces[piece].splits[axis]

    @property
    def section(self) -> int:
        """Heads that run side by side: as many as share the cache, whole groups of those with the same keys. In a
        turned form heads of keys, and what they share are queries. All of them where tiles are skewed: the longest of
        all heads begin first."""
        call = self.call
        B, H, Hkv = (call.sizes[n] for n in ("B", "H", "Hkv"))
        group = H // max(Hkv, 1)
        length = call.sizes["Lq"] * group if self.form.turned else call.sizes["Lk"]
        if self.tables.skewed:
            return max(1, B * (Hkv if self.form.turned else H))
        each = length * (self.form.depth + call.sizes["Dv"]) * call.k.element_size()
        if self.form.turned and self.config.fused:
            each += length * call.sizes["D"] * 4
        groups = max(1, SHARED_SECTION // max(each, 1))
        if self.form.turned:
            return max(1, min(B * Hkv, groups))
        return max(1, min(B * H, groups * group))

    @property
    def types(self) -> tuple[Hashable, ...]:
        """What Triton tells kernels apart by, beside constants: element types, and what begins at 16 bytes."""
        tensors = (*self.tensors.values(), *self.views.values())
        return tuple([(t.dtype, t.data_ptr() & 15 == 0) for t in tensors])

    @property
    def programs(self) -> int:
        """How many programs run."""
        return self.tables.tiles * self.call.sizes["B"] * self.call.sizes["Hkv" if self.form.turned else "H"]


def constants(form: Form, tables: LaunchTables) -> dict[str, Any]:
    """The sizes that a kernel is compiled for by name."""
    found: dict[str, Any] = {"BM": prod(tables.box)}
    found |= {f"BM_{i}": n for i, n in enumerate(tables.box)}
    for i, piece in enumerate(tables.pieces):
        end = "" if len(tables.pieces) == 1 else str(i)
        found[f"BN{end}"] = prod(piece.box)
        found |= {f"BN{end}_{a}": n for a, n in enumerate(piece.box)}
    return found


class Prepared:
    """What repeated launches share: the kernel, and its arguments but for tensors and scalars.

    `tables` and `module` are kept because memos name them by place. `streams` are those on which the tables are known
    to be used. With `like`, a launch of a call that differs in lengths alone and its tables in numbers."""

    def __init__(self, it: Launch, like: Prepared | None = None) -> None:
        self.tables, self.module = it.views, it.module
        self.programs = it.programs
        self.streams: set[int] = set()
        self.ready: Ready | None = None
        self._bare: list[Any] | None = None
        if like is None:
            self._look(it)
            return
        self.kernel, self.tile, self.stages = like.kernel, like.tile, like.stages
        self._given, self._inputs, self._scalars = like._given, like._inputs, like._scalars
        self._numbers, self._named = like._numbers, like._named
        self._places = [(i, it.places[key]) for i, key in like._named] if it.places is not None else []
        self.values = like.values.copy()
        for i, a in self._numbers:
            self.values[i] = it.value(a)
        if like.ready is not None:
            self.ready = Ready(like.ready.compiled, self.programs)

    def _look(self, it: Launch) -> None:
        """Tell the arguments apart."""
        self.kernel: Any = getattr(load_module(it.module.source), it.module.name)
        self.values: list[Any] = []
        self._given: list[tuple[int, str]] = []
        self._inputs: list[tuple[int, str]] = []
        self._scalars: list[tuple[int, str, bool]] = []
        self._numbers: list[tuple[int, Argument]] = []
        self._named: list[tuple[int, tuple[str, int]]] = []
        for i, a in enumerate(it.module.arguments):
            key = str(a.key[0]) if a.key else ""
            self.values.append(None)
            match a.role:
                case "input" if key in it.call.inputs:
                    self._inputs.append((i, key))
                case "scalar":
                    self._scalars.append((i, key, a.type == "fp32"))
                case "table" if it.places is not None and (key, int(a.key[1])) in it.places:
                    self._named.append((i, (key, int(a.key[1]))))
                case "tensor" | "sums" | "gradient" | "gradient rest":
                    self._given.append((i, key if a.role == "tensor" else a.name))
                case _:
                    self.values[i] = it.value(a)
                    if a.role not in ("constexpr", "input"):
                        self._numbers.append((i, a))
        self._places = [(i, it.places[key]) for i, key in self._named] if it.places is not None else []
        self.tile = prod(it.tables.box), max((prod(p.box) for p in it.tables.pieces), default=16)
        self.stages, q = 1, it.call.q
        if machine.on_gpu(q.device):
            limit = SHARED_MEMORY.get(torch.cuda.get_device_capability(q.device)[0], 99 << 10)
            self.stages = stages_that_fit(
                it.config, q.element_size(), it.form.depth, it.call.v.shape[-1], *self.tile, limit,
                backward=it.module.name != "forward",
            )  # fmt: skip

    def arguments(self, call: Call, given: Mapping[str, Tensor]) -> list[Any]:
        """The values of all arguments for a launch like the one that was prepared."""
        values = self.values.copy()
        for i, name in self._given:
            values[i] = given[name]
        for i, name in self._inputs:
            values[i] = readable(call.inputs[name])
        for i, place in self._places:
            values[i] = given[TABLES][place:]
        self._fill_scalars(call, values, [], False)
        return values

    def _fill_scalars(self, call: Call, values: list[Any], held: list[Tensor], bare: bool) -> None:
        for i, name, is_float in self._scalars:
            value = call.scalars[name]
            if not isinstance(value, Tensor):
                values[i] = float(value) if is_float else int(value)
                continue
            value = readable(value)
            held.append(value)
            values[i] = value.data_ptr() if bare else value

    def run(self, call: Call, given: Mapping[str, Tensor]) -> None:
        """Launch again, on the current stream of the call's device."""
        device = call.q.device
        if not machine.on_gpu(device):
            self.kernel[self.programs,](*self.arguments(call, given))
        elif device.index == torch.cuda.current_device():
            self._run(call, given, device.index)
        else:
            with torch.cuda.device(device):
                self._run(call, given, device.index)

    def _run(self, call: Call, given: Mapping[str, Tensor], device: int) -> None:
        assert self.ready is not None
        if self._bare is None:
            self._bare = [v.data_ptr() if isinstance(v, Tensor) else v for v in self.values]
        # addresses cost less than tensors, whose kind Triton asks the driver for
        values = self._bare.copy()
        for i, name in self._given:
            values[i] = given[name].data_ptr()
        held: list[Tensor] = []
        for i, name in self._inputs:
            tensor = readable(call.inputs[name])
            held.append(tensor)
            values[i] = tensor.data_ptr()
        if self._places:
            first = given[TABLES].data_ptr()
            for i, place in self._places:
                values[i] = first + 4 * place
        self._fill_scalars(call, values, held, True)
        stream = raw_stream(device)
        keep_tables(self.tables, self.streams, stream)
        self.ready.run(values, device, stream)

    def first(self, it: Launch) -> Any:
        """Compile for a launch and run it. Returns the compiled kernel, None where it is interpreted."""
        q = it.call.q
        values = self.arguments(it.call, it.tensors)
        if not machine.on_gpu(q.device):
            self.kernel[self.programs,](*values)
            return None
        with torch.cuda.device(q.device):
            index = torch.cuda.current_device()
            stream = raw_stream(index)
            keep_tables(self.tables, self.streams, stream)
            key = _compiled_key(it, values, index, self.stages)
            known = _compiled.get(key)
            if known is not None:
                compiled = known[1]
                self.ready = Ready(compiled, self.programs)
                self.ready.run([v.data_ptr() if isinstance(v, Tensor) else v for v in values], index, stream)
                return compiled
            bare = [v.data_ptr() if isinstance(v, Tensor) else v for v in values]
            compiled = first_launch(
                it, self, values, index, lambda built: Ready(built, self.programs).run(bare, index, stream)
            )
            self.ready = Ready(compiled, self.programs)
            if len(_compiled) >= MOST_COMPILED:
                _compiled.clear()
            _compiled[key] = it.module, compiled
            return compiled


MOST_COMPILED = 1024
_compiled: dict[Hashable, tuple[TritonModule, Any]] = {}
"""Kernels that launches of other sizes have compiled; modules are kept because keys name them by place."""


def _compiled_key(it: Launch, values: Sequence[Any], device: int, stages: int) -> Hashable:
    """What decides which kernel Triton compiles: numbers do not."""
    found: list[Hashable] = [id(it.module), device, stages, *it.config.options(stages).items()]
    for a, value in zip(it.module.arguments, values, strict=True):
        if isinstance(value, Tensor):
            found.append((value.dtype, value.data_ptr() % 16 == 0))
        elif a.role == "constexpr":
            found.append(value)
    return tuple(found)


_held: dict[int, Mapping[tuple[str, int], Tensor]] = {}
"""Tables that captured graphs read: a graph may outlive the plan."""


def launch(it: Launch) -> tuple[Prepared, Any]:
    """Run the kernel on the current stream of the call's device. Returns what runs it again, and the compiled kernel
    (None where it is interpreted)."""
    key = it.module.name, id(it.views), id(it.module), it.config, tuple(it.flags.items())
    found: tuple[Prepared, Any] | None = it.call.memo.get(key)
    if found is not None:
        found[0].run(it.call, it.tensors)
        return found
    boxes = it.tables.box, *(p.box for p in it.tables.pieces)
    about = it.module.name, *key[2:], boxes, it.types
    like: tuple[Prepared, Any] | None = it.call.alike.get(about)
    if like is not None:
        made = Prepared(it, like[0])
        found = it.call.memo[key] = made, like[1]
        made.run(it.call, it.tensors)
        return found
    made = Prepared(it)
    found = it.call.memo[key] = it.call.alike[about] = made, made.first(it)
    return found


def keep_tables(tables: Mapping[tuple[str, int], Tensor], streams: set[int], stream: int) -> None:
    """Tables are there before a kernel on another stream reads them, and are not freed while it, or a captured graph,
    does."""
    if not tables:
        return
    if torch.cuda.is_current_stream_capturing():
        _held[id(tables)] = tables
    elif stream not in streams:
        if not isinstance(tables, Views) or stream != tables.stream:
            uploaded: Any = getattr(tables, "uploaded", None)
            if uploaded is not None:
                torch.cuda.current_stream().wait_event(uploaded)
            for view in tables.values():
                view.record_stream(torch.cuda.current_stream())
        streams.add(stream)


def extent_of(call: Call, side: str, segment: str, axis: str) -> int:
    """The extent of an axis of a call's grid."""
    space = call.attention.q_space if side == "q" else call.attention.k_space
    assert space is not None
    axes = next(s.axes for s in space.segments if s.name == segment)
    extents = call.q_extents if side == "q" else call.k_extents
    return extents[segment][axes.index(axis)]


def input_of(call: Call, name: str) -> Tensor:
    """An input or const array of a call as kernels read it."""
    if name in call.inputs:
        return readable(call.inputs[name])
    const = call.attention.param(name)
    assert isinstance(const, Const)
    return readable(_table(const, call.q.device))


def readable(tensor: Tensor) -> Tensor:
    """An input as kernels read it."""
    if tensor.dtype is torch.bool:
        return tensor.view(torch.uint8)
    if tensor.dtype is torch.float64 or (tensor.dtype is torch.bfloat16 and interpreting()):
        return tensor.float()
    return tensor


@lru_cache(maxsize=64)
def no_numbers(device: torch.device) -> Tensor:
    """What a kernel is given for fp32 numbers that it does not touch."""
    return torch.empty(1, dtype=torch.float32, device=device)


@lru_cache(maxsize=256)
def _table(const: Const, device: torch.device) -> Tensor:
    """A const array on a device, copied there once."""
    return torch.tensor(const.default, device=device)


def first_launch(it: Launch, ready: Prepared, values: list[Any], device: int, launch: Callable[[Any], object]) -> Any:
    """Compile the kernel of a launch, with as many stages as fit, and `launch` it. Returns the compiled kernel."""
    major, minor = torch.cuda.get_device_capability(it.call.q.device)
    capability = major * 10 + minor

    def attempt(stages: int) -> Attempt:
        return run_time_attempt(
            it.call.attention, it.module, it.module.name, values, it.config.options(stages), capability,
            words_of(it.form, *ready.tile),
        )  # fmt: skip

    # specialised warps need two stages; what was asked for is not to be another
    spare = it.form.walk != "specialized" and not all_forced()
    return first_run(ready.kernel, values, it.config.options(ready.stages), device, capability, launch, attempt, spare)


def wanted_by(it: Launch) -> Wanted:
    """The kernel that a launch is going to need on the current device."""
    ready = Prepared(it)
    major, minor = torch.cuda.get_device_capability(it.call.q.device)
    values = ready.arguments(it.call, it.tensors)
    index = torch.cuda.current_device()
    return wanted(ready.kernel, values, it.config.options(ready.stages), index, major * 10 + minor)
