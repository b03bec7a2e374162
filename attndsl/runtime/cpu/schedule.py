"""The batches of row tiles of a plan, made once per plan and kept while they are small."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from threading import Lock
from typing import Literal as Lit

from attndsl.runtime.call import Call
from attndsl.runtime.cpu.flash import mask_added
from attndsl.runtime.cpu.frame import CallFrame
from attndsl.runtime.cpu.part import Batch, batches
from attndsl.runtime.cpu.refine import refined
from attndsl.runtime.cpu.tiling import FULL_ROWS, HeadClass, head_classes, merged, row_tiles, with_all_rows
from attndsl.schedule.plan import Plan

MAX_TILES = 32
"""Row tiles computed at once, where they are small."""
MAX_ROWS = 64
TRIMMED_ROWS = 32
"""Rows of a tile before tiles are joined; fewer where it is trimmed to the columns that its rows see."""
WHOLE_ROWS = 128
"""Rows of a tile for products on whole rows."""
BIAS_PAIRS = 1 << 22
"""Pairs of a tile whose bias is written out: large enough for the flash kernel's large blocks."""
SLAB_PAIRS = 1 << 21
"""Pairs of a tile whose products torch computes for compiled C: products of many rows are fastest, and their buffer
should stay in the last cache. Also where torch computes a leaf for every pair."""
KEPT_BYTES = 16 << 20
"""Index lists and masks kept per head class; beyond it they are made anew in each call."""


Way = Lit["rows", "flash", "native", "slabs"]
"""Who runs tiles: torch operations on whole rows, torch's flash kernel (with masks as numbers), compiled C that keeps
nothing of a tile's size, or compiled C beside numbers of every pair."""


class Schedule:
    """The batches of one head class."""

    def __init__(self, plan: Plan, heads: HeadClass, way: Way) -> None:
        self.plan, self.heads, self.way = plan, heads, way
        self._kept: list[Batch] | None = None
        self._too_large = False

    def batches(self, frame: CallFrame) -> Iterator[Batch]:
        """In order of their rows."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Batch] | None = None if self._too_large else []
        room = KEPT_BYTES
        for batch in self._made(frame):
            room -= _bytes(batch)
            if kept is not None and room >= 0:
                kept.append(batch)
            else:
                kept, self._too_large = None, True
            yield batch
        if kept is not None:
            self._kept = kept

    def _made(self, frame: CallFrame) -> Iterator[Batch]:
        trimmed = index_only(frame)
        rows = TRIMMED_ROWS if trimmed else MAX_ROWS
        tiles = row_tiles(self.plan, self.heads, WHOLE_ROWS if self.way == "rows" else rows)
        if self.way != "rows":
            rows, columns = FULL_ROWS, max(1, frame.call.k.shape[2])
            if self.way == "slabs":
                rows = max(MAX_ROWS, min(rows, SLAB_PAIRS // columns))
            elif self.way == "flash" and frame.module.bias is not None:
                rows = max(MAX_ROWS, min(rows, BIAS_PAIRS // columns))
            tiles = merged(tiles, rows, lists=self.way != "flash")
        if frame.module.output is not None:
            tiles = with_all_rows(tiles, frame.call.q.shape[2])
        if not trimmed:
            yield from batches(tiles, MAX_TILES)
            return
        for batch in batches(refined(tiles, frame), MAX_TILES):
            yield replace(batch, added=mask_added(frame, batch)) if self.way == "flash" and batch.partial else batch


def index_only(frame: CallFrame) -> bool:
    """Whether the mask is the same for all batches and heads, and for all calls of a plan."""
    mask = frame.module.mask
    if mask is None:
        return False
    if mask.reads("tensor") or mask.reads("own") or mask.reads("prefix"):
        return False
    return not mask.names("index") & {"b", "h", "hkv"} and frame.offset.shape[0] == 1


def _bytes(batch: Batch) -> int:
    return 256 + sum(x.nbytes for x in (batch.row_index, batch.col_index, batch.added) if x is not None)


class ScheduleCache:
    """The schedules of the last few plans. A plan is one problem's, so that its identity stands for all that its
    masks depend on."""

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = capacity
        self._known: OrderedDict[tuple[int, Way], tuple[Plan, list[Schedule]]] = OrderedDict()
        self._lock = Lock()

    def get(self, plan: Plan, call: Call, way: Way) -> list[Schedule]:
        """The schedules of a plan's head classes."""
        key = (id(plan), way)
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found[1]
        B, H = call.q.shape[:2]
        made = [Schedule(plan, c, way) for c in head_classes(plan.forward.pieces, B, H)]
        with self._lock:
            self._known[key] = (plan, made)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)
        return made
