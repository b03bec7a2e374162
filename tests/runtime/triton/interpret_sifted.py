"""Boxes on grids that the device finds, under the interpreter: `python -m tests.runtime.triton.interpret_sifted`.

Lists are compared with the definition's mask on every pair: a visible pair is in one listed box and no other, FULL
boxes hold no invisible pair, and where every box was looked at, no box is listed for nothing. Results and gradients
are compared with the dense fp64 definition; outputs again on other numbers. Nothing is copied to the host."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

import attndsl
from attndsl.reference import reference
from attndsl.reference.call import visible
from attndsl.runtime import binding
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.sift import Sifted, Sifter
from attndsl.schedule.tiling import Tiling
from tests.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, assert_right
from tests.runtime.triton import guard

MADE = torch.Generator().manual_seed(0)
FORWARD, BACKWARD = Config(32, 32, 4, 1), Config(32, 16, 4, 1)
USE = "use masks (neighborhood)\nfn near(i, j, w) = abs(i - j) <= w // 2\n"
WINDOW = "all(neighborhood(q.im, k.im, size(im), window, 1, dilation, false))"


def ints(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=MADE, dtype=torch.int32)


def bools(share: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=MADE) < share


@dataclass
class Case:
    """A spec and one call of it; `inputs` make tensors, of scalars too. `pieces`: of the forward pass, those whose
    boxes are sifted; `kinds` of batches and heads that see different pairs; `results`: these are compared too."""

    name: str
    text: str
    grid: Any
    inputs: dict[str, Callable[[], Tensor]]
    Lq: int
    Lk: int = 0
    q_offset: int = 0
    consts: dict[str, Any] = field(default_factory=dict[str, Any])
    B: int = 2
    H: int = 2
    Hkv: int = 1
    pieces: int = 1
    kinds: int = 2
    results: bool = False

    def qkv(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        Lk = self.Lk or self.Lq
        shapes = (self.B, self.H, self.Lq, 16), (self.B, self.Hkv, Lk, 16), (self.B, self.Hkv, Lk, 16)
        return [torch.randn(s, generator=MADE).to(dtype) for s in shapes]


CASES = [
    Case("tokens that are kept, under a window",
         "attention kept(input keep: bool[B, Lk], const window: int[2] = (3, 5), const dilation: int[2] = 1) {"
         f" grid im(y, x) mask {WINDOW} and keep[b, k] }}",
         (4, 9), {"keep": lambda: bools(0.7, 2, 36) & (torch.arange(36) > 9)}, 36, results=True),
    Case("kept, dilated",
         "attention kept(input keep: bool[B, Lk], const window: int[2] = 3, const dilation: int[2] = (1, 2)) {"
         f" grid im(y, x) mask {WINDOW} and keep[b, k] }}",
         (5, 9), {"keep": lambda: bools(0.5, 2, 45)}, 45, results=True),
    Case("valid frames",
         "attention frames(input valid: bool[B, T]) { grid video(t, y, x)"
         " mask valid[b, k.t] and k.t <= q.t and abs(q.y - k.y) <= 2 }",
         (3, 3, 7), {"valid": lambda: torch.tensor([[True, False, True], [False] * 3])}, 63),
    Case("packed images",
         "attention packed(input image: i32[B, Y, X]) { grid page(y, x)"
         " mask image[b, q.y, q.x] == image[b, k.y, k.x] }",
         (5, 7), {"image": lambda: ints(3, 2, 5, 7).sort(1).values}, 35),
    Case("text and video",
         "attention joint(input n: i32[B], const window: int[3] = 3) { grid text(m) ++ video(t, y, x)"
         " mask (k in video or k.m < n[b])"
         " and (not (q in video and k in video) or all(near(q.video, k.video, window))) }",
         {"text": (7,), "video": (2, 3, 5)}, {"n": lambda: torch.tensor([5, 0], dtype=torch.int32)}, 37, pieces=2,
         results=True),
    Case("pooled keys",
         "attention pooled(input keep: bool[B, N, M]) { grid q (y, x) grid k (v, u)"
         " mask abs(q.y // 2 - k.v) <= 1 and keep[b, k.v, k.u] }",
         {"q": (8, 10), "k": (4, 5)}, {"keep": lambda: bools(0.5, 2, 4, 5)}, 80, 20),
    Case("heads that see everything",
         "attention duo(input full: bool[H], const radius: int[2] = (1, 3)) { grid im(y, x)"
         " mask full[h] or (abs(q.y - k.y) <= radius[h] and abs(q.x - k.x) <= 2) }",
         (7, 7), {"full": lambda: torch.tensor([False, True])}, 49, B=1),
    Case("a window of a head",
         "attention own(input keep: bool[B, Lk], const radius: int[2] = (2, 0)) { grid im(y, x)"
         " mask keep[b, k] and abs(q.y - k.y) <= radius[h] }",
         (7, 5), {"keep": lambda: bools(0.5, 2, 35)}, 35, kinds=4),
    Case("tables of blocks",
         "attention blocks(input t: bool[Hkv, N, N, M, M]) { grid im(y, x)"
         " mask t[hkv, q.y // 4, k.y // 4, q.x // 4, k.x // 4] }",
         (7, 9), {"t": lambda: bools(0.4, 2, 2, 2, 3, 3)}, 63, B=1, Hkv=2),
    Case("either way",
         "attention either(input far: i32[B], input keep: i16[Y]) { grid im(y, x)"
         " mask (if keep[q.y] > 2 then abs(q.y - k.y) <= 1 else abs(q.x - k.x) <= 3) and abs(q.x - k.x) < far[b] }",
         (5, 9), {"far": lambda: ints(8, 2), "keep": lambda: ints(6, 5).short()}, 45),
    Case("a number that is a tensor",
         "attention wide(scalar w: int, scalar on: bool) { grid im(y, x)"
         " mask abs(q.y - k.y) <= w and (on or k.x <= q.x) and abs(q.x - k.x) <= 4 }",
         (5, 9), {"w": lambda: ints(4)[()], "on": lambda: bools(0.5)[()]}, 45, kinds=1, results=True),
]  # fmt: skip
MOVED = [
    Case("rows of a grid",
         "attention rows(input keep: bool[B, Y], scalar w: int) { grid im(y, x)"
         " mask keep[b, k.y] and abs(q.y - k.y) <= w }",
         (7, 5), {"keep": lambda: bools(0.6, 2, 7), "w": lambda: ints(4)[()]}, 12, 35, 20, results=True),
    Case("rows of segments",
         "attention parts(input n: i32[B]) { grid text(m) ++ video(t, y) mask k in text or k.t < n[b] and k <= q }",
         {"text": (9,), "video": (4, 7)}, {"n": lambda: ints(5, 2)}, 37, 20, results=True),
]  # fmt: skip
"""Calls whose rows, or keys, are no whole grid: positions follow a line."""


def load(case: Case) -> attndsl.AttentionFunction:
    return attndsl.load(USE + case.text, name=case.text.split("(")[0].split()[1], **case.consts)


def known(f: attndsl.AttentionFunction, given: dict[str, Tensor]) -> dict[str, Any]:
    """Inputs and scalars, as the definition takes them."""
    scalars = {s.name for s in f.attention.scalars}
    return {
        "inputs": {n: t for n, t in given.items() if n not in scalars},
        "scalars": {n: given[n].item() for n in scalars},
    }


def boxes(found: Sifted, buffer: Tensor, number: int, kind: int, tile: int) -> Iterator[tuple[list[int], bool]]:
    """First coordinates (and residues) and whether FULL, of the boxes of a tile."""
    piece = found.tables.pieces[number]
    width = len(piece.form.side.axes) * (2 if piece.form.side.any_split else 1)
    bounds = buffer[found.named["bounds", number] :][(kind * found.tables.tiles + tile) * 3 :][:3].tolist()
    listed = buffer[found.named["boxes", number] :]
    for i in range(bounds[0], bounds[2]):
        yield listed[i * width : (i + 1) * width].tolist(), i < bounds[1]


def positions(
    first: list[int], box: tuple[int, ...], splits: tuple[int, ...], extents: tuple[int, ...]
) -> tuple[list[int], bool]:
    """Positions of a segment that a box holds, and whether it lies inside."""
    count = len(box)
    residue = first[count:] or [0] * count
    axes = [[g + d * (c + i) for i in range(n)] for c, n, d, g in zip(first, box, splits, residue, strict=False)]
    inside = [[c for c in axis if 0 <= c < e] for axis, e in zip(axes, extents, strict=True)]
    found = [int(np.ravel_multi_index(c, extents)) for c in product(*inside)]
    return found, inside == axes


def check_lists(found: Sifted, call: Call, seen: np.ndarray[Any, Any], turned: bool) -> None:
    """Lists against the mask [B, H, Lq, Lk]."""
    tables, buffer = found.tables, found.fill(call)
    if turned:
        seen = seen.swapaxes(2, 3)
    own, other = (call.k_extents, call.q_extents) if turned else (call.q_extents, call.k_extents)
    order = buffer[found.named["order", -1] :][: tables.tiles].tolist()
    assert sorted(order) == list(range(tables.tiles))
    group = tables.pieces[0]
    for p in found.pieces:
        group = tables.pieces[p.number]
        extents = other[group.form.side.segment]
        start, stop = group.start, group.start + int(np.prod(extents))
        for b, h in product(range(call.sizes["B"]), range(call.sizes["H"])):
            kind = int(group.class_of[b % len(group.class_of), h % group.class_of.shape[1]])
            for tile in range(tables.tiles):
                count = len(tables.box)
                row = tables.rows[tile].tolist()
                first, ends, residue = row[:count], row[count : 2 * count], row[2 * count :]
                height = tuple(e - f for f, e in zip(first, ends, strict=True))
                at, _ = positions(first + residue, height, tables.splits, own[tables.q.segment])
                here = seen[b, h][np.asarray(at) + tables.start][:, start:stop]
                times = np.zeros(stop - start, int)
                for box, full in boxes(found, buffer, p.number, kind, tile):
                    columns, whole = positions(box, group.box, group.splits, extents)
                    times[columns] += 1
                    part = here[:, columns]
                    assert not full or (whole and part.all())
                    if p.look and not full:
                        assert part.any()
                assert times.max(initial=0) <= 1
                assert not here[:, times == 0].any()


def check_tables(case: Case) -> None:
    f = load(case)
    given = {n: make() for n, make in case.inputs.items()}
    stay = [s.name for s in f.attention.scalars]
    call = bind_call(f.attention, f.simplified, *case.qkv(), given, grid=case.grid, stay=stay)
    sifter = Sifter(f.simplified)
    assert sifter.wanted(call)
    seen = visible(f.attention, call.sizes, **known(f, given), grid=case.grid)
    mask = np.broadcast_to(seen.numpy(), [call.sizes[n] for n in ("B", "H", "Lq", "Lk")])
    for turned in (False, True):
        count = 0
        for launch in sifter.sweeps(call, 16, Tiling(16, 16), turned=turned):
            found = launch.located
            if found is None:
                continue
            assert isinstance(found, Sifted)
            assert found.batches * found.heads == case.kinds
            count += len(found.pieces)
            check_lists(found, call, mask, turned)
            if not turned and case.results:
                found.pieces = tuple(replace(p, look=False) for p in found.pieces)
                check_lists(found, call, mask, turned)
        assert count >= case.pieces if turned else count == case.pieces


def check_results(case: Case, dtype: torch.dtype) -> None:
    """Output, lse and gradients; then the output of a second call on other numbers, which makes lists of its own."""
    f = load(case)
    copied = binding.host_table
    for again in (False, True):
        given = {n: make() for n, make in case.inputs.items()}
        tensors = case.qkv(dtype)
        seed = torch.randn(case.B, case.H, case.Lq, 16, generator=MADE).to(dtype)
        leaves = [t.clone().requires_grad_() for t in tensors]
        options: Any = {"grid": case.grid, "q_offset": case.q_offset, "backend": "triton", "return_lse": True}
        binding.host_table = _refused
        with configured(FORWARD, dq=BACKWARD, dkdv=BACKWARD):
            out, lse = f(*leaves, **given, **options)
            found = [out, lse] if again else [out, lse, *torch.autograd.grad(out, leaves, seed)]
        binding.host_table = copied
        results: list[list[Tensor]] = []
        for precision in (dtype, torch.float64):
            live = [t.to(precision).requires_grad_() for t in tensors]
            dense, sums = reference(
                f.attention, *live, **known(f, given), grid=case.grid, q_offset=case.q_offset, dtype=precision
            )  # fmt: skip
            assert sums is not None
            results.append([dense, sums, *torch.autograd.grad(dense, live, seed.to(dense.dtype))])
        names = ("out", "lse", "grad q", "grad k", "grad v")
        for name, ours, eager, exact in zip(names, found, *results, strict=False):
            own = torch.float32 if name == "lse" else dtype
            factor = 8.0 if name == "lse" else GRADIENT_FACTOR if name.startswith("grad") else OUTPUT_FACTOR
            assert_right(name, ours.detach(), eager.detach(), exact.detach(), own, factor)


def _refused(tensor: Tensor) -> Any:
    raise AssertionError("a copy to the host")


def main() -> int:
    chosen = [c for c in CASES + MOVED if not sys.argv[1:] or c.name in sys.argv[1:]]
    for i, case in enumerate(chosen):
        try:
            if case not in MOVED:
                check_tables(case)
            if case.results:
                check_results(case, (torch.float32, torch.float16)[i % 2])
        except BaseException:
            print(f"wrong: {case.name}")
            raise
    print(f"{len(chosen)} of {len(chosen)} cases right")
    return 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
