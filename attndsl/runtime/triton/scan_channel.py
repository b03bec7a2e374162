"""Decays per channel: the operands that scans of chunks take, and gradients of the pairs within chunks."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_scan import ScanModule
from attndsl.codegen.triton_scan_channel import Channel, finish_slices, generate_channel
from attndsl.runtime.triton.generated import scan_module_for
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.scan import aligned
from attndsl.runtime.triton.scan_config import ScanConfig
from attndsl.runtime.triton.scan_launch import Memo, Reading, Ready

WARPS = {"gates": 4, "finish": 8, "finish_careful": 4}


@lru_cache(maxsize=256)
def _module(channel: Channel) -> ScanModule:
    return scan_module_for("channel", channel, lambda: generate_channel(channel, ["decays per channel"]))


@dataclass(frozen=True, eq=False)
class Gated:
    """Queries and keys with the powers of their chunk in them, contiguous, [B, heads, L, F]; the powers of whole chunks
    (fp32 [B, H, chunks, F]); the weights of the pairs within chunks [B, H, L, chunk]; and which chunks are made
    in whole, i32 [B, H, chunks] (None where none is)."""

    q: Tensor
    k: Tensor
    factors: Tensor
    weights: Tensor
    done: Tensor | None


@dataclass(frozen=True, eq=False)
class Channels:
    """The kernels of a call: `reading` is what maps read. Runs within `launching`; what is
    prepared is kept in `memo`."""

    channel: Channel
    g: Tensor
    config: ScanConfig
    H: int
    memo: Memo
    reading: Reading

    def gated(self, q: Tensor, k: Tensor) -> Gated:
        """What scans take for features of queries and keys."""
        B, H, L, F = q.shape
        heads = k.shape[1] if self.g.shape[1] == k.shape[1] else H
        chunks = -(-L // self.config.chunk)
        made = Gated(
            torch.empty((B, H, L, F), dtype=q.dtype, device=q.device),
            torch.empty((B, heads, L, F), dtype=q.dtype, device=q.device),
            torch.empty((B, H, chunks, F), dtype=torch.float32, device=q.device),
            torch.empty((B, H, L, self.config.chunk), dtype=q.dtype, device=q.device),
            torch.empty((B, H, chunks), dtype=torch.int32, device=q.device) if self.config.gate_whole else None,
        )
        given = {
            "q": q, "k": k, "g": self.g, "q_decayed": made.q, "k_decayed": made.k, "factors": made.factors,
            "weights": made.weights, "done": made.done,
        }  # fmt: skip
        self._launch_both("gates", "careful", given, {"k_share": H // max(heads, 1)}, q)
        return made

    def finish(self, given: Mapping[str, Tensor | None], narrow_keys: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of what queries and keys were made from, and per row and channel what sums to the gradient of the
        logarithm of the decay (fp32); all [B, H, L, F], of keys in fp32 unless `narrow_keys`.

        `given`: q and k (features), g, v, do, the gradients of features by way of the states (fp32, `q_inter`,
        `k_inter`, without the powers within chunks), `u`, `done`, and where there are maps `q_raw` and `k_raw`.
        """
        q = given["q"]
        assert q is not None
        dq, log = torch.empty_like(q, memory_format=torch.contiguous_format), _wide(q)
        dk = torch.empty(q.shape, dtype=q.dtype if narrow_keys else torch.float32, device=q.device)
        given = {**given, "g": self.g, "grad_q": dq, "grad_k": dk, "log": log}
        self._launch_both("finish", "finish_careful", given, {}, q)
        return dq, dk, log

    def _launch_both(
        self, name: str, careful: str, given: Mapping[str, Tensor | None], numbers: Mapping[str, int], spare: Tensor
    ) -> None:
        """A kernel for chunks in whole, where that is asked for, then that of blocks for the others."""
        if self.config.gate_whole:
            self._launch(name, given, numbers, spare)
        self._launch(careful, given, {**numbers, "REST": self.config.gate_whole}, spare)

    def _launch(self, name: str, given: Mapping[str, Tensor | None], numbers: Mapping[str, int], spare: Tensor) -> None:
        ready = self.memo.get(name)
        module = _module(self.channel)
        if ready is None:
            ready = self.memo[name] = self._prepared(name, module, given, numbers)
        values: dict[str, Any] = {**given, **self.reading.values(module.arguments[name])}
        ready.run(spare.device, values, spare)

    def _prepared(
        self, name: str, module: ScanModule, given: Mapping[str, Tensor | None], numbers: Mapping[str, int]
    ) -> Ready:
        q = given["q"]
        assert q is not None
        B, H, L = q.shape[:3]
        chunks = -(-L // self.config.chunk)
        known: dict[str, Any] = {
            "H": H, "L": L, "chunks": chunks, "BT": self.config.chunk, "group": self.reading.sizes.get("group", 1),
            **numbers,
        }  # fmt: skip
        units = dict(self.channel.units)
        for role, t in given.items():
            if t is not None:
                known[f"{role}_group"] = H // max(t.shape[1], 1)
                for i, axis in enumerate("bhl"):
                    known[f"{role}_s{axis}"] = t.stride(i) // units.get(role, 1) if i < t.ndim else 0
        known |= self.reading.numbers(module.arguments[name])
        kernel = getattr(load_module(module.source), name)
        warps = self.config.gate_warps if name == "careful" else WARPS[name]
        programs = B * H * chunks * (finish_slices(self.channel.keys) if name == "finish" else 1)
        return Ready.of(kernel, module.arguments[name], known, programs, warps, 1)


def units_of(tensors: Mapping[str, Tensor | None]) -> tuple[tuple[str, int], ...]:
    """Elements in 16 bytes, for tensors all of whose rows start at multiples of that."""
    return tuple((n, 16 // t.element_size()) for n, t in tensors.items() if t is not None and aligned(t))


def _wide(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=torch.float32, device=like.device)
