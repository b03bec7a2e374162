"""Every representation of a random program means the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, note, seed

from attndsl.diagnostics.source import Source
from attndsl.frontend.format import format_text
from attndsl.frontend.parser import parse
from attndsl.ir.attention import Attention, Space
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Coord, Expr, Extent, Index, Member, ParamRef, Size
from attndsl.ir.printer import print_attention
from attndsl.ir.reader import read_attention
from attndsl.ir.simplify import simplify
from attndsl.ir.types import BOOL, INT, Type
from attndsl.ir.verify import verify
from attndsl.reference import reference, visible
from tests.drawing import SEED, drawn
from tests.random_specs import masks, specs
from tests.spec import Spec


@seed(SEED)
@drawn(150)
@given(specs())
def test_text_and_printed_forms(spec: Spec) -> None:
    """Formatting keeps the tree and is idempotent; printing and reading the IR is the identity."""
    note(spec.text)
    verify(spec.attention)
    assert read_attention(print_attention(spec.attention)) == spec.attention
    formatted = format_text(Source("drawn", spec.text))
    assert format_text(Source("drawn", formatted)) == formatted
    assert parse(Source("drawn", formatted))[0] == parse(Source("drawn", spec.text))[0]


@seed(SEED)
@drawn(150)
@given(masks())
def test_numpy_and_torch_agree_on_masks(spec: Spec) -> None:
    note(f"{spec.text}\n{spec}")
    seen = _visible(spec, spec.attention)
    for attention in (spec.attention, simplify(spec.attention)):
        verify(attention)
        found = np.broadcast_to(evaluate(attention.mask, _env(spec, attention)), seen.shape)
        assert np.array_equal(found, seen.numpy())
        assert torch.equal(_visible(spec, attention), seen)


def _visible(spec: Spec, attention: Attention) -> torch.Tensor:
    return visible(attention, spec.sizes, inputs=spec.make_inputs(), scalars=spec.scalars, grid=spec.grid,
                   q_offset=spec.offset())  # fmt: skip


@seed(SEED)
@drawn(100)
@given(specs())
def test_simplified_programs_mean_the_same(spec: Spec) -> None:
    """The oracle gives the written and the simplified program one output, up to rounding in fp64."""
    note(f"{spec.text}\n{spec}")
    q, k, v = (x.double() for x in spec.make_qkv())
    results = [
        reference(a, q, k, v, inputs=spec.make_inputs(), scalars=spec.scalars, grid=spec.grid, scale=spec.scale,
                  q_offset=spec.offset())[0]
        for a in (spec.attention, simplify(spec.attention))
    ]  # fmt: skip
    torch.testing.assert_close(results[1], results[0], atol=1e-9, rtol=1e-7)


def _env(spec: Spec, attention: Attention) -> Env:
    """What numpy evaluation needs: indices as [B, H, Lq, Lk] axes, coordinates by division."""
    problem = spec.problem()
    z = problem.sizes
    offset = np.reshape(problem.q_offset, (-1, 1, 1, 1))
    h = np.arange(z["H"]).reshape(1, -1, 1, 1)
    row = np.arange(z["Lq"]).reshape(1, 1, -1, 1)
    k = np.arange(z["Lk"]).reshape(1, 1, 1, -1)
    values: dict[Expr, object] = {
        Index(INT, "b"): np.arange(z["B"]).reshape(-1, 1, 1, 1),
        Index(INT, "h"): h,
        Index(INT, "hkv"): h // (z["H"] // z["Hkv"]),
        Index(INT, "row"): row,
        Index(INT, "q"): row + offset,
        Index(INT, "k"): k,
    }
    values |= {Size(INT, n): s for n, s in z.items()}
    values |= {ParamRef(Type(s.kind), s.name): problem.scalars[s.name] for s in attention.scalars}
    values |= _grid_values("q", attention.q_space, problem.q_extents, row + offset)
    values |= _grid_values("k", attention.k_space, problem.k_extents, k)
    return Env(values, problem.tables)


def _grid_values(
    side: str, space: Space | None, extents: dict[str, tuple[int, ...]], at: np.ndarray
) -> dict[Expr, object]:
    out: dict[Expr, object] = {}
    start = 0
    for s in () if space is None else space.segments:
        shape = extents[s.name]
        inside = (at >= start) & (at < start + int(np.prod(shape)))
        out[Member(BOOL, side, s.name)] = inside
        found = np.unravel_index(np.where(inside, at - start, 0), shape)
        for axis, extent, c in zip(s.axes, shape, found, strict=True):
            out[Coord(INT, side, s.name, axis)] = np.where(inside, c, -1)
            out[Extent(INT, side, s.name, axis)] = extent
        start += int(np.prod(shape))
    return out


def test_sizes_that_cannot_be_are_refused() -> None:
    sizes = {"B": 1, "H": 1, "Hkv": 1, "Lq": 7, "Lk": 7, "D": 8, "Dv": 8}
    spec = Spec("attention a { grid picture(y, x) mask q.y == k.y }", sizes, grid=(None, 2))
    with pytest.raises(ValueError, match="7 positions"):
        _visible(spec, spec.attention)
