"""Maps of components, computed once for all rows."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_scan import FeatureMapping, generate_features
from attndsl.ir.expr import Expr
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.scan import aligned
from attndsl.runtime.triton.scan_launch import Memo, Reading, Ready


@lru_cache(maxsize=256)
def _module(mapping: FeatureMapping) -> tuple[Any, tuple[Argument, ...]]:
    source, arguments = generate_features(mapping, ["features"])
    return load_module(source).features, arguments


def apply_map(
    x: Tensor,
    mapped: Expr | None,
    share: Tensor | None,
    reading: Reading,
    ranks: tuple[tuple[str, int], ...] = (),
    wide: bool = False,
    memo: Memo | None = None,
    name: str = "",
) -> Tensor:
    """`mapped` of every component of x [B, H, L, D], times `share` fp32 [B, H, L]; contiguous, of x's dtype. Runs
    within `launching`; what it prepares is kept in `memo` under `name`."""
    memo = {} if memo is None else memo
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    found: tuple[Ready, tuple[Argument, ...]] | None = memo.get(name)
    if found is None:
        unit = 16 // x.element_size() if aligned(x) else 1
        mapping = FeatureMapping(x.shape[-1], mapped, share is not None, unit, ranks, wide)
        found = memo[name] = _prepared(x, mapping, reading)
    ready, arguments = found
    ready.run(x.device, {"x": x, "out": out, "share": share, **reading.values(arguments)}, x)
    return out


def _prepared(x: Tensor, mapping: FeatureMapping, reading: Reading) -> tuple[Ready, tuple[Argument, ...]]:
    """The launch, and its arguments."""
    B, H, L, D = x.shape
    kernel, arguments = _module(mapping)
    rows = max(1, 4096 // D) if x.device.type == "cuda" else 64
    rows = 1 << (rows.bit_length() - 1)
    tiles = -(-L // rows)
    sizes = reading.sizes
    known: dict[str, Any] = {"H": H, "L": L, "tiles": tiles, "BT": rows}
    known |= {f"x_s{axis}": x.stride(i) // mapping.unit for i, axis in enumerate("bhl")}
    known["group"] = sizes.get("group", 1) if sizes.get("Hkv", H) != H else 1
    known |= reading.numbers(arguments)
    return Ready.of(kernel, arguments, known, tiles * B * H, 4, 1), arguments
