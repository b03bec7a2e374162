"""Random programs under Triton's interpreter, forward and backward: `python -m tests.runtime.triton.interpret_random
SEED COUNT`. Programs that the backend does not have are counted apart."""
# pyright: reportUnknownMemberType=false, reportPrivateUsage=false

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import Tensor

import attndsl
from attndsl.runtime.triton.config import Config, configured
from tests.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, assert_right
from tests.properties.test_end_to_end import DTYPES, NEEDS, Results, _laid_out, _results, _tensors, dense
from tests.random_specs import specs
from tests.runtime.triton import guard
from tests.spec import Spec


def ours(spec: Spec, with_lse: bool) -> Results:
    """Output, lse and gradients of the Triton backend with small tiles."""
    t = _tensors(spec, None)
    function = attndsl.load(spec.text, **spec.consts)
    arguments: dict[str, Any] = {n: x for n, x in t.items() if n not in NEEDS} | spec.scalars
    if spec.grid is not None:
        arguments["grid"] = spec.grid
    if spec.q_offset != 0:
        arguments["q_offset"] = spec.offset()
    arguments["layout"] = "bshd" if spec.layout == "bshd" else "bhsd"
    q, k, v = (_laid_out(t[n], spec.layout) for n in NEEDS)
    with configured(Config(32, 32, 4, 2), dq=Config(16, 32, 4, 2), dkdv=Config(32, 16, 4, 2)):
        found = function(q, k, v, scale=spec.scale, return_lse=with_lse, backend="triton", **arguments)
        out, lse = found if with_lse else (found, None)
        assert isinstance(out, Tensor)
        return _results(spec, out.transpose(1, 2) if spec.layout == "bshd" else out, lse, t)


def check(spec: Spec, count: Counter[str]) -> None:
    """One program, judged by the rule."""
    dtype = DTYPES[spec.dtype]
    exact = dense(spec, torch.float64)
    try:
        found = ours(spec, with_lse="lse" in exact)
    except (ValueError, NotImplementedError) as error:
        if not any(words in str(error) for words in ("'triton' does not have", "'triton' has no gradient of")):
            raise
        count["not there"] += 1
        return
    plain = dense(spec, dtype)
    for name, actual in found.items():

        def others(name: str = name) -> Iterable[tuple[Tensor, Tensor]]:
            for i in range(1, 41):
                other = replace(spec, seed=spec.seed + 1000 * i)
                yield dense(other, dtype)[name], dense(other, torch.float64)[name]

        factor = OUTPUT_FACTOR if name in ("out", "lse") else GRADIENT_FACTOR
        own = torch.float32 if name == "lse" else dtype
        assert_right(f"{spec.text}\n{spec}\n{name}", actual, plain[name], exact[name], own, factor, others)
    count["right"] += 1


def main() -> int:
    count: Counter[str] = Counter()

    @seed(int(sys.argv[1]))
    @settings(
        max_examples=int(sys.argv[2]), deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(specs())
    def run(spec: Spec) -> None:
        check(spec, count)

    run()
    print(f"{count['right']} cases right, {count['not there']} that the backend does not have")
    return 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
