"""The backward pass: a kernel over rows, one sweep for dq, one for dk and dv, and sums of gradients of inputs."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from attndsl.codegen.expr_triton import Level, UnsupportedError
from attndsl.codegen.triton import TritonModule, input_ranks, unsupported
from attndsl.codegen.triton_backward import BackwardForm, stats_of
from attndsl.codegen.triton_components import numbered_reads
from attndsl.codegen.triton_form import Form
from attndsl.codegen.triton_gradient import load_slopes, terms
from attndsl.codegen.triton_slots import Slots
from attndsl.codegen.triton_weight import Rule, rule_of, vector_free
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Size
from attndsl.ir.types import INT
from attndsl.runtime.call import Call
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.collect import Collected, deterministic
from attndsl.runtime.triton.compilation import begin
from attndsl.runtime.triton.config import Config, Pass, apart
from attndsl.runtime.triton.filling import Filling
from attndsl.runtime.triton.generated import backward_module
from attndsl.runtime.triton.launch import TABLES, Launch, Prepared, launch, sums_boxes, wanted_by
from attndsl.runtime.triton.locate import Locator
from attndsl.runtime.triton.machine import machine_of
from attndsl.runtime.triton.several import depth, pair_tiles, sums_components
from attndsl.runtime.triton.sift import Sifter
from attndsl.runtime.triton.sweeps import OnDevice, Sweeps, dtype_of, exact, form_of
from attndsl.runtime.triton.walks import pipelines
from attndsl.schedule.build import build
from attndsl.schedule.plan import Plan
from attndsl.schedule.tiling import Tiling


class Backward:
    """The backward pass of an attention (consts bound, simplified)."""

    def __init__(
        self,
        attention: Attention,
        config: Callable[[Pass, Call], Config],
        locator: Locator | None = None,
        sifter: Sifter | None = None,
        *,
        exact_gradients: bool = False,
    ) -> None:
        self.attention, self.config = attention, config
        self.exact_gradients = exact_gradients
        """Whether gradients of q and k are fp32: others are added to them."""
        self._locator, self._sifter = locator or Locator(attention), sifter or Sifter(attention)
        self._modules: dict[tuple[str, BackwardForm], TritonModule | None] = {}
        self._sweeps = Sweeps(attention)
        self.begun: set[Hashable] = set()
        """Passes whose kernels were compiled, or are being."""
        self._summed: dict[tuple[frozenset[str], tuple[Level, ...]], bool] = {}

    @cached_property
    def rule(self) -> Rule:
        """How weights are accumulated. ValueError names what is missing."""
        try:
            vector_free(self.attention)
            return rule_of(self.attention)
        except UnsupportedError as error:
            raise unsupported(self.attention, error) from error

    def kept(self, call: Call, out: Tensor) -> dict[str, Tensor]:
        """Empty tensors for what forward keeps beside its output and lse."""
        found: dict[str, Tensor] = {}
        if self.attention.output is not None:
            found["raw"] = torch.empty_like(out)
        if self.rule.over == "row":
            count = len(self.rule.sums) + int(self.rule.counts)
            found["sums"] = torch.empty((count, *out.shape[:3]), dtype=torch.float32, device=out.device)
        return found

    def run(
        self,
        call: Call,
        plan: Plan | None,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """As `Kernel.backward`."""
        like = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        if not call.q.numel() or not call.v.numel():
            return {}
        call = exact(call)
        run = _Run(self, call, plan, saved, grad_out, grad_lse, needs)
        found = run.result()
        operands = [p.name for pair in self.attention.products for p in pair]
        operands += [p.name for p in self.attention.channels]
        kept = ("q", "k", *operands) if self.exact_gradients else ()
        return {n: t if n in kept else t.to(like[n].dtype) for n, t in found.items() if n in needs}

    def module(self, step: str, backward: BackwardForm) -> TritonModule | None:
        """The generated code of a kernel, made once; None where there is nothing to do."""
        key = step, backward
        if key not in self._modules:
            self._modules[key] = backward_module(step, self.attention, backward)
        return self._modules[key]

    def launches(
        self, call: Call, plan: Plan | None, config: Config, *, turned: bool
    ) -> tuple[Plan | None, tuple[OnDevice, ...]]:
        """The plan of a sweep, in boxes of its configuration, and its tables."""
        place = "sweeps", turned, config
        known: tuple[Plan | None, tuple[OnDevice, ...]] | None = call.memo.get(place)
        if known is not None:
            return known
        sizes = (config.columns, config.rows) if turned else (config.rows, config.columns)
        tiling = Tiling(*sizes, config.q_box, config.k_box)
        if plan is None:
            found = None, self._without_plan(call, config, tiling, turned)
        else:
            own = plan.tiled(tiling)
            found = own, self._sweeps.of(call, own, config.rows, turned=turned, spans=True)
        call.memo[place] = found
        return found

    def _without_plan(self, call: Call, config: Config, tiling: Tiling, turned: bool) -> tuple[OnDevice, ...]:
        if self._locator.wanted(call):
            return (OnDevice.of(self._locator.sweep(call, config.rows, config.columns, turned=turned)),)
        if self._sifter.wanted(call):
            return self._sifter.sweeps(call, config.rows, tiling, turned=turned)
        line = self._sweeps.line(call, config.rows, config.columns, turned=turned)
        if line is not None:
            return (line,)
        plan = build(self.attention, call.problem, tiling.tile(self.attention, call.problem))
        return self._sweeps.of(call, plan, config.rows, turned=turned, spans=True)

    def summed(self, wanted: frozenset[str], levels: tuple[Level, ...]) -> bool:
        """Whether a sweep sums gradients of reads of `wanted` inputs whose indices vary like this."""
        key = wanted, levels
        found = self._summed.get(key)
        if found is None:
            slots = Slots(wanted, input_ranks(self.attention), False)
            parts = terms(self.attention, self.rule)
            found = bool(slots.of([t.value for t in parts], levels, lambda n: bool(load_slopes(parts, n))))
            if Level.PAIR in levels:
                found = found or any(n.tensor in wanted for t in parts for n in numbered_reads(t.value))
            self._summed[key] = found
        return found


class _Run:
    """One backward pass."""

    def __init__(
        self,
        backward: Backward,
        call: Call,
        plan: Plan | None,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> None:
        self.backward, self.call, self.plan, self.needs = backward, call, plan, needs
        rule = backward.rule
        shape = (*call.q.shape[:3], call.v.shape[-1])
        rest = [_aligned(t) for t in saved]
        self.given = {"q": call.q, "k": call.k, "v": call.v, "raw": rest.pop(0).to(call.q.dtype)}
        if isinstance(call.q_offset, Tensor):
            self.given["offsets"] = call.q_offset.to(torch.int32)
        if rule.logit is not None:
            self.given["lse"] = rest.pop(0)
        if rule.over == "row":
            self.given["sums"] = rest.pop(0)
        grad = call.q.new_zeros(shape) if grad_out is None else _aligned(grad_out.to(call.q.dtype).contiguous())
        self.given["grad"] = self.given["do"] = grad
        if grad_lse is not None:
            self.given["grad_lse"] = _aligned(grad_lse.to(torch.float32).contiguous())
        self.grad_lse = grad_lse is not None
        stats = stats_of(rule, self.grad_lse)
        if stats:
            # rows of 16 bytes, so that they can be loaded as boxes
            size = (len(stats), *call.q.shape[:2], -(-call.q.shape[2] // 4) * 4)
            self.given["stats"] = torch.empty(size, dtype=torch.float32, device=call.q.device)
        self.operands = [(q.name, k.name) for q, k in backward.attention.products]
        vectors = {n: call.inputs[n] for pair in self.operands for n in pair}
        self.given |= vectors
        floats = {n for n, t in call.inputs.items() if t.is_floating_point()}
        channels = {p.name: p for p in backward.attention.channels}
        self.wanted = frozenset(needs & (floats - vectors.keys() - channels.keys()))
        self.channels = frozenset(needs & channels.keys())
        """The vectors read component by component whose gradients are wanted."""
        self.of_rows = frozenset(n for n in self.channels if channels[n].shape[2] == Size(INT, "Lq"))
        self.buffers: dict[int, Tensor] = {}
        self.collected = Collected(call, deterministic())
        self.dq, self.dkdv = backward.config("dq", call), backward.config("dkdv", call)
        self.fused = bool(self.dkdv.fused) and self._may_fuse()
        if self.dkdv.fused and not self.fused:
            gpu = machine_of(call.q.device)
            capability = 90 if gpu is None else gpu.capability
            dtype = dtype_of(backward.attention, call)
            D, products = depth(backward.attention, call.sizes), pair_tiles(backward.attention)
            self.dkdv = apart(self.dkdv, dtype, D, call.v.shape[-1], capability, products)

    def _may_fuse(self) -> bool:
        """Whether one sweep over keys finds all that is asked for, of one dot product."""
        if self.operands or sums_components(self.backward.attention):
            return False
        both = "q" in self.needs and bool({"k", "v"} & self.needs)
        return both and not self.collected.deterministic and not self._summed(Level.UNIFORM, Level.ROW, Level.PAIR)

    def result(self) -> dict[str, Tensor]:
        """All gradients."""
        call, needs = self.call, self.needs
        _, rows = self.backward.launches(call, self.plan, self.dq, turned=False)
        columns: tuple[OnDevice, ...] = ()
        if self.backward.attention.output is not None:
            self.given["do"] = torch.empty_like(self.given["grad"])
        steps: list[tuple[str, OnDevice]] = [("prepare", found) for found in rows]
        results: dict[str, Tensor] = {}
        queries = needs & {"q", *(q for q, _ in self.operands)}
        keys = needs & {"k", "v", *(k for _, k in self.operands)}
        for name in self.channels:
            self.given["d " + name] = results[name] = channel_room(call.inputs[name])
        queries |= self.of_rows
        keys |= self.channels - self.of_rows
        if queries or (keys - {"v"} and self._refined()) or self._summed(Level.UNIFORM, Level.ROW, Level.PAIR):
            results["q"] = self._output(call.q, rows, summed=True)
            self.given["dq"] = results["q"]
            for name, _ in self.operands:
                self.given["d " + name] = results[name] = self._output(call.inputs[name], rows, summed=True)
            if self.fused:
                shape = call.q.shape
                self.given["dq_sums"] = torch.zeros(shape, dtype=torch.float32, device=call.q.device)
            else:
                steps += [("dq", found) for found in rows if found.tables.pieces]
        if keys or self._summed(Level.COLUMN):
            _, columns = self.backward.launches(call, self.plan, self.dkdv, turned=True)
            results["k"] = self._output(call.k, columns, summed=True)
            results["v"] = self._output(call.v, columns)
            self.given |= {"dk": results["k"], "dv": results["v"]}
            for _, name in self.operands:
                self.given["d " + name] = results[name] = self._output(call.inputs[name], columns, summed=True)
            steps += [("dkdv", found) for found in columns if found.tables.pieces]
        if self.fused:
            steps += [("finish", found) for found in rows]
        self._run(steps, (*rows, *columns))
        if call.scale == 0.0:
            # kernels have a tiny one in its place
            results |= {n: torch.zeros_like(results[n]) for n in ("q", "k") if n in results}
        return results | self.collected.result()

    def _run(self, steps: Sequence[tuple[str, OnDevice]], sweeps: Sequence[OnDevice]) -> None:
        """Make the tables that every call makes, and launch the kernels."""
        made = [(found, found.located) for found in sweeps if found.located is not None]
        for found, located in made:
            self.buffers[id(found)] = located.room(self.call)
        self._ahead(steps, made)
        for found, located in made:
            located.fill(self.call, self.buffers[id(found)])
        for step, found in steps:
            self._launch(step, found)

    def _ahead(self, steps: Sequence[tuple[str, OnDevice]], sweeps: Sequence[tuple[OnDevice, Filling]]) -> None:
        """Have the kernels that run for the first time compiled side by side."""
        call, begun = self.call, self.backward.begun
        # what else tells kernels apart is compiled as it comes
        names = tuple(step for step, _ in steps)
        place = (
            names, self.dq, self.dkdv, self.wanted, self.channels, self.grad_lse, self.collected.deterministic,
            call.q.dtype, call.q.shape[3], call.v.shape[3],
        )  # fmt: skip
        if not machine.on_gpu(call.q.device) or place in begun:
            return
        begun.add(place)
        with torch.cuda.device(call.q.device):
            for found, located in sweeps:
                for it in located.wanted(call, self.buffers[id(found)]):
                    begin(it)
            for step, found in steps:
                made = self._made(step, found)
                if made is not None:
                    form, config, module = made
                    given = {**self.given, **self.collected.likes(module.slots)}
                    begin(wanted_by(self._launched(form, config, module, found, given)))

    def _refined(self) -> bool:
        """Whether the sweep over rows finds delta better than `prepare` does, for the one over keys."""
        return self.call.q.dtype == torch.float32 and self.backward.rule.over in ("sum", "sum and constant")

    def _summed(self, *levels: Level) -> bool:
        return bool(self.wanted) and self.backward.summed(self.wanted, levels)

    def _output(self, like: Tensor, found: tuple[OnDevice, ...], summed: bool = False) -> Tensor:
        """Where a gradient goes: zeros where a segment has no launch. `summed`: others may be added to it."""
        whole = bool(found) and all(f.tables.pieces for f in found)
        dtype = torch.float32 if summed and self.backward.exact_gradients else like.dtype
        return (torch.empty if whole else torch.zeros)(like.shape, dtype=dtype, device=like.device)

    def _key(self, step: str, found: OnDevice) -> Hashable:
        config = self.dkdv if step == "dkdv" else self.dq
        asked = self.wanted, self.channels, self.grad_lse, self.collected.deterministic
        return "backward", step, id(found), config, *asked

    def _launch(self, step: str, found: OnDevice) -> None:
        if found.located is not None:
            self.given[TABLES] = self.buffers[id(found)]
        key = self._key(step, found)
        known: tuple[Prepared, TritonModule, OnDevice] | Literal["nothing"] | None = self.call.memo.get(key)
        if known is None:
            self.call.memo[key] = self._first(step, found)
        elif known != "nothing":
            ready, module, _ = known
            given = {**self.given, **self.collected.targets(module.slots, found.tables.tiles)}
            ready.run(self.call, given)
            self.collected.take(module.slots, given)

    def _first(self, step: str, found: OnDevice) -> tuple[Prepared, TritonModule, OnDevice] | Literal["nothing"]:
        """Run a kernel for the first time. Returns what the next time needs."""
        made = self._made(step, found)
        if made is None:
            return "nothing"
        form, config, module = made
        given = {**self.given, **self.collected.targets(module.slots, found.tables.tiles)}
        ready, _ = launch(self._launched(form, config, module, found, given))
        self.collected.take(module.slots, given)
        return ready, module, found

    def _made(self, step: str, found: OnDevice) -> tuple[Form, Config, TritonModule] | None:
        """What a kernel is compiled from; None where there is nothing to do."""
        call, turned = self.call, step == "dkdv"
        config = self.dkdv if turned else self.dq
        bare = step in ("prepare", "finish")
        own = (
            ("dk", "dv", *(f"d {k}" for _, k in self.operands))
            if turned
            else ("dq", *(f"d {q}" for q, _ in self.operands))
        )
        others = [] if bare else [self.given[n] for n in ("do", *own)]
        form = form_of(self.backward.attention, call, found.tables, *others, turned=turned)
        form = replace(form, pipelined=pipelines(self.backward.attention, form, config))
        if bare:
            form = replace(form, pieces=(), tma=False, aligned=False, pipelined=False)
        wanted = frozenset[str]() if step == "finish" else self.wanted
        channels = frozenset[str]() if bare else self.channels
        fused = turned and self.fused
        boxes = fused and config.fused == "boxes" and sums_boxes()
        made = BackwardForm(form, wanted, self.grad_lse, self.collected.deterministic, fused, boxes, channels)
        module = self.backward.module(step, made)
        return None if module is None else (form, config, module)

    def _launched(
        self, form: Form, config: Config, module: TritonModule, found: OnDevice, given: Mapping[str, Tensor]
    ) -> Launch:
        if found.located is not None:
            given = {**given, TABLES: self.buffers[id(found)]}
        return Launch(self.call, form, module, found.tables, found.views, config, given, {}, found.places)


def channel_room(like: Tensor) -> Tensor:
    """Zeros that lie in memory as a vector that is read component by component does."""
    return torch.zeros_like(like, dtype=torch.float32, memory_format=torch.preserve_format)


def _aligned(t: Tensor) -> Tensor:
    """A contiguous tensor that begins at a multiple of 16 bytes: a view may begin anywhere."""
    return t if t.data_ptr() % 16 == 0 else t.clone()
