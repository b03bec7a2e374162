"""What others compute for the same call: torch's own kernels, FlexAttention, FA4."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownLambdaType=false

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Call = Callable[..., Tensor]


def sdpa(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool = False) -> Call:
    """Torch's attention with a boolean mask."""
    grouped = q.shape[1] != k.shape[1]
    return lambda q, k, v: scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)


def library(options: Mapping[str, Any], q: Tensor, k: Tensor) -> dict[str, Call]:
    """The kernels of torch (cuDNN, FA2; on a CPU what torch chooses) and FA4, where there are arguments for them."""
    found: dict[str, Call] = {}
    causal = bool(options.get("causal", False))
    if set(options) <= {"causal"}:
        if q.device.type == "cpu":
            return {"sdpa": sdpa(q, k, None, causal)}
        from torch.nn.attention import SDPBackend, sdpa_kernel

        for name, kind in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("fa2", SDPBackend.FLASH_ATTENTION)):

            def run(q: Tensor, k: Tensor, v: Tensor, kind: SDPBackend = kind) -> Tensor:
                with sdpa_kernel(kind):
                    return sdpa(q, k, None, causal)(q, k, v)

            found[name] = run
    fa4 = _fa4() if q.device.type == "cuda" else None
    if fa4 is not None:
        named = {"window": "window_size"}
        given = {"causal": causal, **{named.get(n, n): v for n, v in options.items()}}

        def run_fa4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = fa4(*(t.transpose(1, 2) for t in (q, k, v)), **given)
            out = out[0] if isinstance(out, tuple) else out
            return out.transpose(1, 2)

        found["fa4"] = run_fa4
    return found


def _fa4() -> Any:
    try:
        from flash_attn.cute import flash_attn_func  # pyright: ignore[reportUnknownVariableType]
    except Exception:
        # not there, or not for this machine
        return None
    return flash_attn_func


def block_mask(mask: Any, rows: int, keys: int, device: Any) -> Any:
    """FlexAttention's block mask of a mask function, by slabs of rows: no pair is kept, and nothing is compiled.

    Triton 3.6 does not come back from compiling torch's own construction for some lengths, a causal mask of 16384 among
    them.
    """
    from torch.nn.attention.flex_attention import BlockMask

    size = 128
    zero = torch.zeros((), dtype=torch.int32, device=device)
    columns, blocks = -(-keys // size), -(-rows // size)
    at = torch.arange(columns * size, device=device, dtype=torch.int32)[None, :]
    slab = max(1, 2**26 // (columns * size * size))
    some, every = (torch.zeros(blocks, columns, dtype=torch.bool, device=device) for _ in range(2))
    for first in range(0, blocks, slab):
        last = min(first + slab, blocks)
        row = torch.arange(first * size, last * size, device=device, dtype=torch.int32)[:, None]
        inside = (row < rows) & (at < keys)
        seen = mask(zero, zero, row.clamp(max=rows - 1), at.clamp(max=keys - 1)) & inside
        tiles = seen.view(last - first, size, columns, size)
        some[first:last], every[first:last] = tiles.any(3).any(1), tiles.all(3).all(1)
    some &= ~every

    def listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.argsort(chosen.int(), dim=1, descending=True, stable=True).int()
        return chosen.sum(1, dtype=torch.int32)[None, None], order[None, None].contiguous()

    return BlockMask.from_kv_blocks(
        *listed(some), *listed(every), BLOCK_SIZE=size, mask_mod=mask, seq_lengths=(rows, keys)
    )


def flex(q: Tensor, k: Tensor, score: Any, mask: Any) -> tuple[Call, str]:
    """Compiled FlexAttention, and the seconds that its block mask took; tokens are as they lie in q and k."""
    from torch.nn.attention.flex_attention import flex_attention

    # past its limit of recompilations it would run uncompiled
    torch.compiler.reset()
    start = time.perf_counter()
    blocks = None
    if mask is not None:
        blocks = block_mask(mask, q.shape[2], k.shape[2], q.device)
        if q.device.type == "cuda":
            torch.cuda.synchronize()
    note = f"block mask {time.perf_counter() - start:.2f} s"
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    grouped = q.shape[1] != k.shape[1]
    return lambda q, k, v: compiled(q, k, v, score_mod=score, block_mask=blocks, enable_gqa=grouped), note
