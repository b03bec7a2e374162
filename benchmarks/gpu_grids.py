"""Masks on grids that read tensors, on a GPU: nothing waits, graphs follow their tensors, and what finding boxes costs.

    python benchmarks/gpu_grids.py [--out FILE] [--commit HASH]

Checks and figures go to benchmarks/results/<gpu>/<date>-grids.json. A figure `found` is a call whose boxes are found on
the device, `planned` the same spec without the tensor, whose boxes the host plans once.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import attndsl
from benchmarks.gpu_operator import dense, host, near, on_device, silent, tensors
from benchmarks.raw import Raw

GRID = (5, 24, 20)
L = 2400
FRAMES = "attention frames(input on: bool[B, T]) { grid video(t, y, x) mask on[b, k.t] and k.t <= q.t }"
KEPT = """use masks (neighborhood)
attention kept(input keep: bool[B, Lk], const window: int[3], const stride: int[3] = 1) { grid video(t, y, x)
    mask all(neighborhood(q.video, k.video, size(video), window, stride, 1, false)) and keep[b, k] }"""
JOINT = """attention joint(input n: i32[B], scalar w: int) { grid text(m) ++ video(t, y, x)
    mask (k in video or k.m < n[b]) and (not (q in video and k in video) or abs(q.t - k.t) < w) }"""


def frame_of() -> Tensor:
    """The frame of every position."""
    return torch.arange(L, device="cuda") // (L // GRID[0])


def frames_without_synchronisation() -> str:
    """Frames that are valid: a call with new ones does not wait, and is right."""
    f = attndsl.load(FRAMES)
    q, k, v = tensors(2, 4, L)
    made = [torch.rand(2, GRID[0], device="cuda") < 0.6 for _ in range(3)]
    t = frame_of()

    def expected(i: int) -> Tensor:
        return dense(q, k, v, (made[i][:, t][:, None, :] & (t[None, :] <= t[:, None]))[:, None])

    return silent(lambda i: f(q, k, v, on=made[i], grid=GRID), expected)


def segments_without_synchronisation() -> str:
    """Lengths of text beside video, and a window that is a tensor."""
    f = attndsl.load(JOINT)
    m, video = 100, (4, 20, 20)
    q, k, v = tensors(2, 4, m + 1600)
    lengths = [torch.randint(1, m, (2,), device="cuda", dtype=torch.int32) for _ in range(3)]
    widths = [torch.tensor(w, device="cuda") for w in (1, 3, 2)]
    at = torch.arange(m + 1600, device="cuda")
    t = torch.where(at < m, -1, (at - m) // 400)

    def run(i: int) -> Tensor:
        return f(q, k, v, n=lengths[i], w=widths[i], grid={"text": (m,), "video": video})

    def expected(i: int) -> Tensor:
        there = (t >= 0)[None] | (at[None] < lengths[i][:, None])
        both = (t >= 0)[:, None] & (t >= 0)[None]
        seen = ~both | ((t[:, None] - t[None]).abs() < int(widths[i]))
        return dense(q, k, v, (there[:, None] & seen)[:, None])

    return silent(run, expected)


def graph_of_frames() -> str:
    """A captured forward and backward, replayed on other frames, finds their boxes."""
    f = attndsl.load(FRAMES)
    q, k, v = (x.requires_grad_() for x in tensors(1, 4, L))
    on = torch.ones(1, GRID[0], dtype=torch.bool, device="cuda")
    seed, t = torch.randn_like(q), frame_of()

    def step() -> tuple[Tensor, ...]:
        out = f(q, k, v, on=on, grid=GRID)
        return out, *torch.autograd.grad(out, (q, k, v), seed)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        found = step()
    for i in range(3):
        on.copy_(torch.rand(1, GRID[0], device="cuda") < 0.5)
        captured.replay()
        torch.cuda.synchronize()
        out = dense(q, k, v, (on[:, t][:, None, :] & (t[None, :] <= t[:, None]))[:, None])
        for a, b in zip(found, (out, *torch.autograd.grad(out, (q, k, v), seed.float())), strict=True):
            apart = float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-6))
            if apart > 2e-2:
                return f"replay {i}: relative difference {apart:.2e}"
    return ""


def kept_tokens() -> str:
    """A window with tokens dropped, against the same window without them where none is."""
    f, plain = attndsl.load(KEPT, window=(3, 9, 9)), attndsl.load(KEPT.replace(" and keep[b, k]", ""), window=(3, 9, 9))
    q, k, v = tensors(1, 4, L)
    keep = torch.ones(1, L, dtype=torch.bool, device="cuda")
    return near(f(q, k, v, keep=keep, grid=GRID), plain(q, k, v, keep=keep, grid=GRID))


CHECKS: tuple[Callable[[], str], ...] = (
    frames_without_synchronisation, segments_without_synchronisation, graph_of_frames, kept_tokens,
)  # fmt: skip


def figures(keep: Callable[[dict[str, Any]], None]) -> None:
    """Calls with and without boxes that are found on the device."""
    for name, grid, window, stride, H in (
        ("video 30x48x80 w18,24,24 s2,8,8", (30, 48, 80), (18, 24, 24), (2, 8, 8), 24),
        ("video 16x32x32 w5,9,9", (16, 32, 32), (5, 9, 9), (1, 1, 1), 16),
    ):
        length = grid[0] * grid[1] * grid[2]
        q, k, v = tensors(1, H, length)
        for share in (1.0, 0.9, 0.0):
            # whole lines of tokens are dropped, so that boxes are
            lines = torch.rand(length // grid[2], device="cuda") < share
            mask = lines.repeat_interleave(grid[2])[None].contiguous()
            for what, text in (("found", KEPT), ("planned", KEPT.replace(" and keep[b, k]", ""))):
                if what == "planned" and share < 1.0:
                    continue
                f = attndsl.load(text, window=window, stride=stride)

                def run(f: Any = f, mask: Tensor = mask) -> Tensor:
                    return f(q, k, v, keep=mask, grid=grid)  # noqa: B023

                for step, ms in (("device, in a graph", on_device(run)), ("host", host(lambda i, run=run: run()))):
                    keep({"wl": f"{name}, {share:.0%} kept", "sys": f"attndsl-triton {what}", "pas": step, "ms": ms,
                          "tflops": None, "note": ""})  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit", default="")
    given = parser.parse_args()
    raw = Raw("grids", given.out, given.commit, torch.cuda.get_device_name())
    for check in CHECKS:
        try:
            wrong = check()
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"[:300]
        raw.check(check.__name__, wrong)

    def keep(row: dict[str, Any]) -> None:
        raw.data["rows"].append(row)
        raw.write()
        print(f"{row['wl']:44s} {row['sys']:24s} {row['pas']:20s} {row['ms']:9.3f} ms", flush=True)

    figures(keep)
    return raw.end()


if __name__ == "__main__":
    sys.exit(main())
