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
from attndsl.runtime.triton.scan import aligned
from attndsl.runtime.triton.scan_launch import Memo, Ready


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
        found = memo[name] = _prepared(x, mapping, inputs, sizes)
    ready, read = found
    given: dict[str, Any] = {"x": x, "out": out, "share": share}
    for a in read:
        key = str(a.key[0])
        if a.role == "scalar":
            given[a.name] = float(scalars[key]) if a.type == "fp32" else int(scalars[key])
        else:
            given[a.name] = inputs[key]
    ready.run(x.device, given, x)
    return out


def _prepared(
    x: Tensor, mapping: FeatureMapping, inputs: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> tuple[Ready, tuple[Argument, ...]]:
    """The launch, and what it reads of inputs and scalars."""
    B, H, L, D = x.shape
    kernel, arguments = _module(mapping)
    rows = max(1, 4096 // D) if x.device.type == "cuda" else 64
    rows = 1 << (rows.bit_length() - 1)
    tiles = -(-L // rows)
    known: dict[str, Any] = {"H": H, "L": L, "tiles": tiles, "BT": rows}
    known |= {f"x_s{axis}": x.stride(i) // mapping.unit for i, axis in enumerate("bhl")}
    known["group"] = sizes.get("group", 1) if sizes.get("Hkv", H) != H else 1
    for a in arguments:
        key = str(a.key[0])
        if a.role == "size":
            known[a.name] = sizes[key]
        elif a.role == "input stride":
            known[a.name] = inputs[key].stride(int(a.key[1]))
        elif a.role == "input size":
            known[a.name] = inputs[key].shape[int(a.key[1])]
    read = tuple(a for a in arguments if a.role in ("scalar", "input"))
    return Ready.of(kernel, arguments, known, tiles * B * H, 4, 1), read
