"""The backward pass of a scan: goes back over the blocks, computes each again and differentiates it.

A block's results are its rows and the states after it; their gradients give those of what it read and of the states
before it, which were kept.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.cpu.blocks import ScanTile
from attndsl.runtime.cpu.frame import CallFrame
from attndsl.runtime.cpu.scan import Scan, States, Step, add_rows, row_tiles
from attndsl.runtime.state import State
from attndsl.schedule.legalise import ScanForm


def backward(
    frame: CallFrame,
    form: ScanForm,
    state: State | None,
    saved: tuple[Tensor, ...],
    grad_out: Tensor | None,
    grad_state: tuple[Tensor | None, Tensor | None],
    needs: frozenset[str],
) -> Mapping[str, Tensor]:
    """Gradients by name."""
    return _Backward(Scan(frame, form, state), saved, grad_state, needs).result(grad_out)


class _Backward:
    def __init__(
        self,
        scan: Scan,
        saved: tuple[Tensor, ...],
        grad_state: tuple[Tensor | None, Tensor | None],
        needs: frozenset[str],
    ) -> None:
        self.scan, self.needs = scan, needs
        lanes = len(scan.lane_shapes())
        self.kept, self.raws = saved[:lanes], list(saved[lanes:])
        self.grad_state = grad_state
        view, dtype = scan.view, scan.frame.dtype
        self.totals = {n: torch.zeros(x.shape, dtype=dtype) for n, x in (("Q", view.q), ("K", view.k), ("V", view.v))}

    def result(self, grad_out: Tensor | None) -> Mapping[str, Tensor]:
        scan, call = self.scan, self.scan.call
        grads = self._raw_gradients(grad_out)
        states = scan.from_parts(*self.grad_state)
        befores = self._befores()
        starts = scan.empty()
        turned = bool(scan.steps) and scan.steps[-1].turned
        ahead, states = (scan.empty(), states) if turned else (states, states)
        for i in reversed(range(len(scan.steps))):
            step = scan.steps[i]
            if turned and not step.turned:
                ahead, turned = states, False
            ahead = self._step(i, step, grads, ahead, befores[i])
        starts = ahead
        found = scan.frame.gradients()
        for name, total in self.totals.items():
            part = total.narrow(2, 0, getattr(call, name.lower()).shape[2])
            found[name.lower()] = found[name.lower()] + part if name.lower() in found else part
        like = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        if scan.state is not None:
            S, z = scan.to_parts(starts)
            found["state.S"] = S
            like["state.S"] = scan.state.S
            if z is not None and scan.state.z is not None:
                found["state.z"] = z
                like["state.z"] = scan.state.z
        return {n: found[n].to(like[n].dtype) for n in self.needs if n in found}

    def _befores(self) -> list[Tensor | None]:
        scan = self.scan
        found: list[Tensor | None] = []
        before, turned = scan.first_segment(), False
        for step in scan.steps:
            if step.turned and not turned:
                before, turned = None, True
            found.append(before)
            before = scan.last_segment(step, scan.view.tile(step.block)) if scan.view.functions.segments else None
        return found

    def _raw_gradients(self, grad_out: Tensor | None) -> list[Tensor]:
        """Gradients of what the rows got in two steps, from those of the output; else of the output itself."""
        scan = self.scan
        shape = (*scan.call.q.shape[:3], scan.call.v.shape[-1])
        dtype = scan.frame.dtype
        if grad_out is None:
            grad_out = torch.zeros((), dtype=dtype).expand(shape)
        if not scan.apart:
            return [grad_out]
        grads = [torch.zeros_like(r) for r in self.raws]
        for tile in row_tiles(scan):
            parts = [tile.batch.take_rows(scan.rows_of(r)).detach().requires_grad_() for r in self.raws]
            record = _Record(self, tile)
            with torch.enable_grad():
                out = scan.finish(tile, parts)
            found = record.pull([out], [tile.batch.take_rows(scan.rows_of(grad_out)).to(dtype)], parts)
            for whole, part in zip(grads, found, strict=True):
                if part is not None:
                    tile.batch.put_rows(scan.rows_of(whole), part)
        return grads

    def _step(self, i: int, step: Step, grads: list[Tensor], ahead: States, before: Tensor | None) -> States:
        scan = self.scan
        tile = scan.view.tile(step.block)
        states = [k[i].detach().requires_grad_() for k in self.kept]
        record = _Record(self, tile)
        with torch.enable_grad():
            given, after = scan.step(step, tile, states, before)
            if step.reads and not scan.apart:
                given = [scan.finish(tile, given)]
        outputs, wanted = list(given), []
        if step.reads:
            wanted = [tile.batch.take_rows(scan.rows_of(g)).to(scan.frame.dtype) for g in grads]
        if step.adds:
            outputs += after
            wanted += ahead
        found = record.pull(outputs, wanted, states)
        passed = [torch.zeros_like(s) if g is None else g for g, s in zip(found, states, strict=True)]
        # rows that only read leave the state as it is
        return passed if step.adds else [a + p for a, p in zip(ahead, passed, strict=True)]


class _Record:
    """A block computed under autograd: what it reads are leaves."""

    def __init__(self, owner: _Backward, tile: ScanTile) -> None:
        self.owner, self.tile = owner, tile
        tile.recording = True
        self.tape = tile.call.record()

    def pull(self, outputs: list[Tensor], grads: list[Tensor], leaves: list[Tensor]) -> list[Tensor | None]:
        """Gradients of the leaves; those of Q, K, V and of other reads are added up."""
        tile = self.tile
        tile.call.stop()
        kept = [(o, g.expand(o.shape)) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
        if not kept:
            return [None] * len(leaves)
        every = [*leaves, *tile.own.values(), *self.tape.leaves]
        found: Any = torch.autograd.grad([o for o, _ in kept], every, [g for _, g in kept], allow_unused=True)
        own = found[len(leaves) : len(leaves) + len(tile.own)]
        for name, grad in zip(tile.own, own, strict=True):
            if grad is not None:
                self._collect(name, grad)
        self.tape.collect(list(found[len(leaves) + len(tile.own) :]))
        return list(found[: len(leaves)])

    def _collect(self, name: str, grad: Tensor) -> None:
        total = self.owner.totals[name]
        if name == "Q":
            add_rows(self.tile, self.owner.scan.rows_of(total), grad.squeeze(-2))
        else:
            batch = self.tile.batch
            total.narrow(2, batch.col_start, batch.tiles * batch.col_step).add_(
                grad.squeeze(3).squeeze(3).flatten(2, 3)
            )
