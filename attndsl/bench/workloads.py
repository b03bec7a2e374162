"""The workloads: names, shapes, seeds and counts of operations, and what FlexAttention computes for them."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def _none() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Workload:
    """One row of a table: a spec and a call of it, B batches and H heads of D components (Hkv of keys) over S keys and
    Lq rows (S unless given), of which `pairs` pairs a head are visible.

    `flex` makes FlexAttention's score and mask functions, `permuted` is its token count where tokens are permuted into
    tiles beforehand, `library` are the arguments with which torch's own kernels and FA4 compute the same.
    """

    name: str
    text: str
    B: int
    H: int
    S: int
    D: int
    pairs: int
    consts: Mapping[str, Any] = field(default_factory=_none)
    inputs: Mapping[str, Tensor] = field(default_factory=_none)
    grid: Any = None
    flex: Callable[[], tuple[Any, Any]] | None = None
    permuted: int | None = None
    Hkv: int | None = None
    Lq: int | None = None
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    library: Mapping[str, Any] | None = None
    backward: bool = True

    @property
    def flops(self) -> int:
        """Multiplications and additions of the visible pairs, forward; backward has 2.5 times as many."""
        return 4 * self.B * self.H * self.D * self.pairs

    def tensors(self, S: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of seed 0."""
        keys = S or self.S
        g = torch.Generator(device=self.device).manual_seed(0)
        rows, Hkv = self.Lq or keys, self.Hkv or self.H
        q, k, v = (
            torch.randn(self.B, h, n, self.D, device=self.device, dtype=self.dtype, generator=g)
            for h, n in ((self.H, rows), (Hkv, keys), (Hkv, keys))
        )
        return q, k, v


def tensors(B: int, H: int, S: int, D: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of seed 0 on the GPU, bf16."""
    return Workload("", "", B, H, S, D, 0).tensors()


def workloads(device: str = "cuda") -> list[Workload]:
    """All of them; the tensors that specs read lie on a device."""
    return [*dense(16384), *masked(device), *neighborhoods(), *dense(4096), *decode(), *on_cpu()]


def causal(b, h, i, j):
    return i >= j


def dense(S: int) -> list[Workload]:
    found: list[Workload] = []
    B = max(1, 16384 // S)
    for D, H in ((128, 16), (64, 32)):
        for is_causal in (False, True):
            name = f"dense D{D} S{S} B{B} H{H} {'causal' if is_causal else 'full'}"
            text = "attention causal { mask k <= q }" if is_causal else "attention dense {}"
            mask = causal if is_causal else None
            pairs = S * S // 2 if is_causal else S * S
            found.append(
                Workload(
                    name, text, B, H, S, D, pairs, flex=lambda mask=mask: (None, mask), library={"causal": is_causal}
                )
            )
    return found


def decode() -> list[Workload]:
    """One row against a cache of keys that four heads share."""
    return [
        Workload(f"decode B{B} kv{kv} Hq32 Hkv8 D128", "attention dense {}", B, 32, kv, 128, kv, Hkv=8, Lq=1,
                 flex=lambda: (None, None), library={"causal": False}, backward=False)
        for B, kv in ((32, 8192), (8, 32768), (1, 131072))
    ]  # fmt: skip


def on_cpu() -> list[Workload]:
    """For a machine without a GPU: fp32, 8 heads of 64."""
    S = 4096
    near = "attention near(const w: int) { mask k <= q and q - k < w }"
    pairs = sum(min(i + 1, 256) for i in range(S))
    slope = 2.0 ** -torch.arange(1, 9)
    rows: list[tuple[str, str, dict[str, Any], dict[str, Tensor], int, Any, Any]] = [
        ("window 256 causal", near, {"w": 256}, {}, pairs, None, lambda b, h, i, j: (j <= i) & (i - j < 256)),
        ("full", "attention dense {}", {}, {}, S * S, None, None),
        ("causal", "attention causal { mask k <= q }", {}, {}, S * (S + 1) // 2, None, causal),
        ("alibi full", "attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) }", {}, {"slope": slope},
         S * S, lambda s, b, h, i, j: s - slope[h] * (i - j), None),
        ("softcap full", "attention softcap { score tanh(s / 20) * 20 }", {}, {}, S * S,
         lambda s, b, h, i, j: 20.0 * torch.tanh(s / 20.0), None),
    ]  # fmt: skip
    return [
        Workload(f"cpu B1 H8 L{S} D64 {name}", text, 1, 8, S, 64, n, consts, inputs, device="cpu", dtype=torch.float32,
                 flex=lambda score=score, mask=mask: (score, mask),
                 library={"causal": name == "causal"} if name in ("full", "causal") else None)
        for name, text, consts, inputs, n, score, mask in rows
    ]  # fmt: skip


def documents(S: int, n: int, device: str = "cuda") -> tuple[list[int], Tensor]:
    g = torch.Generator().manual_seed(0)
    cuts = torch.sort(torch.randperm(S - 1, generator=g)[: n - 1] + 1).values.tolist()
    ends = [0, *cuts, S]
    ids = torch.zeros(S, dtype=torch.int32)
    for d in range(n):
        ids[ends[d] : ends[d + 1]] = d
    return ends, ids.to(device)


WINDOWS: dict[str, dict[str, Any]] = {
    "swa1024 causal": {"window": (1023, 0)}, "swa4096 causal": {"window": (4095, 0)},
    "swa+-512 bidir": {"window": (512, 512)}, "softcap causal": {"causal": True, "softcap": 50.0},
}  # fmt: skip


def masked(device: str = "cuda") -> list[Workload]:
    H, S, D = 16, 32768, 128
    ends, ids = documents(S, 16, device)
    slope = torch.exp2(-8.0 * torch.arange(1, H + 1, device=device) / H)
    g = torch.Generator().manual_seed(1)
    chosen = torch.rand(S // 128, S // 128, generator=g) < 0.10
    chosen |= torch.eye(S // 128, dtype=torch.bool)
    blocks = chosen.to(device)

    def window(w: int) -> int:
        return sum(min(i + 1, w) for i in range(S))

    triangle = S * (S + 1) // 2
    swa = "attention swa(const w: int) { mask k <= q and q - k < w }"
    rows: list[tuple[str, str, dict[str, Any], dict[str, Tensor], int, Any, Any]] = [
        ("swa1024 causal", swa, {"w": 1024}, {}, window(1024), None, lambda b, h, i, j: (i >= j) & (i - j < 1024)),
        ("swa4096 causal", swa, {"w": 4096}, {}, window(4096), None, lambda b, h, i, j: (i >= j) & (i - j < 4096)),
        ("swa+-512 bidir", "attention local { mask abs(q - k) <= 512 }", {}, {},
         sum(min(S, i + 513) - max(0, i - 512) for i in range(S)), None,
         lambda b, h, i, j: (i - j <= 512) & (j - i <= 512)),
        ("docs16 causal", "attention docs(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }", {},
         {"doc": ids}, sum((ends[d + 1] - ends[d]) * (ends[d + 1] - ends[d] + 1) // 2 for d in range(16)), None,
         lambda b, h, i, j: (ids[i] == ids[j]) & (i >= j)),
        ("prefixlm 4096", "attention prefix { mask k < 4096 or k <= q }", {}, {},
         sum(max(4096, i + 1) for i in range(S)), None, lambda b, h, i, j: (j < 4096) | (i >= j)),
        ("alibi causal", "attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q }", {},
         {"slope": slope}, triangle, lambda s, b, h, i, j: s - slope[h] * (i - j), causal),
        ("softcap causal", "attention softcap { score 50 * tanh(s / 50) mask k <= q }", {}, {}, triangle,
         lambda s, b, h, i, j: 50.0 * torch.tanh(s / 50.0), causal),
        ("randblk 10%", "attention blocks(input r: bool[N, M]) { mask r[q // 128, k // 128] }", {}, {"r": blocks},
         int(blocks.sum()) * 128 * 128, None, lambda b, h, i, j: blocks[i // 128, j // 128]),
        ("sink4+swa1024", "attention sink { mask k <= q and (q - k < 1024 or k < 4) }", {}, {},
         window(1024) + 4 * (S - 1024), None, lambda b, h, i, j: (i >= j) & ((i - j < 1024) | (j < 4))),
    ]  # fmt: skip
    return [
        Workload(f"mask32k D128 H16 {name}", text, 1, H, S, D, pairs, consts, inputs,
                 flex=lambda score=score, mask=mask: (score, mask), library=WINDOWS.get(name))
        for name, text, consts, inputs, pairs, score, mask in rows
    ]  # fmt: skip


def neighborhoods() -> list[Workload]:
    cases = [
        ("flux 256x256 w80 s16 H24", (256, 256), (80, 80), (16, 16), 24),
        ("hunyuan 30x48x80 w18,24,24 s16,8,8 H24", (30, 48, 80), (18, 24, 24), (16, 8, 8), 24),
        ("cosmos 16x44x80 w16,32,48 s1,16,16 H32", (16, 44, 80), (16, 32, 48), (1, 16, 16), 32),
        ("na2d 128x128 w31 s1 H16", (128, 128), (31, 31), (1, 1), 16),
    ]
    found: list[Workload] = []
    for name, shape, window, stride, H in cases:
        axes = ("t", "y", "x")[-len(shape) :]
        n = len(shape)
        text = (
            "use masks (neighborhood)\n"
            f"attention gna(const window: int[{n}], const stride: int[{n}]) {{ grid g({', '.join(axes)})\n"
            "    mask all(neighborhood(q.g, k.g, size(g), window, stride, 1, false)) }"
        )
        tile = {2: (16, 8), 3: (2, 8, 8)}[n]
        padded = math.prod(-(-e // t) * t for e, t in zip(shape, tile, strict=True))
        pairs = math.prod(shape) * math.prod(min(w, e) for w, e in zip(window, shape, strict=True))
        found.append(
            Workload(
                "gna " + name, text, 1, H, math.prod(shape), 128, pairs, {"window": window, "stride": stride},
                grid=shape, permuted=padded, flex=lambda a=(shape, window, stride, tile): (None, _tiled_mask(*a)),
            )
        )  # fmt: skip
    return found


def _tiled_mask(shape: Any, window: Any, stride: Any, tile: Any) -> Any:
    """The neighborhood of tokens that lie tile by tile."""
    n, volume = len(shape), math.prod(tile)
    tiles = [-(-e // t) for e, t in zip(shape, tile, strict=True)]

    def coordinates(index):
        block, inner, found = index // volume, index % volume, []
        for a in reversed(range(n)):
            found.append((block % tiles[a]) * tile[a] + inner % tile[a])
            block, inner = block // tiles[a], inner // tile[a]
        return found[::-1]

    def mask(b, h, i, j):
        ci, cj, seen = coordinates(i), coordinates(j), None
        for a in range(n):
            lead = torch.clamp((ci[a] // stride[a]) * stride[a] + stride[a] // 2, max=shape[a] - 1)
            low = torch.clamp(torch.clamp(lead - window[a] // 2, min=0), max=shape[a] - window[a])
            here = (cj[a] >= low) & (cj[a] < low + window[a]) & (cj[a] < shape[a])
            seen = here if seen is None else seen & here
        return seen

    return mask
