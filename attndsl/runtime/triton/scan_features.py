"""Maps of components, computed once for all rows."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_expansion import WIDEST, Expansion, check_expansion, generate_expansion, length
from attndsl.codegen.triton_scan import FeatureMapping, ScanModule, generate_features
from attndsl.ir.expr import Expr
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.generated import scan_module_for
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.scan import aligned
from attndsl.runtime.triton.scan_launch import Memo, Reading, Ready, launching, likeness, memo_of


@lru_cache(maxsize=256)
def _module(mapping: FeatureMapping) -> tuple[Any, tuple[Argument, ...]]:
    def make() -> ScanModule:
        source, arguments = generate_features(mapping, ["features"])
        return ScanModule(source, {"features": arguments})

    found = scan_module_for("features", mapping, make)
    return load_module(found.source).features, found.arguments["features"]


def apply_map(
    x: Tensor,
    mapped: Expr | None,
    reading: Reading,
    memo: Memo,
    name: str,
    ranks: tuple[tuple[str, int], ...] = (),
    wide: bool = False,
) -> Tensor:
    """`mapped` of every component of x [B, H, L, D], contiguous, of x's dtype. Runs within `launching`; what it
    prepares is kept in `memo` under `name`."""
    made = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    unit = 16 // x.element_size() if name not in memo and aligned(x) else 1
    mapping = FeatureMapping(x.shape[-1], mapped, False, unit, ranks, wide)
    _run(x, mapping, {"out": made}, reading, memo, name)
    return made


def divided(do: Tensor, out: Tensor, share: Tensor, reading: Reading, memo: Memo) -> tuple[Tensor, Tensor]:
    """With what rows were multiplied by, fp32 [B, H, L]: do times it, and -(do . out) times it, fp32 [B, H, L]. Runs
    within `launching`."""
    made = torch.empty(do.shape, dtype=do.dtype, device=do.device)
    u = torch.empty(share.shape, dtype=torch.float32, device=do.device)
    unit = 16 // do.element_size() if "share" not in memo and aligned(do) else 1
    mapping = FeatureMapping(do.shape[-1], None, True, unit, dotted=True)
    given = {"out": made, "o": out.contiguous(), "u": u, "share": share.contiguous()}
    _run(do, mapping, given, reading, memo, "share")
    return made, u


def _run(
    x: Tensor, mapping: FeatureMapping, given: Mapping[str, Tensor], reading: Reading, memo: Memo, name: str
) -> None:
    found: tuple[Ready, tuple[Argument, ...]] | None = memo.get(name)
    if found is None:
        found = memo[name] = _prepared(x, mapping, reading)
    ready, arguments = found
    ready.run(x.device, {"x": x, **given, **reading.values(arguments)}, x)


@lru_cache(maxsize=256)
def expands(features: Expr, tensor: str) -> bool:
    """Whether `expand` computes these features."""
    try:
        check_expansion(features, tensor)
        length(features, 1)
    except UnsupportedError:
        return False
    return True


def expand(x: Tensor, features: Expr, tensor: str, reading: Reading) -> Tensor:
    """Features of every row of x [B, H, L, D] that are made of single components, in x's dtype [B, H, L, F]. Rows start
    at multiples of 16 bytes."""
    B, H, L, D = x.shape
    many = length(features, D)
    each = 16 // x.element_size()
    made = torch.empty((B, H, L, -(-many // each) * each), dtype=x.dtype, device=x.device)
    out = made[..., :many]
    if not out.numel():
        return out
    memo = memo_of(("expand", features, tensor, x.device, likeness(x), *reading.sizes.items()))
    found: tuple[Ready, tuple[Argument, ...]] | None = memo.get("expand")
    if found is None:
        unit = each if aligned(x) else 1
        expansion = Expansion(features, tensor, D, made.shape[-1], unit)
        module = scan_module_for("expansion", expansion, lambda: generate_expansion(expansion, ["features"]))
        arguments = module.arguments["expand"]
        rows = max(16, 4096 // min(WIDEST, 1 << (many - 1).bit_length())) if machine.on_gpu(x.device) else 64
        tiles = -(-L // rows)
        known: dict[str, Any] = {"H": H, "L": L, "tiles": tiles, "BT": rows, **reading.numbers(arguments)}
        known |= {f"x_s{axis}": x.stride(i) // unit for i, axis in enumerate("bhl")}
        kernel = load_module(module.source).expand
        found = memo["expand"] = Ready.of(kernel, arguments, known, tiles * B * H, 4, 1), arguments
    ready, arguments = found
    with launching(x.device):
        ready.run(x.device, {"x": x, "out": made, **reading.values(arguments)}, x)
    return out


def _prepared(x: Tensor, mapping: FeatureMapping, reading: Reading) -> tuple[Ready, tuple[Argument, ...]]:
    """The launch, and its arguments."""
    B, H, L, D = x.shape
    kernel, arguments = _module(mapping)
    rows = max(1, 4096 // D) if machine.on_gpu(x.device) else 64
    rows = 1 << (rows.bit_length() - 1)
    tiles = -(-L // rows)
    sizes = reading.sizes
    known: dict[str, Any] = {"H": H, "L": L, "tiles": tiles, "BT": rows}
    known |= {f"x_s{axis}": x.stride(i) // mapping.unit for i, axis in enumerate("bhl")}
    known["group"] = sizes.get("group", 1) if sizes.get("Hkv", H) != H else 1
    known |= reading.numbers(arguments)
    return Ready.of(kernel, arguments, known, tiles * B * H, 4, 1), arguments
