"""Boxes that the device finds, under the interpreter: `python -m tests.runtime.triton.interpret_located GROUP GROUPS`.

Tables are compared with the mask on every pair: a visible pair is in one visited box and no other, FULL boxes hold no
invisible pair, and where every box was looked at, no box is visited for nothing. Results are those of the CPU backend.
Nothing is copied to the host."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import attndsl
from attndsl.codegen.triton_bands import searches_of
from attndsl.codegen.triton_classify import by_head
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Index, ParamRef, Size
from attndsl.ir.types import BOOL, FLOAT, INT, Kind
from attndsl.runtime import binding
from attndsl.runtime.binding import bind_call, host_table
from attndsl.runtime.call import Call
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.locate import Located, Locator
from attndsl.runtime.triton.tables import looked_up
from tests.runtime.triton import guard

MADE = torch.Generator().manual_seed(0)


def ints(high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.randint(0, high, shape, generator=MADE, dtype=dtype)


def bools(share: float, *shape: int) -> Tensor:
    return torch.rand(shape, generator=MADE) < share


def rising(high: int, *shape: int) -> Tensor:
    return ints(high, *shape).sort(-1).values


@dataclass
class Case:
    """A spec, its inputs and scalars, and the sizes of its call."""

    text: str
    given: dict[str, Any] = field(default_factory=dict[str, Any])
    B: int = 2
    H: int = 2
    Hkv: int = 1
    Lq: int = 50
    Lk: int = 50
    q_offset: Any = 0
    spans: bool = False
    results: bool = False

    def qkv(self) -> list[Tensor]:
        shapes = ((self.B, self.H, self.Lq, 16), (self.B, self.Hkv, self.Lk, 16), (self.B, self.Hkv, self.Lk, 16))
        return [torch.randn(s, generator=MADE) for s in shapes]


CASES = [
    Case("attention a(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
         {"doc": rising(5, 2, 50)}, spans=True, results=True),
    Case("attention a(input doc: i32[L] sorted) { mask doc[q] == doc[k] }", {"doc": rising(4, 129)}, 1, 1, 1, 129, 129,
         spans=True, results=True),
    Case("attention a(input doc: i32[B, L]) { mask doc[b, q] == doc[b, k] and k <= q }", {"doc": ints(3, 2, 50)}),
    Case("attention a(input t: bool[N, M]) { mask t[q // 16, k // 16] and k <= q }", {"t": bools(0.4, 5, 5)}),
    Case("attention a(input t: bool[H, N, M]) { mask t[h, q // 32, k // 8] }", {"t": bools(0.4, 2, 2, 7)},
         results=True),
    Case("attention a(input t: bool[N, M]) { mask t[q // 10, k // 7] }", {"t": bools(0.5, 8, 11)}),
    Case("attention a(input full: bool[H]) { mask k <= q and (full[h] or k < 8 or q - k < 20) }",
         {"full": torch.tensor([True, False, False, True])},
         H=4, Hkv=2, spans=True),
    Case("attention a(input n: i32[B, Hkv]) { mask k <= q and k < n[b, hkv] }",
         {"n": torch.tensor([[3, 50], [0, 33]], dtype=torch.int32)}, H=4, Hkv=2, spans=True),
    Case("attention a(input seg: i16[Lk], input w: i64[H]) { mask abs(q - k) < w[h] and seg[k] % 3 != 1 }",
         {"seg": ints(9, 50, dtype=torch.int16), "w": torch.tensor([5, 33])}),
    Case("attention a(input far: f32[L]) { mask far[q] < far[k] or k % 5 == q % 5 }",
         {"far": torch.randn(50, generator=MADE)}),
    Case("attention a(scalar w: int) { mask k <= q and q - k < w }", {"w": 25}, Lq=20, Lk=60,
         q_offset=torch.tensor([40, 3]), spans=True, results=True),
    Case("attention a(scalar w: int, scalar c: float, scalar on: bool) {"
         " score s - c * (q - k) mask k <= q and q - k < w or on and k < 3 }",
         {"w": torch.tensor([9, 25])[1], "c": torch.tensor(0.125), "on": torch.tensor(True)}, spans=True, results=True),
    Case("attention a(scalar c: float, scalar w: int) { score s * c mask k <= q and q - k < w }",
         {"c": torch.tensor(0.5, dtype=torch.float64), "w": torch.tensor(7, dtype=torch.int16)}, Lq=1, q_offset=40,
         spans=True, results=True),
    Case("attention a { mask k <= q }", {}, Lq=3, Lk=90, q_offset=torch.tensor([87, 0]), spans=True),
    Case("attention a(input p: i32[B, Lk]) { mask p[b, k] >= 0 and p[b, k] <= q }", {"p": ints(70, 2, 50) - 9},
         q_offset=torch.tensor([0, 20]), results=True),
    Case("attention a(input doc: i32[B, Lk] sorted, input mine: i32[B, Lq] sorted) { mask mine[b, q] == doc[b, k] }",
         {"doc": rising(9, 2, 50) * 2, "mine": rising(9, 2, 17)}, Lq=17, spans=True),
    Case("attention a(input pick: i32[L]) { mask pick[pick[k] % 4] < 3 or pick[min(q, k)] > 2 }",
         {"pick": ints(5, 50)}),
    Case("attention a(input x: i32[L], const steps: int[3] = (1, 4, 9)) {"
         " mask select_it(x[k], q - k) and steps[q % 3] < 9 } fn select_it(a, d) = if a > 1 then d >= 0 else d < 4",
         {"x": ints(4, 50)}),
    Case("attention a(input one: bool[B]) { mask one[b] and k <= q }", {"one": torch.tensor([True, False])}, Lq=1,
         Lk=65, q_offset=9, spans=True, results=True),
]  # fmt: skip


def called(case: Case) -> tuple[attndsl.AttentionFunction, Call]:
    f = attndsl.load(case.text)
    stay = [s.name for s in f.attention.scalars if isinstance(case.given[s.name], Tensor)]
    call = bind_call(f.attention, f.simplified, *case.qkv(), case.given, q_offset=case.q_offset, stay=stay)
    return f, call


def dense(call: Call) -> np.ndarray:
    """The mask on every pair, [B, H, Lq, Lk]."""
    z = call.sizes
    axes = np.indices((z["B"], z["H"], z["Lq"], z["Lk"]), sparse=True)
    offset: Any = call.q_offset
    if isinstance(offset, Tensor):
        offset = offset.numpy()[:, None, None, None]
    b, h, row, k = axes
    values: dict[Any, Any] = {Index(INT, n): a for n, a in (("b", b), ("h", h), ("row", row), ("k", k))}
    values |= {Index(INT, "q"): row + offset, Index(INT, "hkv"): h // (z["H"] // z["Hkv"])}
    values |= {Size(INT, n): v for n, v in z.items()}
    kinds = {Kind.INT: INT, Kind.FLOAT: FLOAT, Kind.BOOL: BOOL}
    values |= {ParamRef(kinds[s.kind], s.name): np.asarray(call.scalars[s.name])[()] for s in call.attention.scalars}
    tables = {n: host_table(t) for n, t in call.inputs.items()}
    tables |= {p.name: np.asarray(p.default) for p in call.attention.consts if isinstance(p.default, tuple)}
    found = evaluate(call.attention.mask, Env(values, tables))
    return np.broadcast_to(np.asarray(found, bool), (z["B"], z["H"], z["Lq"], z["Lk"]))


def boxes(located: Located, buffer: Tensor, kind: int, tile: int) -> Iterator[tuple[int, bool]]:
    """First column and whether FULL, of the boxes of a tile."""
    s, numbers = located.sizes, located.form.numbers
    bounds = located.view(buffer, "bounds")[(kind * s.tiles + tile) * numbers :][:numbers].tolist()
    if located.form.spans:
        ends, origins = bounds[:5], bounds[5:]
        for i in range(ends[-1]):
            n = next(n for n in range(5) if i < ends[n])
            yield i * s.box + origins[n], i < ends[1]
        return
    begin, middle, end = bounds[:3]
    listed = located.view(buffer, "boxes")
    for i in range(begin, end):
        yield int(listed[i]), i < middle


def check_tables(located: Located, call: Call) -> None:
    """Tables against the mask."""
    s, z = located.sizes, call.sizes
    visible = dense(call)
    buffer = located.fill(call)
    group = z["H"] // z["Hkv"]
    if located.form.turned:
        visible = visible.swapaxes(2, 3)
    assert located.view(buffer, "classes")[: s.kinds].tolist() == list(range(s.kinds))
    rows = located.view(buffer, "rows")[: 2 * s.tiles].reshape(-1, 2).tolist()
    if not located.form.decode:
        order = located.view(buffer, "order")[: s.tiles].tolist()
        assert sorted(order) == list(range(s.tiles))
        costs = located.view(buffer, "cost")[: s.kinds * s.tiles].reshape(s.kinds, s.tiles).sum(0)[order].tolist()
        assert costs == sorted(costs, reverse=True)
    if located.form.searched:
        wanted = looked_up(
            searches_of(call.attention), z["Lq"], z["Lk"], {n: host_table(t) for n, t in call.inputs.items()}
        )
        for i, places in enumerate(wanted):
            assert located.view(buffer, f"search{i}")[: z["Lq"]].tolist() == places.tolist()
    for kind in range(s.kinds):
        b, head = kind // s.heads, kind % s.heads
        grouped = located.form.decode and by_head(call.attention)
        heads = slice(head * group, head * group + group) if grouped else slice(head, head + 1)
        seen = visible[b, heads]
        if not by_head(call.attention):
            assert (visible[b] == seen[:1]).all()
        for tile, (start, stop) in enumerate(rows):
            assert (start, stop) == (tile * s.height, min(tile * s.height + s.height, s.rows))
            here = seen[:, start:stop]
            times = np.zeros(s.columns, int)
            for first, full in boxes(located, buffer, kind, tile):
                part = here[..., first : first + s.box]
                times[first : first + s.box] += 1
                assert 0 <= first < s.columns
                if full:
                    assert part.all()
                    assert first + s.box <= s.columns
                elif located.look and not (located.form.spans and not _regular(here, s.box)):
                    assert part.any()
                    assert not part.all() or first + s.box > s.columns
            assert times.max(initial=0) <= 1
            assert not here[..., times == 0].any()


def _regular(here: np.ndarray, box: int) -> bool:
    """Whether spans can tell the boxes of a tile one by one."""
    kinds: list[int] = []
    for first in range(0, here.shape[-1], box):
        part = here[..., first : first + box]
        whole = first + box <= here.shape[-1]
        kinds.append(0 if not part.any() else 2 if part.all() and whole else 1)
    runs = [k for i, k in enumerate(kinds) if i == 0 or kinds[i - 1] != k]
    return runs.count(1) <= 3 and runs.count(2) <= 2


def check(case: Case) -> None:
    f, call = called(case)
    locator = Locator(f.simplified)
    assert locator.wanted(call)
    for rows, columns, turned in ((16, 16, False), (32, 8, False), (16, 8, True)):
        sweep = locator.sweep(call, rows, columns, turned=turned, searched=not turned)
        assert sweep.form.searched is (bool(searches_of(f.simplified)) and not turned)
        assert sweep.form.spans is (case.spans and not turned)
        check_tables(sweep, call)
    check_tables(locator.few(call, 16, 16), call)
    if not case.results:
        return
    unsure = locator.sweep(call, 16, 16)
    unsure.look = False
    check_tables(unsure, call)
    check_results(case, f)


def check_results(case: Case, f: attndsl.AttentionFunction) -> None:
    """Outputs and gradients, and that a second call on other numbers makes tables of its own."""
    copied = binding.host_table
    for _ in range(2):
        binding.host_table = _refused
        leaves = [t.requires_grad_() for t in case.qkv()]
        options = {**case.given, "q_offset": case.q_offset}
        with configured(Config(16, 16, 4, 1), dq=Config(16, 16, 4, 1), dkdv=Config(16, 16, 4, 1)):
            out = f(*leaves, **options, backend="triton")
            seed = torch.randn(out.shape, generator=MADE)
            found = torch.autograd.grad(out, leaves, seed)
            with torch.no_grad():
                alone = f(*leaves, **options, backend="triton")
        binding.host_table = copied
        wanted = f(*leaves, **options, backend="cpu")
        for a, b in zip(
            (out, alone, *found), (wanted, wanted, *torch.autograd.grad(wanted, leaves, seed)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def _refused(tensor: Tensor) -> Any:
    raise AssertionError("a copy to the host")


def check_sizes() -> None:
    """Calls without batches, rows or keys, and with more of one than of the other."""
    f = attndsl.load("attention a(input n: i32[B, Lk] sorted) { mask k <= q and n[b, k] > 1 }")
    for B, Lq, Lk in ((2, 5, 0), (2, 0, 5), (0, 5, 5), (1, 80, 17)):
        case = Case("", {}, B, 2, 1, Lq, Lk)
        given = {"n": rising(4, B, Lk)}
        for offset in (0, torch.full((B,), 3)):
            leaves = [t.requires_grad_() for t in case.qkv()]
            found, wanted = (f(*leaves, **given, q_offset=offset, backend=n) for n in ("triton", "cpu"))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
            for a, b in zip(*(torch.autograd.grad(t.sum(), leaves) for t in (found, wanted)), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            with torch.no_grad():
                torch.testing.assert_close(f(*leaves, **given, q_offset=offset, backend="triton"), wanted, rtol=1e-4,
                                           atol=1e-4)  # fmt: skip


def main() -> int:
    check_sizes()
    group, groups = int(sys.argv[1]), int(sys.argv[2])
    chosen = CASES[group::groups]
    for case in chosen:
        try:
            check(case)
        except BaseException:
            print(f"wrong: {case.text}")
            raise
    print(f"{len(chosen)} of {len(chosen)} cases right")
    return 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
