"""Tables in closed form: every visible pair once, no invisible one in a FULL box, as few boxes as the planner's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import attndsl
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Index, ParamRef, Size
from attndsl.ir.types import INT
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call
from attndsl.runtime.triton import lines as lines_module
from attndsl.runtime.triton.lines import line_of
from attndsl.runtime.triton.sweeps import Sweeps, uploaded
from attndsl.runtime.triton.tables import LaunchTables, QSegment, launches
from attndsl.schedule.build import build
from attndsl.schedule.tiling import Tiling

MASKS = [
    ("{ }", {}, True),
    ("{ mask k <= q }", {}, True),
    ("{ mask k < q }", {}, True),
    ("(scalar w: int) { mask k <= q and q - k < w }", {"w": 37}, True),
    ("(scalar w: int) { mask k <= q and q - k < w }", {"w": 0}, True),
    ("(scalar w: int) { mask abs(q - k) <= w }", {"w": 20}, True),
    ("(scalar p: int) { mask k <= q or k < p }", {"p": 45}, True),
    ("(scalar w: int) { mask k <= q and (k < 4 or q - k < w) }", {"w": 30}, False),
    ("(scalar w: int) { mask k <= q and (k < 40 or q - k < w) }", {"w": 30}, False),
    ("{ mask k // 16 <= q // 16 }", {}, True),
    ("{ mask k // 24 == q // 24 }", {}, True),
    ("{ mask k >= q }", {}, True),
    ("(scalar far: int) { mask k <= q and (q - k < 9 or far < 5) }", {"far": 3}, True),
    ("(scalar far: int) { mask k <= q and (q - k < 9 or far < 5) }", {"far": 6}, True),
    ("{ mask 2 * k <= q + 7 }", {}, True),
    ("{ mask k < 30 or q - k < 9 and k >= 50 and k <= q }", {}, False),
    ("{ mask k < Lk - 20 }", {}, True),
]  # fmt: skip
SIZES = [
    (1, 1, 0),
    (64, 64, 0),
    (129, 129, 0),
    (100, 190, 90),
    (190, 100, 0),
    (33, 200, -10),
    (70, 90, 30),
    (64, 1, -30),
]


def call_of(text: str, given: dict[str, Any], Lq: int, Lk: int, offset: int) -> tuple[attndsl.AttentionFunction, Call]:
    f = attndsl.load(f"attention line{text}")
    q, k = torch.zeros(1, 1, Lq, 1), torch.zeros(1, 1, Lk, 1)
    return f, bind_call(f.attention, f.simplified, q, k, k, given, q_offset=offset)


def line_tables(*given: Any, **more: Any) -> LaunchTables | None:
    """With all tiles. What is known of them beforehand is so."""
    found = lines_module.line_tables(*given, **more)
    if found is None:
        return None
    made = found.complete
    assert found.bare == replace(made, known_bare=None).bare
    assert found.kind == made.kind
    assert found.tiles == made.tiles == len(made.rows) == len(made.pieces[0].bounds[0])
    return made


def dense(call: Call) -> np.ndarray:
    row, k = np.indices((call.sizes["Lq"], call.sizes["Lk"]), sparse=True)
    values: dict[Any, Any] = {Index(INT, "q"): row + call.q_offset, Index(INT, "k"): k}
    values |= {Size(INT, n): v for n, v in call.sizes.items()}
    values |= {ParamRef(INT, n): v for n, v in call.scalars.items()}
    found = np.asarray(evaluate(call.attention.mask, Env(values)), bool)
    return np.broadcast_to(found, (call.sizes["Lq"], call.sizes["Lk"]))


def boxes(tables: LaunchTables, tile: int) -> list[tuple[int, bool]]:
    (piece,) = tables.pieces
    bounds = piece.bounds[0, tile].tolist()
    if not piece.form.spans:
        begin, middle, end = bounds
        found: list[tuple[int, bool]] = []
        for i in range(begin, end):
            first, count = piece.boxes[i].tolist() if not piece.form.flat else (int(piece.boxes[i, 0]), 1)
            found += [(first + n * piece.box[0], i < middle) for n in range(count)]
        return found
    ends, origins = bounds[:5], bounds[5:]
    return [
        (i * piece.box[0] + origins[n], i < ends[1])
        for i in range(ends[-1])
        for n in [next(n for n in range(5) if i < ends[n])]
    ]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("text", "given", "best"), MASKS)
def test_pairs_are_visited_once(text: str, given: dict[str, Any], best: bool, turned: bool) -> None:
    for Lq, Lk, offset in SIZES:
        f, call = call_of(text, given, Lq, Lk, offset)
        visible = dense(call)
        seen = visible.T if turned else visible
        for rows, columns in ((16, 16), (32, 8), (8, 32)):
            tables = line_tables(f.simplified, call, rows, columns, turned=turned)
            if tables is None:
                line = line_of(f.simplified, turned)
                assert turned if line is None else line.step > columns
                continue
            visited = full = 0
            for tile, (start, stop) in enumerate(tables.rows.tolist()):
                here = seen[start:stop]
                times = np.zeros(here.shape[1], int)
                for first, is_full in boxes(tables, tile):
                    low, high = max(first, 0), first + columns
                    times[low:high] += 1
                    visited += 1
                    full += is_full
                    if is_full:
                        assert first >= 0
                        assert high <= here.shape[1]
                        assert here[:, low:high].all()
                assert times.max(initial=0) <= 1
                assert not here[:, times == 0].any()
            cost = [len(boxes(tables, t)) for t in tables.order.tolist()]
            assert sorted(tables.order.tolist()) == list(range(len(cost)))
            sizes = (columns, rows) if turned else (rows, columns)
            plan = build(f.simplified, call.problem, Tiling(*sizes).tile(f.simplified, call.problem))
            sweep = plan.dkdv if turned else plan.forward
            assert visited <= sweep.visited + (0 if best else len(tables.rows))
            if best:
                assert full >= sweep.full, (Lq, Lk, offset, rows, columns)
            del plan


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("text", "given", "best"), MASKS)
def test_lengths_share_their_tables(
    text: str, given: dict[str, Any], best: bool, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lengths up to a power of two share is, for each, what is made for it alone."""
    del best
    monkeypatch.setattr(lines_module, "LEAST", 64)
    lines_module._master.cache_clear()
    shared = 0
    for Lq, Lk in [(n, n) for n in range(1, 131, 6)] + [(50, 90), (128, 70), (97, 200), (200, 1), (129, 128)]:
        f, call = call_of(text, given, Lq, Lk, 0)
        before = lines_module._master.cache_info()
        tables = line_tables(f.simplified, call, 16, 8, turned=turned)
        shared += lines_module._master.cache_info() != before
        monkeypatch.setattr(lines_module, "MOST", 0)
        alone = line_tables(f.simplified, call, 16, 8, turned=turned)
        monkeypatch.setattr(lines_module, "MOST", 1 << 22)
        if tables is None or alone is None:
            assert tables is alone
            continue
        assert tables.rows.tolist() == alone.rows.tolist()
        assert tables.pieces[0].bounds.tolist() == alone.pieces[0].bounds.tolist()
        assert sorted(tables.order.tolist()) == sorted(alone.order.tolist())
        assert all(t.flags.c_contiguous for t in (tables.rows, tables.pieces[0].bounds, tables.order))
    made = lines_module._master.cache_info().misses
    assert (shared, made) in ((27, 3), (0, 0))


def test_a_new_length_makes_no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tiles that the end cuts are made."""
    counts: list[int] = []
    real = lines_module._spans

    def spans(runs: Any, like: Any, box: int) -> Any:
        counts.append(np.size(like))
        return real(runs, like, box)

    monkeypatch.setattr(lines_module, "_spans", spans)
    lines_module._master.cache_clear()
    for text in ("{ mask k <= q }", "{ mask k <= q and q - k < 1024 }", "{ mask k <= q and (q - k < 1024 or k < 64) }"):
        counts.clear()
        for n in range(12):
            f, call = call_of(text, {}, 500_000 - 128 * n - n % 3, 500_000 - 128 * n - n % 3, 0)
            tables = line_tables(f.simplified, call, 128, 64, turned=False)
            assert tables is not None
            assert tables.nbytes < 1 << 20
        assert counts == [4096] + [1] * 12


@pytest.mark.parametrize(("text", "given", "best"), [m for m in MASKS if "w" in m[1]])
def test_many_tiles_are_placed_as_few_are(
    text: str, given: dict[str, Any], best: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    del best
    f, call = call_of(text, given, 1500, 1400, 3)
    found: list[LaunchTables] = []
    for many in (10**9, 1):
        monkeypatch.setattr(lines_module, "MANY", many)
        tables = line_tables(f.simplified, call, 16, 8, turned=False)
        assert tables is not None
        found.append(tables)
    assert np.array_equal(found[0].pieces[0].bounds, found[1].pieces[0].bounds)
    assert np.array_equal(found[0].order, found[1].order)


def test_tiles_are_in_order_of_their_length() -> None:
    f, call = call_of("{ mask k <= q }", {}, 200, 200, 0)
    tables = line_tables(f.simplified, call, 16, 16, turned=False)
    assert tables is not None
    assert tables.order.tolist() == list(range(12, -1, -1))
    plan = build(f.simplified, call.problem, Tiling(16, 16).tile(f.simplified, call.problem))
    (other,) = launches(plan, [QSegment("", 0, 200)], 16, False, spans=True)
    assert tables.rows.tolist() == other.rows.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "attention a(input d: i32[L]) { mask d[q] == d[k] }",
        "attention a { mask h < 2 or k <= q }",
        "attention a { mask q % 3 == k % 3 }",
        "attention a { grid g(y, x) mask k.y <= q.y }",
        "attention a { mask k <= abs(q - 20) }",
    ],
)
def test_other_masks_have_plans(text: str) -> None:
    assert line_of(attndsl.load(text).simplified, False) is None


@pytest.mark.parametrize("text", [
    "attention causal { mask k <= q }",
    "attention swa { mask k <= q and q - k < 1000 }",
    "attention sink { mask k <= q and (q - k < 300 or k < 64) }",
    "attention near { mask abs(q - k) < 200 }",
    "attention behind { mask k < q - 100 }",
    "attention prefix { mask k <= max(q, 5000) }",
])  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_lengths_use_the_tables_of_one_that_is_longer(text: str, turned: bool) -> None:
    """What lies on the device is what a launch of its own would have there."""
    f = attndsl.load(text)
    sweeps = Sweeps(f.simplified)
    used = 0
    for length in (4096, 4097, 5000, 6144, 7999, 8000, 8192, 8193):
        q = torch.empty(1, 1, length, 16)
        call = bind_call(f.attention, f.simplified, q, q, q, {})
        tables = line_tables(f.simplified, call, 128, 64, turned=turned)
        found = sweeps.line(call, 128, 64, turned=turned)
        if tables is None:
            assert turned
            assert found is None
            return
        assert found is not None
        alone = uploaded(tables, q.device).views
        for key in (("order", -1), ("rows", -1), ("bounds", 0)):
            assert torch.equal(found.views[key][: alone[key].numel()], alone[key]), (length, key)
            # kernels are compiled for addresses of one alignment
            assert found.views[key].data_ptr() % 16 == 0, (length, key)
        assert sorted(alone["order", -1].tolist()) == list(range(-(-length // 128)))
        used += found.tables.whole is not None
    # with keys as rows no end of the queries is known
    assert used == 8 or "near" not in text
    assert used > 0 or turned
