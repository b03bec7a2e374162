"""Every variant of the kernel compiles for GPUs that are not there, within budgets."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import re
from typing import Any

import pytest

import attndsl
from attndsl.runtime.triton.config import Config, choose
from attndsl.runtime.triton.launch import SHARED_MEMORY
from attndsl.runtime.triton.lowering import lower
from benchmarks.cases import GNA, JOINT
from tests.runtime.triton.compiling import compile_spec

pytest.importorskip("triton")

CAUSAL = "attention causal { mask k <= q }"
WINDOW = "attention window { mask k <= q and q - k < 300 }"
ALIBI = "attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q }"
SOFTCAP = "attention softcap { score 50 * tanh(s / 50) mask k <= q }"
SINK = "attention sink(input z: f32[H]) { mask k <= q weight exp(s) / (exp(z[h]) + sum) }"
RELU = "attention relu2 { mask k <= q weight relu(s)^2 / count }"
DOCUMENTS = "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }"

VARIANTS = [
    ("causal 128", CAUSAL, {"D": 128}, 0),
    ("causal 64", CAUSAL, {"D": 64}, 0),
    ("causal 256", CAUSAL, {"D": 256}, 0),
    ("causal 96", CAUSAL, {"D": 96}, 0),
    ("causal 80, values of 48", CAUSAL, {"D": 80, "Dv": 48}, 0),
    ("causal fp16", CAUSAL, {"D": 128, "dtype": "fp16"}, 0),
    ("causal by pointers", CAUSAL, {"D": 128, "tma": False}, 96),
    ("window, boxes one by one", WINDOW, {"D": 128}, 0),
    ("alibi", ALIBI, {"D": 128, "inputs": {"slope": "fp32"}}, 0),
    ("softcap", SOFTCAP, {"D": 128}, 0),
    ("sink", SINK, {"D": 128, "inputs": {"z": "fp32"}}, 0),
    ("relu2", RELU, {"D": 128, "lse": False}, 0),
    ("documents", DOCUMENTS, {"D": 64, "inputs": {"doc": "i32"}}, 32),
    ("neighborhood", GNA, {"D": 128, "grid": (16, 32, 32), "consts": {"window": (5, 9, 9)}}, 0),
    ("dilated", GNA, {"D": 64, "grid": (16, 32, 32), "consts": {"window": (5, 5, 5), "dilation": (2, 2, 2)}}, 0),
    ("two segments", JOINT,
     {"D": 128, "grid": {"text": (200,), "video": (8, 32, 32)}, "consts": {"window": (5, 9, 9)}}, 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "how", "spills"), VARIANTS, ids=[v[0] for v in VARIANTS])
def test_hopper_within_budgets(name: str, text: str, how: dict, spills: int) -> None:  # type: ignore[type-arg]
    for built in compile_spec(text, capability=90, **how):
        assert built.registers <= 255
        assert built.spills <= spills
        assert built.shared <= SHARED_MEMORY[9]
        assert built.ttgir.count("warp_group_dot ") > 0
        by_tma = how.get("tma", True) and "dilation" not in how.get("consts", {})
        assert ("async_tma_copy" in built.ttgir) == by_tma


@pytest.mark.parametrize(("capability", "spills"), [(80, 64), (100, 160)])
@pytest.mark.parametrize(("name", "text", "how"), [v[:3] for v in VARIANTS[:9:4]], ids=[v[0] for v in VARIANTS[:9:4]])
def test_other_generations(name: str, text: str, how: dict, capability: int, spills: int) -> None:  # type: ignore[type-arg]
    for built in compile_spec(text, capability=capability, **how):
        assert built.spills <= spills
        assert built.shared <= SHARED_MEMORY[capability // 10]


def test_full_boxes_have_no_mask_code() -> None:
    """The first loop has no comparison of positions, the second one does."""
    import attndsl

    source = attndsl.load(CAUSAL).source(backend="triton")
    full, partial = source.split("in tl.range(begin, middle)")[1].split("in tl.range(middle, end)")
    assert "below(" not in full
    assert "below(" in partial


def test_masks_are_bounds_of_rows() -> None:
    """Bounds are computed before the loops; in the loop of PARTIAL boxes a pair is compared with them."""
    import attndsl

    source = attndsl.load(WINDOW).source(backend="triton")
    before, loop = source.split("in tl.range(middle, end)")
    assert "tl.maximum(r0, 0)" in before
    assert "between(s, k_at, " in loop
    assert "q_at" not in loop.split("The rows are complete")[0]


SPECIALIZED = [
    ("dense", "attention dense {}", {"D": 128, "L": 1024}, Config(128, 128, 4, 2, True)),
    ("causal", CAUSAL, {"D": 128}, Config(128, 128, 4, 2, True)),
    ("window 64", WINDOW, {"D": 64}, Config(128, 128, 4, 2, True)),
    ("alibi", ALIBI, {"D": 128, "inputs": {"slope": "fp32"}}, Config(128, 128, 4, 2, True)),
    ("softcap 96", SOFTCAP, {"D": 96}, Config(128, 64, 4, 2, True)),
    ("relu2", RELU, {"D": 128, "lse": False}, Config(128, 64, 4, 2, True)),
]  # fmt: skip


def moved_places(ttgir: str) -> list[str]:
    """Uses of the places of a second group of warps (64 rows on) that are no addresses of a copy: positions of rows
    have the offset in their range already."""
    found: list[str] = []
    for line in ttgir.splitlines():
        added = re.search(r"(%\w+) = arith.addi %\w+, %c64_i32\w* ", line)
        if added:
            uses = [u for u in ttgir.splitlines() if re.search(re.escape(added[1]) + r"\b", u) and u != line]
            found += [u for u in uses if added[1] + " = " not in u and "async_tma_copy" not in u]
    return found


@pytest.mark.parametrize(("name", "text", "how", "config"), SPECIALIZED, ids=[v[0] for v in SPECIALIZED])
def test_warps_are_specialized(name: str, text: str, how: dict, config: Config) -> None:  # type: ignore[type-arg]
    (built,) = compile_spec(text, config=config, **how)
    assert "ttg.warp_specialize" in built.ttgir
    assert moved_places(built.ttgir.split("partition1(")[1]) == []
    assert built.ttgir.count("warp_group_dot ") >= 4
    assert built.spills == 0
    assert built.shared <= SHARED_MEMORY[9]


def test_what_cannot_be_specialized_has_two_loops() -> None:
    import attndsl

    f = attndsl.load(DOCUMENTS)
    for config, dtype in ((Config(128, 64, 4, 2, True), "bf16"), (Config(64, 32, 4, 1, True), "fp32")):
        _, (it,) = lower(f.simplified, f.problem(L=300, D=64), dtype, config=config)
        assert it.form.walk == "two loops"
        assert not it.config.specialize


def test_boxes_of_grids_are_not_loaded_by_warps_of_their_own() -> None:
    """Triton 3.6 would release such a box before the product has read it. Where all are FULL there is one loop."""
    f = attndsl.load(GNA, window=(4, 8, 8), stride=(2, 8, 8))
    made = f.problem(grid=(16, 32, 32), D=128, Dv=128)
    _, (it,) = lower(f.simplified, made, "bf16", config=Config(128, 128, 4, 2, specialize=True, q_box=(2, 8, 8)))
    assert it.form.walk == "two loops" and not it.config.specialize
    assert it.form.bare == it.tables.bare
    assert it.module.source.count("tl.dot(") == (2 if it.form.bare else 4)


def test_lists_of_boxes_keep_the_pipeline_full() -> None:
    """Boxes of a grid are read one ahead: with the address of a box still under way the pipeline has a stage less."""
    how: dict[str, Any] = {"D": 128, "grid": (16, 32, 32), "consts": {"window": (5, 9, 9)}}
    (built,) = compile_spec(GNA, config=Config(128, 128, 8, 3), **how)
    assert built.shared > 3 * 64 * 1024


def test_configurations_fit_the_hardware() -> None:
    for dtype in ("bf16", "fp32"):
        for head in (16, 64, 128, 256):
            for capability in (80, 90, 100):
                config = choose("forward", dtype, head, head, capability)
                assert config.rows % 16 == 0
                assert config.columns % 16 == 0
