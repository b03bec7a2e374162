"""Vectors of the pair whose components move or that the pair chooses, under Triton's interpreter, forward and backward:
`python -m tests.runtime.triton.interpret_components [NAME...]`."""

from __future__ import annotations

import sys
from collections import Counter

import torch

from tests.runtime.triton import guard
from tests.runtime.triton.interpret_random import check
from tests.spec import InputSpec, Spec


def spec(text: str, *inputs: InputSpec, **given: object) -> Spec:
    """A small call of an odd number of rows and keys."""
    sizes = {"B": 1, "H": 4, "Hkv": 2, "Lq": 7, "Lk": 9, "D": 4, "Dv": 4, "L": 9}
    return Spec(f"attention a{text}", sizes | dict(given.pop("sizes", {})), inputs=inputs, **given)  # pyright: ignore


def normal(name: str, *shape: int) -> InputSpec:
    return InputSpec(name, "f32", shape, "normal", 0.5)


CHOSEN = "min(abs(q - k), 4)"
SPECS = {
    "concat": spec("{ score norm(concat(Q, K) - concat(K, tanh(Q))) }", q_offset="end"),
    "outer": spec("{ mask q >= k score total(tanh(outer(Q, K))) / 4 }", sizes={"D": 3}),
    "rope": spec("{ score dot(rope(tanh(Q), q - k), K) + total(tanh(rope(Q + K, q - k))) }", q_offset="end"),
    "apart": spec("{ score norm(rope(Q, abs(q - k)) - K) }", dtype="bf16"),
    "roll": spec("{ score norm(roll(tanh(Q + K), q - 2 * k) * K) }", sizes={"D": 3}),
    "gathered": spec("{ score norm(roll(Q, abs(q - k)) - roll(K, q * k)) mask abs(q - k) < 5 }", sizes={"D": 3}),
    "map": spec("(input w: f32[D, M], input c: f32[H, M]) { score dot(c[h], tanh(tanh(Q + K) @ w)) }",
                normal("w", 4, 3), normal("c", 4, 3)),
    "linear": spec("(input w: f32[H, D, M], input c: f32[H, M]) { weight relu(dot(c[h], tanh(Q + K) @ w[h])) / 9 }",
                   normal("w", 4, 4, 3), normal("c", 4, 3), dtype="bf16"),
    "chosen": spec(f"(input r: f32[N, D]) {{ mask k <= q score norm(Q + r[{CHOSEN}] - K) }}", normal("r", 5, 4)),
    "both": spec(f"(input r: f32[H, N, D]) {{ score dot(Q + r[h, {CHOSEN}], K + r[h, {CHOSEN}]) / 2 }}",
                 normal("r", 4, 5, 4)),
    "by two": spec("(input r: f32[Lq, Lk, D]) { score s + dot(Q, r[q, k]) }", normal("r", 7, 9, 4)),
    "matrix": spec(f"(input r: f32[N, D, M], input c: f32[M]) {{ score dot(c, Q @ r[{CHOSEN}]) }}",
                   normal("r", 5, 4, 3), normal("c", 3)),
    "largest": spec("{ score amax(concat(Q - K, K * Q)) }"),
    "softmax": spec("{ score dot(softmax(roll(Q + K, q - k)), K) }"),
}  # fmt: skip
EXACT = ("gathered", "map", "chosen")
"""What is checked with sums that do not depend on their order as well."""


def main() -> int:
    count = Counter[str]()
    for name in sys.argv[1:] or SPECS:
        check(SPECS[name], count)
        if name in EXACT:
            torch.use_deterministic_algorithms(True)
            check(SPECS[name], count)
            torch.use_deterministic_algorithms(False)
    assert count["not there"] == 0, count
    print(f"{count['right']} cases right")
    return 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
