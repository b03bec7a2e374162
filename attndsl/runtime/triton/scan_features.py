"""Maps of components, computed once for all rows."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_scan import FeatureMapping, generate_features
from attndsl.ir.expr import Expr
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.scan import aligned, run_kernel


@lru_cache(maxsize=256)
def _module(mapping: FeatureMapping) -> tuple[Any, tuple[Argument, ...]]:
    source, arguments = generate_features(mapping, ["features"])
    return load_module(source).features, arguments


def apply_map(
    x: Tensor,
    mapped: Expr | None,
    share: Tensor | None,
    inputs: Mapping[str, Tensor],
    scalars: Mapping[str, float],
    sizes: Mapping[str, int],
    ranks: tuple[tuple[str, int], ...] = (),
    wide: bool = False,
) -> Tensor:
    """`mapped` of every component of x [B, H, L, D], times `share` fp32 [B, H, L]; contiguous, of x's dtype."""
    B, H, L, D = x.shape
    unit = 16 // x.element_size() if aligned(x) else 1
    kernel, arguments = _module(FeatureMapping(D, mapped, share is not None, unit, ranks, wide))
    out = torch.empty((B, H, L, D), dtype=x.dtype, device=x.device)
    rows = max(1, 4096 // D) if x.device.type == "cuda" else 64
    rows = 1 << (rows.bit_length() - 1)
    tiles = -(-L // rows)
    known: dict[str, Any] = {"x": x, "out": out, "share": share, "H": H, "L": L, "tiles": tiles, "BT": rows}
    known |= {f"x_s{axis}": x.stride(i) // unit for i, axis in enumerate("bhl")}
    known["group"] = sizes.get("group", 1) if sizes.get("Hkv", H) != H else 1

    def value(a: Argument) -> Any:
        if a.name in known:
            return known[a.name]
        key = str(a.key[0])
        match a.role:
            case "size":
                return sizes[key]
            case "scalar":
                return float(scalars[key]) if a.type == "fp32" else int(scalars[key])
            case "input":
                return inputs[key]
            case "input stride":
                return inputs[key].stride(int(a.key[1]))
            case _:
                return inputs[key].shape[int(a.key[1])]

    run_kernel(kernel, (tiles * B * H,), x.device, tuple(value(a) for a in arguments), 4, 1)
    return out
