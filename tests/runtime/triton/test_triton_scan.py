"""Chunked scans: their logic under the interpreter, their code for a GPU that is not there."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import re
from itertools import product

import pytest

pytest.importorskip("triton")

from attndsl.codegen.triton_scan import COMPONENT, DecayKind, Operand, Walk, component_map, generate_scan, slope_of
from attndsl.codegen.triton_scan_channel import Channel, generate_channel
from attndsl.codegen.triton_scan_step import Step
from attndsl.codegen.whitelist_triton import check_kernels
from attndsl.ir.expr import Expr, Index, Load, number, op
from attndsl.ir.types import INT, Kind, Type
from attndsl.runtime.triton.scan_config import ScanConfig, choose_scan, cut, hazard
from tests.runtime.triton.interpreted import run_cases
from tests.runtime.triton.scan_compiling import compile_channel, compile_scan, compile_step


@pytest.mark.parametrize("cases", ["interpret_scan", "interpret_linear"])
def test_scans_equal_the_definition(cases: str) -> None:
    assert "cases right" in run_cases(f"tests.runtime.triton.{cases}", 0, 1)


ELU1 = op("add", op("elu", COMPONENT), number(1.0))


GRADIENT = Walk(
    "bf16", Operand(64), Operand(64), Operand(64), "token", True, tma=True, feature="query", slope=slope_of(ELU1),
    gated=True, mapped=ELU1,
)  # fmt: skip


@pytest.mark.parametrize(
    "walk",
    [
        Walk("bf16", Operand(128), Operand(128), Operand(128), tma=True),
        Walk("bf16", Operand(128), Operand(128), Operand(128), "head", tma=True),
        Walk("fp16", Operand(64), Operand(64), Operand(64), "token", aligned=True),
        GRADIENT,
    ],
)
def test_scans_compile_without_spilling(walk: Walk) -> None:
    for name in ("states", "outputs"):
        found = compile_scan(walk, name, ScanConfig(64, 64, 4, 2))
        assert found.spills == 0, name
        assert found.shared <= 227 << 10
        assert "wgmma" in found.ptx, name


def test_a_taylor_map_of_16_components_keeps_its_state_in_registers() -> None:
    """168 features, divided by their sum: queries, keys and values of three chunks fit, and nothing is spilled."""
    features = Operand(168)
    walk = Walk("bf16", features, features, Operand(128), normalised=True, column="ones", tma=True)
    for name in ("states", "outputs"):
        found = compile_scan(walk, name, choose_scan("bf16", 168, 128))
        assert found.spills == 0, name
        assert found.shared <= 227 << 10
        assert "wgmma" in found.ptx
        assert "mma.sync" not in found.ptx


@pytest.mark.parametrize("decay", ["none", "token", "channel"])
def test_sums_of_keys_compile_without_spilling(decay: DecayKind) -> None:
    walk = Walk("bf16", Operand(96), Operand(96), Operand(64), decay, normalised=True, column="ones", aligned=True)
    for name in ("columns", "prefix", "norms"):
        assert compile_scan(walk, name, ScanConfig(64, 64, 4, 2)).spills == 0, name


@pytest.mark.parametrize("size", [16, 96])
def test_small_heads_use_one_kind_of_product(size: int) -> None:
    config = choose_scan("bf16", size, size)
    assert config.columns >= 64
    found = compile_scan(Walk("bf16", Operand(size), Operand(size), Operand(size), tma=True), "outputs", config)
    assert "wgmma" in found.ptx
    assert "mma.sync" not in found.ptx


@pytest.mark.parametrize("decay", ["none", "log", "channel"])
def test_a_step_reads_and_writes_its_state_in_wide_words(decay: DecayKind) -> None:
    found = compile_step(Step(128, 128, decay, normalised=True, query=ELU1, key=ELU1))
    assert found.spills == 0
    assert "ld.global.v4" in found.ptx
    assert "st.global.v4" in found.ptx


def test_decays_per_channel_compile_without_spilling() -> None:
    config = choose_scan("bf16", 128, 128)
    whole = Operand(128)
    for across, reverse in (("keys", False), ("keys", True), ("values", False)):
        walk = Walk("bf16", whole, whole, whole, "channel", reverse=reverse, tma=True, across=across)  # type: ignore[arg-type]
        assert compile_scan(walk, "outputs", config).spills == 0
    units = tuple((n, 8) for n in ("q", "k", "g", "v", "do"))
    for name in ("gates", "careful", "finish", "finish_careful"):
        found = compile_channel(Channel("bf16", 128, 128, units=units), name, config)
        assert found.spills == 0
        # products of whole chunks, or of blocks: one kernel has one kind
        careful = "careful" in name
        assert ("wgmma" in found.ptx, "mma.sync" in found.ptx) == (not careful, careful), name
        check_kernels(generate_channel(Channel("bf16", 40, 96, True, True, ELU1, ELU1), ["title"]).source)


SMALL = Operand(40)
PRODUCTS = [
    Walk("bf16", SMALL, SMALL, SMALL, "none", normalised=True, column="ones"),
    Walk("fp16", SMALL, SMALL, SMALL, "head", True, normalised=True, column="ones", aligned=True),
    Walk("bf16", SMALL, SMALL, SMALL, "channel", normalised=True, column="ones"),
    Walk("bf16", SMALL, SMALL, SMALL, "channel", across="values", feature="query"),
    Walk("bf16", Operand(16), Operand(16), Operand(16), "token", reverse=True, feature="key", gated=True),
    GRADIENT,
]


@pytest.mark.parametrize("walk", PRODUCTS)
def test_no_product_of_a_scan_has_a_side_below_64(walk: Walk) -> None:
    config = choose_scan(walk.dtype, walk.k.size, walk.v.size)
    for name in ("states", "outputs") if walk.across == "keys" else ("outputs",):
        code = compile_scan(walk, name, config).ttgir
        products = [line for line in code.splitlines() if "warp_group_dot " in line or "tt.dot " in line]
        assert products
        for line in products:
            a, b = re.findall(r"(?:memdesc|tensor)<(\d+)x(\d+)x(?:bf16|f16|f32)", line)[:2]
            assert min(int(a[0]), int(b[1])) >= 64, line


def test_what_may_be_chosen_is_not_known_to_be_miscompiled() -> None:
    for dtype, keys, values, capability in product(
        ("fp16", "bf16", "fp32"), (1, 16, 40, 64, 128, 200, 256, 512), (1, 16, 128), (80, 90)
    ):
        assert hazard(choose_scan(dtype, keys, values, capability), dtype) is None
    for config in (ScanConfig(64, 32, 4, 1), ScanConfig(32, 64, 4, 2), ScanConfig(64, 64, 4, 2, state_columns=16)):
        assert "fewer than 64" in (hazard(config, "bf16") or "")
        assert hazard(config, "fp32") is None


def test_generated_scans_hold_nothing_unknown() -> None:
    for decay in ("none", "head", "log", "token"):
        for reverse in (False, True):
            walk = Walk("bf16", Operand(96), Operand(96), Operand(40), decay, True, reverse, feature="key", gated=True)  # type: ignore[arg-type]
            check_kernels(generate_scan(walk, ["title"]).source)


def test_a_sequence_is_cut_where_few_programs_would_run() -> None:
    assert cut(8192, 64, 128, 132) == (1, 8192)
    assert cut(8192, 64, 128, 264) == (2, 4096)
    segments, length = cut(32768, 64, 32, 264)
    assert segments == 8
    assert length % 64 == 0
    assert (segments - 1) * length < 32768 <= segments * length
    assert cut(1, 64, 1, 264) == (1, 64)
    assert cut(100, 64, 1, 264) == (1, 128)
    assert cut(4096, 64, 10_000, 132, most=512) == (8, 512)


def test_maps_of_components() -> None:
    indices: tuple[Expr, ...] = tuple(Index(INT, n) for n in ("b", "h", "q"))  # pyright: ignore[reportArgumentType]
    q = Load(Type(Kind.FLOAT, ("D",)), "Q", indices)
    assert component_map(q, "Q") is None
    assert component_map(op("add", op("elu", q), number(1.0)), "Q") == ELU1
    for mixing in (op("vsoftmax", q), op("mul", q, op("norm", q)), op("concat", q, q)):
        with pytest.raises(ValueError, match="features with"):
            component_map(mixing, "Q")
