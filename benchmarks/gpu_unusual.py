"""Attentions that no library has kernels for, on a GPU: forward and backward beside what one would write today, the
definition on whole matrices compiled by torch, and beside plain attention of the same shape.

    python benchmarks/gpu_unusual.py [--lengths 2048,8192] [--only TEXT] [--out FILE] [--commit HASH]

Outputs of the two are compared before anything is measured. Of forward passes also the time on the device alone, in a
graph: short calls take as long as the host prepares them. Rows go to benchmarks/results/<gpu>/<date>-unusual.json.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import attndsl
from attndsl.bench.measure import Row, measure, said
from benchmarks.gpu_operator import on_device
from benchmarks.raw import Raw

HEADS, SIZE, HIDDEN = 8, 64, 16
Whole = Callable[..., Tensor]
"""The scores, or the weights, of all pairs from q, k and further tensors."""


@dataclass(frozen=True)
class Case:
    """`shapes` are those of further tensors, of dimensions `L`, `D` and numbers; `scores` what softmax takes, else the
    weights themselves, and `finish` makes the result of the output, q and further tensors. `spread` is the standard
    deviation of further tensors, whose sign `negative` turns."""

    name: str
    text: str
    whole: Whole
    shapes: tuple[tuple[int | str, ...], ...] = ()
    causal: bool = True
    scores: bool = True
    spread: float = 0.2
    negative: bool = False
    finish: Whole | None = None


def _channel_decay(q: Tensor, k: Tensor, g: Tensor) -> Tensor:
    # for every pair and channel: a product of matrices would overflow
    sums = g.float().cumsum(2)
    gaps = (sums[:, :, :, None] - sums[:, :, None]).clamp(max=0.0)
    return (q.float()[:, :, :, None] * k.float()[:, :, None] * gaps.exp()).sum(-1) / SIZE**0.5


def _additive(q: Tensor, k: Tensor, w: Tensor, u: Tensor, a: Tensor) -> Tensor:
    rows, keys = (x.float() @ m.float() for x, m in ((q, w), (k, u)))
    return (torch.tanh(rows[:, :, :, None] + keys[:, :, None]) * a.float()[:, None, None]).sum(-1)


def _gated(q: Tensor, k: Tensor, w: Tensor, u: Tensor) -> Tensor:
    gate = ((q @ w.to(q.dtype)) @ (k @ u.to(k.dtype)).transpose(-1, -2)).float() / HIDDEN**0.5
    return (q @ k.transpose(-1, -2)).float() / SIZE**0.5 * torch.sigmoid(gate)


def _scores(q: Tensor, k: Tensor, *_: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).float() / SIZE**0.5


def _unit(o: Tensor, q: Tensor) -> Tensor:
    return o / (1.0 + torch.linalg.vector_norm(o.float(), dim=-1, keepdim=True)).to(o.dtype)


def _above_mean(q: Tensor, k: Tensor) -> Tensor:
    s = (q @ k.transpose(-1, -2)).float() / SIZE**0.5
    seen = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril()
    count = seen.sum(-1, keepdim=True)
    mean = torch.where(seen, s, 0.0).sum(-1, keepdim=True) / count
    weight = torch.where(seen, torch.relu(s - mean), 0.0)
    return weight / weight.sum(-1, keepdim=True).clamp_min(1e-30)


CASES = (
    Case("distance", "attention f() { mask k <= q score -norm(Q - K) }",
         lambda q, k: -torch.linalg.vector_norm(q.float()[:, :, :, None] - k.float()[:, :, None], dim=-1)),
    Case("additive, 16 hidden", """attention f(input w: f32[H, D, M], input u: f32[H, D, M], input a: f32[H, M]) {
    mask k <= q score dot(a[h], tanh(Q @ w[h] + K @ u[h])) }""", _additive,
         ((HEADS, "D", HIDDEN), (HEADS, "D", HIDDEN), (HEADS, HIDDEN))),
    Case("decays per channel", """attention f(input g: f32[B, H, L, D] log_decay) {
    mask k <= q score dot(Q, K * decay(g[b, h])) / sqrt(D) }""", _channel_decay, ((1, HEADS, "L", "D"),),
         spread=0.02, negative=True),
    Case("gated pairs", """attention f(input w: f32[H, D, M], input u: f32[H, D, M]) {
    mask k <= q score s * sigmoid(dot(Q @ w[h], K @ u[h]) / sqrt(M)) }""", _gated,
         ((HEADS, "D", HIDDEN), (HEADS, "D", HIDDEN))),
    Case("above the mean", "attention f() { mask k <= q weight relu(s - mean(s)) / sum }", _above_mean, scores=False),
    Case("gate of the query", "attention f(input w: f32[H, D, Dv]) { mask k <= q output o * sigmoid(Q @ w[h]) }",
         _scores, ((HEADS, "D", "D"),), finish=lambda o, q, w: o * torch.sigmoid(q @ w.to(q.dtype))),
    Case("unit outputs", "attention f() { mask k <= q output o / (1 + norm(o)) }", _scores, finish=_unit),
)  # fmt: skip


def eager(case: Case) -> Whole:
    """The definition on whole matrices."""

    def run(q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> Tensor:
        weights = case.whole(q, k, *more)
        if case.scores:
            seen = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
            weights = torch.softmax(weights.masked_fill(~seen, float("-inf")), -1)
        out = weights.to(v.dtype) @ v
        return out if case.finish is None else case.finish(out, q, *more)

    return run


def ours(case: Case) -> Whole:
    """The same as a call of its attention."""
    f = attndsl.load(case.text)
    names = [i.name for i in f.attention.inputs]
    return lambda q, k, v, *more: f(q, k, v, **dict(zip(names, more, strict=True)))


def plain(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Tensor:
    """Causal attention."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def tensors(case: Case, length: int) -> list[Tensor]:
    """q, k, v and what else the case reads."""
    torch.manual_seed(0)
    made = [torch.randn(1, HEADS, length, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    for shape in case.shapes:
        sizes = [{"L": length, "D": SIZE}[n] if isinstance(n, str) else n for n in shape]
        more = torch.randn(*sizes, device="cuda") * case.spread
        made.append(-more.abs() if case.negative else more)
    return made


def in_graph(keep: Callable[[Row], None], workload: str, name: str, call: Whole, arguments: list[Tensor]) -> None:
    """The forward pass on the device alone."""
    try:
        with torch.no_grad():
            keep(Row(workload, name, "fwd, device", on_device(lambda: call(*arguments)), None, ""))
    except Exception as error:
        keep(Row(workload, name, "fwd, device", None, None, said(error)))
    torch.cuda.empty_cache()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="2048,8192")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit", default="")
    given = parser.parse_args()
    raw = Raw("unusual", given.out, given.commit, torch.cuda.get_device_name())

    def keep(row: Row) -> None:
        raw.data["rows"].append(row.as_data())
        raw.write()
        ms = f"{row.ms:9.3f} ms" if row.ms else "failed"
        print(f"{row.wl:46s} {row.sys:16s} {row.pas:11s} {ms} {row.note}", flush=True)

    for case in CASES:
        if given.only not in case.name:
            continue
        small = tensors(case, 512)
        mine, whole = ours(case), torch.compile(eager(case), dynamic=False)
        found, known = mine(*small).float(), eager(case)(*small).float()
        apart = float((found - known).norm() / known.norm())
        raw.check(case.name, "" if apart < 1e-2 else f"relative difference {apart:.2e}")
        for length in map(int, given.lengths.split(",")):
            # one function of all cases: torch gives up compiling it again
            torch.compiler.reset()
            own, about = tensors(case, length), f"causal, H{HEADS} D{SIZE} L{length}"
            for name, call in (("attndsl-triton", mine), ("torch-compiled", whole), ("sdpa", plain)):
                if name == "sdpa" and case is not CASES[0]:
                    continue
                arguments = own[:3] if name == "sdpa" else own
                workload = about if name == "sdpa" else f"{case.name}, {about}"
                measure(keep, workload, name, call, arguments, flops=None, backward=True, device="cuda")
                in_graph(keep, workload, name, call, arguments)
    return raw.end()


if __name__ == "__main__":
    sys.exit(main())
