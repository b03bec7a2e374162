"""The judges themselves: they find what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attndsl.ir.simplify import simplify
from attndsl.reference import visible
from attndsl.schedule.build import build
from attndsl.schedule.plan import Blocks, Piece, Plan, Product, TileClass
from tests.accuracy import assert_right, floor
from tests.brute_force import check_plan
from tests.spec import Spec

SIZES = {"B": 1, "H": 1, "Hkv": 1, "Lq": 100, "Lk": 100, "D": 8, "Dv": 8}
BY_AXIS = Spec("attention a { mask 0 <= q - k < 70 }", SIZES, tile=((16,), (16,)))
BY_BOX = Spec("attention a { mask (q * k) % 7 == 0 or q - k > 40 }", SIZES, tile=((16,), (16,)))

EVERYTHING = Spec("attention a {}", SIZES, tile=((16,), (16,)))


def _plan(spec: Spec) -> tuple[Plan, np.ndarray]:
    plan = build(simplify(spec.attention), spec.problem(), spec.tile)
    return plan, visible(spec.attention, spec.sizes).numpy()


def _with_piece(plan: Plan, piece: Piece) -> Plan:
    return replace(plan, forward=replace(plan.forward, pieces=(piece,)))


@pytest.mark.parametrize("spec", [BY_AXIS, BY_BOX], ids=["by axis", "by box"])
def test_wrong_plans_are_found(spec: Spec) -> None:
    plan, seen = _plan(spec)
    assert check_plan(plan, seen) == []
    piece = plan.forward.pieces[0]
    source = piece.sources[0]
    assert isinstance(source, Product if spec is BY_AXIS else Blocks)
    table = source.axes[0] if isinstance(source, Product) else source
    assert {TileClass.FULL, TileClass.PARTIAL} <= set(table.kind.tolist())

    def found(**changes: np.ndarray) -> str:
        changed = replace(table, **changes)
        made = replace(source, axes=(changed,)) if isinstance(source, Product) else changed
        return "\n".join(check_plan(_with_piece(plan, replace(piece, sources=(made,))), seen))

    assert "in a FULL box" in found(kind=np.full_like(table.kind, TileClass.FULL))
    assert "no invisible pair" in found(kind=np.full_like(table.kind, TileClass.PARTIAL))
    assert "is in no box" in found(first=table.first + 16)
    assert " boxes (" in found(first=np.zeros_like(table.first))
    if isinstance(source, Product):
        assert "is in no box" in found(count=np.maximum(source.axes[0].count - 1, 0))
        visible_throughout = np.ones_like(seen)
        whole = build(simplify(EVERYTHING.attention), EVERYTHING.problem(), EVERYTHING.tile)
        assert check_plan(whole, visible_throughout) == []
        axis = whole.forward.pieces[0].sources[0].axes[0]  # type: ignore[union-attr]
        full = replace(axis, kind=np.full_like(axis.kind, TileClass.FULL))
        reaching = replace(whole.forward.pieces[0], sources=(Product((full,)),))
        assert "reaches outside" in "\n".join(check_plan(_with_piece(whole, reaching), visible_throughout))


def test_every_invisible_pair_matters() -> None:
    """A plan for a mask fails for the mask with one pair more or less."""
    plan, seen = _plan(BY_AXIS)
    wrong = []
    for at in ((0, 0, 60, 30), (0, 0, 99, 1)):
        other = seen.copy()
        other[at] = not other[at]
        wrong.append("\n".join(check_plan(plan, other)))
    assert "in a FULL box" in wrong[0]
    assert "is in no box" in wrong[1]


def test_classes_by_head_are_told_apart() -> None:
    spec = Spec("attention a { mask q - k < 20 * (h + 1) and k <= q }", SIZES | {"H": 3, "Hkv": 1}, tile=((16,), (16,)))
    plan, seen = _plan(spec)
    assert check_plan(plan, seen) == []
    assert check_plan(plan, seen[:, ::-1])


def test_the_rule_of_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(1000, generator=generator, dtype=torch.float64)
    eager = exact + 1e-3 * torch.randn(1000, generator=generator, dtype=torch.float64)
    plain, rounding = float((eager - exact).abs().max()), floor(exact, torch.float32)
    assert 0 < rounding < 1e-6
    limit = 2 * plain + rounding
    for factor, is_right in ((0.99, True), (1.01, False)):
        actual = exact.clone()
        actual[17] += factor * limit
        if is_right:
            assert_right("x", actual, eager, exact, torch.float32)
        else:
            with pytest.raises(AssertionError, match="x: error"):
                assert_right("x", actual, eager, exact, torch.float32)
            assert_right("x", actual, eager, exact, torch.float32, 3.0)
            assert_right("x", actual, eager, exact, torch.float32, others=lambda: [(exact + 2 * plain, exact)])


def test_the_rule_refuses_what_is_no_number() -> None:
    exact = torch.tensor([1.0, -float("inf")], dtype=torch.float64)
    assert_right("lse", exact.float(), exact.float(), exact, torch.float32)
    for wrong in ([1.0, float("nan")], [1.0, 0.0], [-float("inf"), -float("inf")], [1.0, float("inf")]):
        with pytest.raises(AssertionError):
            assert_right("lse", torch.tensor(wrong), exact.float(), exact, torch.float32)
    with pytest.raises(AssertionError, match="shape"):
        assert_right("lse", torch.ones(3), exact.float(), exact, torch.float32)
    overflown = torch.tensor([float("inf"), float("inf")])
    finite = torch.tensor([1.0, 2.0], dtype=torch.float64)
    with pytest.raises(AssertionError, match="error"):
        assert_right("out", torch.tensor([1.0, 2.1]), overflown, finite, torch.float32)
