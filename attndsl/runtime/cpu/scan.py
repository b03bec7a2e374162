"""Feature maps on the CPU in linear time: walks the sequence block by block, and keeps states for the backward.

The backward keeps the states before each block, and goes back over the blocks: each is computed again and
differentiated, from the gradients of its rows and of the state after it to those of what it read and of the state
before it.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.cpu.blocks import BLOCK_NUMBERS, CHUNK, Block, Lane, ScanTile, View, blocks
from attndsl.runtime.cpu.chunks import Decays, Sees, advance, from_state, times, within
from attndsl.runtime.cpu.frame import CallFrame
from attndsl.runtime.cpu.support import quotient
from attndsl.runtime.state import State
from attndsl.schedule.legalise import ScanForm

States = list[Tensor]
"""A state of each lane [b, g, r, F, E]."""


@dataclass(frozen=True)
class Step:
    """A block, and what is done on it: rows read states (`reads`), see their own chunk (`sees`), keys change states
    (`adds`). `turned` walks it from its end to its start."""

    block: Block
    reads: bool
    sees: Sees | None
    adds: bool
    turned: bool = False


class Scan:
    """One call, cut into steps."""

    def __init__(self, frame: CallFrame, form: ScanForm, state: State | None) -> None:
        call = frame.call
        self.frame, self.form, self.state, self.call = frame, form, state, call
        assert isinstance(call.q_offset, int)
        offset, rows, keys = call.q_offset, call.q.shape[2], call.k.shape[2]
        k, v = call.k, call.v
        reach = 0 if form.kind == "reduction" else offset + rows
        if reach > keys:
            k, v = (torch.nn.functional.pad(x, (0, 0, 0, reach - keys)) for x in (k, v))
        self.view = View(frame, form, call.q, k, v, 0 if state is None else state.position, offset)
        self.steps = self._steps(offset, rows, keys)

    def _steps(self, offset: int, rows: int, keys: int) -> list[Step]:
        most = self.most_chunks()
        steps: list[Step] = []
        if self.form.kind == "reduction":
            steps += [Step(b, False, None, True) for b in blocks(None, 0, keys, most)]
            return steps + [Step(b, True, None, False) for b in blocks(0, None, rows, most)]
        # past the last key only decay goes on: keys there are padding
        steps += [Step(b, False, None, True) for b in blocks(None, 0, offset, most)]
        sees: Sees = "all" if self.form.kind == "both" else "before" if self.form.strict else "up to"
        along = [Step(b, True, sees, True) for b in blocks(0, offset, rows, most)]
        steps += along
        if self.form.kind == "both":
            steps += [Step(s.block, True, None, True, turned=True) for s in reversed(along)]
        return steps

    def most_chunks(self) -> int:
        B, H = self.call.q.shape[:2]
        F, E = self.form.features(self.call.sizes), self.call.v.shape[-1] + 1
        width = max(F, E, CHUNK, F * E // CHUNK, 16 * F if self.form.weight.decay.channel else 0)
        return max(1, min(64, BLOCK_NUMBERS // max(1, B * H * width * CHUNK)))

    # States.

    def lane_shapes(self) -> list[tuple[int, int]]:
        n, sizes = self.view.normaliser, self.call.sizes
        F, E = self.form.features(sizes), self.call.v.shape[-1]
        shapes = [(F, E + 1 if n is not None and n.own else E)]
        if n is not None and n.node is not None and not n.own:
            z = self.form.z_features(sizes)
            shapes.append((1, z) if n.query is None else (z, 1))
        return shapes

    def empty(self) -> States:
        B, G = self.call.q.shape[0], self.call.k.shape[1]
        lead = (B, G, self.view.state_group)
        return [torch.zeros((*lead, *shape), dtype=self.frame.dtype) for shape in self.lane_shapes()]

    def start(self) -> States:
        """The states that the call starts from."""
        if self.state is None:
            return self.empty()
        return self.from_parts(self.state.S, self.state.z)

    def from_parts(self, S: Tensor | None, z: Tensor | None) -> States:
        """S [B, Hs, F, Dv] and z [B, Hs, Fz] (or gradients of them, None for zero) as states of lanes."""
        made = self.empty()
        n = self.view.normaliser
        group = self.view.state_group
        if S is not None:
            made[0][..., : S.shape[-1]] = S.unflatten(1, (-1, group))
        if z is not None and n is not None:
            part = z.unflatten(1, (-1, group))
            if n.own:
                made[0][..., -1] = part
            elif n.query is None:
                made[1][..., 0, :] = part
            else:
                made[1][..., 0] = part
        return made

    def to_parts(self, states: States) -> tuple[Tensor, Tensor | None]:
        """S and z from states of lanes."""
        n = self.view.normaliser
        S = states[0][..., : self.call.v.shape[-1]].flatten(1, 2).contiguous()
        if n is None or n.node is None:
            return S, None
        z = states[0][..., -1] if n.own else states[1][..., 0, :] if n.query is None else states[1][..., 0]
        return S, z.flatten(1, 2).contiguous()

    def first_segment(self) -> Tensor | None:
        """The segment of the position before the first [b, g, r, n]; None if nothing was seen."""
        if self.state is None or self.state.segment is None:
            return None
        B, G, r = self.call.q.shape[0], self.call.k.shape[1], self.view.state_group
        given = self.state.segment
        return given.expand(B, G * r, given.shape[-1]).unflatten(1, (G, r))

    # Steps.

    def step(self, step: Step, tile: ScanTile, states: States, before: Tensor | None) -> tuple[list[Tensor], States]:
        """What the rows get by lane [b, g, t, r, C, E], and the states after the block."""
        view = self.view
        if not step.adds:
            rows = [view.rows(tile, f) for f in self._row_functions()]
            if len(rows) < len(states):
                rows.append(rows[0].new_ones((*rows[0].shape[:-1], 1)))
            return [times(q, s.unsqueeze(2)) for q, s in zip(rows, states, strict=True)], states
        lanes = view.lanes(tile)
        segment = view.segment(tile)
        if step.turned:
            lanes = [Lane(*(None if x is None else _turn(x) for x in (w.query, w.key, w.value))) for w in lanes]  # type: ignore[arg-type]
            segment = None if segment is None else _turn(segment)
        decay = view.decays(tile, step.sees or "up to", segment, before)
        outs: list[Tensor] = []
        after: States = []
        for lane, state in zip(lanes, states, strict=True):
            starts, end = advance(lane.key, lane.value, decay, state)
            after.append(end)
            if step.reads:
                outs.append(self._rows(step, lane, decay, starts))
        return outs, after

    def _row_functions(self) -> list[Any]:
        f = self.view.functions
        return [x for x in (f.query, f.z_query) if x is not None]

    def _rows(self, step: Step, lane: Lane, decay: Decays, starts: Tensor) -> Tensor:
        assert lane.query is not None
        out = from_state(lane.query, decay, starts)
        if step.sees is not None:
            out = out + within(lane.query, lane.key, lane.value, decay)
        return _turn(out) if step.turned else out

    def last_segment(self, step: Step, tile: ScanTile) -> Tensor | None:
        """The segment of the last position that a step walks over."""
        if not step.adds or not self.view.functions.segments:
            return None
        segment = self.view.segment(tile)
        assert segment is not None
        return segment[:, :, 0, :, 0] if step.turned else segment[:, :, -1, :, -1]

    # Rows.

    def finish(self, tile: ScanTile, raws: list[Tensor]) -> Tensor:
        """The output of rows from what the lanes gave [b, g, t, r, C, E]."""
        n = self.view.normaliser
        out = raws[0]
        if n is not None:
            values: dict[str, Any] = self.view.places(tile)
            count = self.view.count(tile) if self.form.kind != "both" else None
            if n.node is not None:
                total = raws[0][..., -1:] if n.own else raws[1]
                if not n.own and n.query is None:
                    total = total.unsqueeze(-2)
                if n.node.kind == "mean":
                    assert count is not None
                    total = quotient(total, count.to(total.dtype))
                values["total"] = total
            if count is not None:
                values["count"] = count
            function = self.view.functions.denominator
            assert function is not None
            out = quotient(raws[0][..., : self.call.v.shape[-1]], tile.run(function, **values))
        function = self.view.functions.output
        if function is None:
            return out
        found = tile.run(function, o=out.unsqueeze(-2), **self.view.places(tile))
        return found.squeeze(-2).expand(out.shape)

    @property
    def apart(self) -> bool:
        """Whether rows get what they see in two steps, and are finished after them."""
        return self.form.kind == "both"

    def rows_of(self, whole: Tensor) -> Tensor:
        """[B, H, L, E] as [b, g, r, L, E]."""
        return whole.unflatten(1, (self.call.k.shape[1], self.view.group))


def _turn(x: Tensor) -> Tensor:
    """[b, g, t, r, C, ..] from the end to the start."""
    return x.flip(2, 4)


def forward(
    frame: CallFrame, form: ScanForm, state: State | None, need_state: bool, save: bool
) -> tuple[Tensor, State | None, tuple[Tensor, ...]]:
    """The output, the state after the last row, and what backward needs."""
    scan = Scan(frame, form, state)
    call = frame.call
    B, H, Lq = call.q.shape[:3]
    apart = scan.apart
    raws = [torch.zeros((B, H, Lq, e), dtype=frame.dtype) for _, e in scan.lane_shapes()] if apart else []
    out = torch.zeros((B, H, Lq, call.v.shape[-1]), dtype=call.q.dtype)
    states, before = scan.start(), scan.first_segment()
    kept: list[States] = []
    turned = False
    for step in scan.steps:
        if step.turned and not turned:
            states, before, turned = scan.empty(), None, True
        tile = scan.view.tile(step.block)
        if save:
            kept.append(states)
        given, states = scan.step(step, tile, states, before)
        before = scan.last_segment(step, tile)
        if step.reads:
            if not apart:
                tile.batch.put_rows(scan.rows_of(out), scan.finish(tile, given))
            for whole, part in zip(raws, given, strict=False):
                add_rows(tile, scan.rows_of(whole), part)
    if apart:
        _finish_all(scan, raws, out)
    after = None
    if need_state:
        S, z = scan.to_parts(states)
        segment = before if scan.steps else scan.first_segment()
        after = State(S, z, scan.view.position + Lq, None if segment is None else segment.flatten(1, 2))
    saved: list[Tensor] = []
    if save:
        saved = [torch.stack([s[i] for s in kept]) if kept else states[i].new_empty(0) for i in range(len(states))]
        saved += raws
    return out, after, tuple(saved)


def _finish_all(scan: Scan, raws: list[Tensor], out: Tensor) -> None:
    for tile in row_tiles(scan):
        parts = [tile.batch.take_rows(scan.rows_of(r)) for r in raws]
        tile.batch.put_rows(scan.rows_of(out), scan.finish(tile, parts))


def row_tiles(scan: Scan) -> list[ScanTile]:
    return [scan.view.tile(b) for b in blocks(0, None, scan.call.q.shape[2], scan.most_chunks())]


def add_rows(tile: ScanTile, whole: Tensor, part: Tensor) -> None:
    rows = tile.batch.rows
    whole.narrow(3, rows.start, rows.count).add_(part.transpose(2, 3).flatten(3, 4))
