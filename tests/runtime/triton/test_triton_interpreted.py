"""Kernels under Triton's interpreter: their logic, on the CPU."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import pytest

from tests.drawing import SEED
from tests.runtime.triton.interpreted import run_cases

pytest.importorskip("triton")

GROUPS = 2


def run(module: str, *arguments: object) -> None:
    assert "cases right" in run_cases(f"tests.runtime.triton.{module}", *arguments)


@pytest.mark.parametrize(("group", "groups", "how"), [*((i, GROUPS, "") for i in range(GROUPS)), (0, 1, "one")])
def test_cases_equal_the_definition(group: int, groups: int, how: str) -> None:
    """Outputs and lse."""
    run("interpret", group, groups, *([how] if how else []))


@pytest.mark.parametrize("group", range(2))
def test_gradients_equal_the_definition(group: int) -> None:
    """Of q, k, v and float inputs, through outputs and lse."""
    run("interpret_backward", group, 2)


def test_gradients_of_one_sweep_equal_the_definition() -> None:
    """dq added up by the sweep that finds dk and dv."""
    run("interpret_backward", 0, 1, "fused")


def test_gradients_of_rows_of_one_key_cancel() -> None:
    """In fp32, as in the plain computation."""
    run("interpret_one_key")


def test_random_programs_equal_the_definition() -> None:
    """Masks, scores, weights and outputs that hypothesis writes, with their gradients."""
    run("interpret_random", SEED, 15)


def test_vectors_whose_components_move_equal_the_definition() -> None:
    """Or that the pair chooses: some of the cases, which are slow."""
    run("interpret_components", "rope", "apart", "gathered", "map", "chosen", "matrix")


def test_boxes_that_the_device_finds() -> None:
    """Tables against masks, and results without a copy to the host."""
    run("interpret_located", 0, 1)


def test_boxes_on_grids_that_the_device_finds() -> None:
    """Lists against masks, and results without a copy to the host."""
    run("interpret_sifted")


def test_what_is_interpreted_stays_in_its_own_memory() -> None:
    """Every other test here runs under this checker."""
    run("interpret_guard")


def test_lengths_by_turns() -> None:
    """What calls of other lengths left is right for the next one."""
    run("interpret_lengths")


def test_the_operator_on_this_backend() -> None:
    """Repeated calls, torch.compile and torch.func."""
    run("interpret_operator")
