"""The Triton kernel of an attention behind the interface that every backend has."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton import TritonModule, unsupported
from attndsl.codegen.triton_form import Form
from attndsl.ir.attention import Attention
from attndsl.runtime.cache.key import Bucket, bucket_of
from attndsl.runtime.call import Call, Kept, Saved
from attndsl.runtime.failures import KernelError
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.backward import Backward
from attndsl.runtime.triton.choices import Choices, Facts, settings
from attndsl.runtime.triton.compilation import begin, warm_up
from attndsl.runtime.triton.config import Config, Pass, Visits
from attndsl.runtime.triton.decode import Decode
from attndsl.runtime.triton.filling import Filling
from attndsl.runtime.triton.generated import forward_module
from attndsl.runtime.triton.launch import TABLES, Launch, Prepared, interpreting, launch, no_numbers, wanted_by
from attndsl.runtime.triton.lines import line_of
from attndsl.runtime.triton.locate import Locator
from attndsl.runtime.triton.machine import machine_of
from attndsl.runtime.triton.reach import moved, wide
from attndsl.runtime.triton.scan_choices import ScanChoices
from attndsl.runtime.triton.scan_kernel import LinearKernel
from attndsl.runtime.triton.several import depths, pair_tiles, sums_components
from attndsl.runtime.triton.sift import Sifter
from attndsl.runtime.triton.sweeps import (
    OnDevice,
    Sweeps,
    differentiated,
    dtype_of,
    exact,
    form_of,
    is_aligned,
    operands_of,
)
from attndsl.runtime.triton.visits import look_alike, visits_of
from attndsl.runtime.triton.walks import Walked, plain, specialized, walked
from attndsl.schedule.build import build
from attndsl.schedule.plan import Plan
from attndsl.schedule.tiling import Tiling


class TritonKernel(LinearKernel):
    """Forward and backward on CUDA tensors (under `TRITON_INTERPRET=1` on CPU tensors).

    With `exact_gradients` those of q and k are fp32, for whoever adds others to them; with `exact_output` the output
    is, of calls whose gradients are not asked for."""

    def __init__(
        self, attention: Attention, *, exact_gradients: bool = False, exact_output: bool = False
    ) -> None:  # fmt: skip
        self.attention, self.exact_output = attention, exact_output
        self._operands = tuple(p.name for pair in attention.products for p in pair)
        self._pair_tiles, self._sums = pair_tiles(attention), sums_components(attention)
        self._modules: dict[Form, TritonModule] = {}
        self._choices = Choices(attention)
        self.scan_choices = ScanChoices(attention)
        self._locator = Locator(attention)
        self._sifter = Sifter(attention)
        self._backward = Backward(
            attention, self.config, self._locator, self._sifter, exact_gradients=exact_gradients
        )  # fmt: skip
        self._sweeps = Sweeps(attention)
        self._walks: dict[tuple[Form, bool, Config], Walked] = {}
        self._refused = 0
        self._visits: dict[Bucket, Visits] = {}
        self._begun: set[Hashable] = set()
        self._decode = Decode(attention, lambda call: self.config("decode", call), self._locator)
        if torch.cuda.is_initialized():
            warm_up()

    def tiling(self, call: Call) -> Tiling:
        """The boxes that plans are made of."""
        dtype = dtype_of(self.attention, call)
        if self._decode.wanted(call) and not differentiated(call):
            return self._decode.tiling(call, dtype)
        config = self.config("forward", call)
        return Tiling(config.rows, config.columns, config.q_box, config.k_box)

    def settings(self) -> Hashable:
        """Configurations that are asked for, and how often this process has tuned."""
        return settings()

    def saves(self, q: Tensor, k: Tensor, v: Tensor, need_lse: bool) -> tuple[Saved, ...]:
        """The output before its clause, lse where the weight has an exponential, the sums of a denominator."""
        try:
            rule = self._backward.rule
        except UnsupportedError as error:
            raise unsupported(self.attention, error) from error
        rows = (*q.shape[:3],)
        dtype = torch.float32 if interpreting() and q.dtype == torch.bfloat16 else q.dtype
        found: list[Saved] = ["out" if self.attention.output is None else Kept((*rows, v.shape[3]), dtype)]
        if rule.logit is not None:
            found.append("lse" if need_lse else Kept(rows, torch.float32))
        if rule.over == "row":
            found.append(Kept((len(rule.sums) + int(rule.counts), *rows), torch.float32, batch=1))
        return tuple(found)

    def module(self, form: Form) -> TritonModule:
        """The generated code for a form, made once."""
        if form not in self._modules:
            try:
                self._modules[form] = forward_module(self.attention, form)
            except UnsupportedError as error:
                raise unsupported(self.attention, error) from error
        return self._modules[form]

    def forward(
        self, call: Call, plan: Plan | None, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """As `Kernel.forward`, without a plan where boxes are found on the device. ValueError names a feature that this
        backend does not have.

        What is saved: the output before its clause, lse where the weight has an exponential, the sums in the
        denominator where there are any."""
        dtype = torch.float32 if self.exact_output else call.q.dtype
        call = exact(call)
        # a trial of tuning runs one call with many plans and settings
        place = "forward", need_lse, save, id(plan), settings()
        again: tuple[tuple[Prepared, Filling | None], ...] | None
        _, again = call.memo.get(place, (plan, None))
        B, H, Lq, _ = call.q.shape
        own = dtype if self.exact_output else call.q.dtype
        out = call.q.new_empty((B, H, Lq, call.v.shape[-1]), dtype=own)
        with_lse = need_lse or save
        lse = call.q.new_empty((B, H, Lq), dtype=torch.float32) if with_lse else no_numbers(call.q.device)
        # few rows that are differentiated have a plan for the kernels of many
        if again is None and not save and self._decode.forward(call, plan, out, lse, need_lse):
            return out.to(dtype), lse if need_lse else None, ()
        given = {"q": call.q, "k": call.k, "v": call.v, "out": out, "lse": lse}
        given |= {n: call.inputs[n] for n in self._operands}
        if isinstance(call.q_offset, Tensor):
            given["offsets"] = call.q_offset.to(torch.int32)
        if save:
            given |= self._backward.kept(call, out)
        else:
            given["raw"] = given["sums"] = out
        if again is not None:
            for ready, located in again:
                if located is not None:
                    given[TABLES] = located.fill(call)
                ready.run(call, given)
        elif out.numel():
            flags = {"LSE": with_lse, "SAVE": save}
            sweeps = self._found(call, plan)
            every = [given if f.located is None else {**given, TABLES: f.located.room(call)} for f in sweeps]
            self._ahead(call, sweeps, every, flags)
            made: list[tuple[Prepared | None, Filling | None]] = []
            for found, own in zip(sweeps, every, strict=True):
                if found.located is not None:
                    found.located.fill(call, own[TABLES])
                made.append((self._launch(call, found, own, flags), found.located))
            settled = tuple((ready, located) for ready, located in made if ready is not None)
            if len(settled) == len(made):
                call.memo[place] = plan, settled
        result = out if out.dtype is dtype else out.to(dtype)
        if not save:
            return result, lse if need_lse else None, ()
        raw = given.get("raw", result)
        saved = (raw, *([lse] if self._backward.rule.logit is not None else []))
        return result, lse if need_lse else None, (*saved, *([given["sums"]] if "sums" in given else []))

    def backward(
        self,
        call: Call,
        plan: Plan | None,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """As `Kernel.backward`. ValueError names a feature that this backend does not have."""
        try:
            return self._backward.run(call, plan, saved, grad_out, grad_lse, needs)
        except UnsupportedError as error:
            raise unsupported(self.attention, error) from error

    def _found(self, call: Call, plan: Plan | None) -> tuple[OnDevice, ...]:
        """The launches of a forward pass, and what is known of their tables."""
        config = self.config("forward", call)
        if plan is not None:
            return self._sweeps.of(call, plan, config.rows, spans=True)
        place = "located", config
        found: tuple[OnDevice, ...] | None = call.memo.get(place)
        if found is None:
            try:
                found = call.memo[place] = self._without_plan(call, config)
            except UnsupportedError as error:
                raise unsupported(self.attention, error) from error
        return found

    def _without_plan(self, call: Call, config: Config) -> tuple[OnDevice, ...]:
        if self._locator.wanted(call):
            return (OnDevice.of(self._locator.sweep(call, config.rows, config.columns, searched=True)),)
        if self._sifter.wanted(call):
            return self._sifter.sweeps(call, config.rows, self.tiling(call))
        line = self._sweeps.line(call, config.rows, config.columns)
        if line is not None:
            return (line,)
        plan = build(self.attention, call.problem, self.tiling(call).tile(self.attention, call.problem))
        return self._sweeps.of(call, plan, config.rows, spans=True)

    def locates(self, call: Call) -> bool:
        """Whether it finds the boxes of a call on the device or in closed form, and is given no plan."""
        if self._locator.wanted(call) or self._sifter.wanted(call):
            return True
        after = differentiated(call)
        if not after and self._decode.wanted(call):
            return self._decode.closed(call)
        if not isinstance(call.q_offset, int):
            return False
        sweeps = [(False, self.config("forward", call))]
        if after:
            sweeps += [(False, self.config("dq", call)), (True, self.config("dkdv", call))]
        lines = [(line_of(self.attention, turned), config) for turned, config in sweeps]
        return all(line is not None and line.step <= config.columns for line, config in lines)

    def loads(self, scalar: str) -> bool:
        """As `LocatingKernel.loads`: every one may."""
        return True

    def _launch(
        self, call: Call, found: OnDevice, given: Mapping[str, Tensor], flags: Mapping[str, bool]
    ) -> Prepared | None:
        """Run a launch. Returns what runs it again, None where another kernel is to run the next time."""
        wished = self.config("forward", call)
        place = "walked", id(found), wished
        known: tuple[Walked, OnDevice] | None = call.memo.get(place)
        it = self._settle(call, found, wished) if known is None else known[0]
        call.memo[place] = it, found

        def run(it: Walked) -> tuple[Prepared, Any]:
            return launch(self._launched(call, it, found, given, flags))

        try:
            ready, compiled = run(it)
        except KernelError as error:
            if it.form.walk != "specialized":
                raise
            it = self._settle(call, found, wished, f"Triton does not compile them: {error.words}")
            call.memo[place] = it, found
            return run(it)[0]
        if it.form.walk == "specialized" and compiled is not None and not specialized(compiled):
            call.memo[place] = self._settle(call, found, wished, "Triton compiled the loop without them"), found
            return None
        return ready

    def _ahead(
        self, call: Call, sweeps: Sequence[OnDevice], given: Sequence[Mapping[str, Tensor]], flags: Mapping[str, bool]
    ) -> None:
        """Have the kernels of a forward pass compiled side by side, where there are several."""
        if not machine.on_gpu(call.q.device) or (len(sweeps) == 1 and sweeps[0].located is None):
            return
        wished = self.config("forward", call)
        # what else tells kernels apart is compiled as it comes
        place = wished, call.q.dtype, call.q.shape[3], call.v.shape[3], len(sweeps), tuple(flags.items())
        if place in self._begun:
            return
        self._begun.add(place)
        with torch.cuda.device(call.q.device):
            for found, own in zip(sweeps, given, strict=True):
                # what takes longest first
                walk = self._settle(call, found, wished)
                begin(wanted_by(self._launched(call, walk, found, own, flags)))
                if found.located is not None:
                    for it in found.located.wanted(call, own[TABLES]):
                        begin(it)

    def _launched(
        self, call: Call, it: Walked, found: OnDevice, given: Mapping[str, Tensor], flags: Mapping[str, bool]
    ) -> Launch:
        module = self.module(it.form)
        return Launch(call, it.form, module, found.tables, found.views, it.config, given, flags, found.places)

    def _settle(self, call: Call, found: OnDevice, wished: Config, reason: str = "") -> Walked:
        """Which loops a launch has; with a `reason` against specialised warps, without them from now on."""
        # lengths decide whether inputs are too large for 32 bits, and whether what was made for a call is aligned
        facts = wide(call.inputs), is_aligned(call, *operands_of(call).values())
        about = "walked", found.tables.kind, *facts, wished, self._refused
        known: Walked | None = call.alike.get(about)
        if known is not None and not reason:
            return known
        form = form_of(self.attention, call, found.tables)
        key = form, found.tables.bare, wished
        it = self._walks.get(key)
        if reason:
            # what is known of calls that are alike no longer holds
            self._refused += 1
            it = self._walks[key] = Walked(form, plain(wished), reason)
        elif it is None:
            it = self._walks[key] = walked(self.attention, form, found.tables, wished, self._capability(call))
        call.alike[(*about[:-1], self._refused)] = it
        return it

    @property
    def reasons(self) -> dict[Form, str]:
        """Why kernels have no specialised warps although their configuration asks for them."""
        return {key[0]: it.reason for key, it in self._walks.items() if it.reason}

    def few(self, call: Call) -> bool:
        """Whether a call is split over its keys, by pass `decode`."""
        return self._decode.wanted(call) and not differentiated(call)

    def refused(self, config: Config) -> str:
        """Why launches that wished for this configuration have no specialised warps; empty where they have."""
        return next((it.reason for (_, _, wished), it in self._walks.items() if wished == config and it.reason), "")

    def config(self, step: Pass, call: Call) -> Config:
        """The configuration of a pass."""
        place = "config", step, self.settings()
        found: Config | None = call.memo.get(place)
        if found is None:
            looks = look_alike(call)
            found = None if looks is None else call.alike.get((*place, looks))
            if found is None:
                found = self._choices.config(step, self.facts(call))
            call.memo[place] = found
            if looks is not None:
                call.alike[(*place, looks)] = found
        return found

    def _capability(self, call: Call) -> int:
        gpu = machine_of(call.q.device)
        return 90 if gpu is None else gpu.capability

    def facts(self, call: Call) -> Facts:
        """What the configurations of a call depend on."""
        on_line = not self.attention.gridded or moved(call)
        q_extents, k_extents = ({}, {}) if on_line else (call.q_extents, call.k_extents)
        visits = partial(self._visits_of, call)
        gpu, dtype = machine_of(call.q.device), dtype_of(self.attention, call)
        further = depths(self.attention, call.sizes) if self._operands else ()
        return Facts(gpu, dtype, call.sizes, q_extents, k_extents, visits, further, self._pair_tiles, self._sums)

    def _visits_of(self, call: Call) -> Visits:
        """What a forward pass visits; where tensors decide it, what the first call of such sizes did: reading them
        waits for the device."""
        if isinstance(call.q_offset, int) and not call.tables:
            return visits_of(self.attention, call.problem)
        place = bucket_of(call.sizes, call.q_extents, call.k_extents)
        found = self._visits.get(place)
        if found is None:
            found = self._visits[place] = visits_of(self.attention, call.problem)
        return found
