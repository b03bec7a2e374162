"""Plans made from the visible pairs themselves, so that the CPU kernel is tested without the planner."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from attndsl.schedule.plan import AxisLayout, Blocks, Bounds, Layout, Piece, Plan, TileClass, TilePass


def block_plan(visible: Tensor, rows: int = 16, cols: int = 8, exact: bool = True) -> Plan:
    """A block list for the visible pairs [B, H, Lq, Lk]. Not `exact`: every box, all under the mask."""
    B, H, Lq, Lk = visible.shape
    seen = visible.numpy()
    keys: dict[bytes, int] = {}
    sources: list[Blocks] = []
    classes = np.zeros((B, H), dtype=np.int32)
    for b in range(B):
        for h in range(H):
            key = seen[b, h].tobytes()
            if key not in keys:
                keys[key] = len(sources)
                sources.append(_blocks(seen[b, h], rows, cols, exact))
            classes[b, h] = keys[key]
    layouts = [Layout("", 0, (AxisLayout("", n, box),)) for n, box in ((Lq, rows), (Lk, cols))]
    one = TilePass("forward", (Piece(layouts[0], layouts[1], classes, tuple(sources)),), exact)
    return Plan(one, 0, (), (), lambda: one, lambda _: Bounds(None, 1.0, 1.0, 1))


def _blocks(seen: np.ndarray, rows: int, cols: int, exact: bool) -> Blocks:
    Lq, Lk = seen.shape
    indptr, first, kind = [0], [], []
    for r in range(0, Lq, rows):
        for c in range(0, Lk, cols):
            box = seen[r : r + rows, c : c + cols]
            if exact and not box.any():
                continue
            first.append((c,))
            is_full = exact and box.all() and c + cols <= Lk
            kind.append(int(TileClass.FULL if is_full else TileClass.PARTIAL))
        indptr.append(len(kind))
    places = np.array(first, dtype=np.int32).reshape(-1, 1)
    ones = np.ones(len(kind), dtype=np.int32)
    return Blocks(np.array(indptr, dtype=np.int32), places, ones, np.array(kind, dtype=np.uint8))
