"""Feature maps on the Triton backend, interpreted: `python -m tests.runtime.triton.interpret_linear GROUP GROUPS`."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from attndsl.runtime.triton import scan_passes
from attndsl.runtime.triton.scan_config import ScanConfig, scan_configured
from tests.runtime.scan_cases import ScanCase
from tests.runtime.test_scan import DOC, GAMMA, spec
from tests.runtime.triton import guard


class OnTriton:
    """A compiled function whose calls run on the Triton backend."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)

    def __call__(self, *args: Any, **given: Any) -> Any:
        return self.function(*args, backend="triton", **given)

    def step(self, *args: Any, **given: Any) -> Any:
        return self.function.step(*args, backend="triton", **given)


@dataclass
class TritonCase(ScanCase):
    """A case on the Triton backend."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.function = OnTriton(self.function)


SCANS = ("none", "plain", "base", "log", "token", "other sum", "sum of vectors", "mean", "count", "map", "positions")


def cases() -> list[tuple[str, Callable[[], None]]]:
    """What is run, by name."""
    found: list[tuple[str, Callable[[], None]]] = []

    def add(name: str, text: str, kind: str = "scan", **sizes: Any) -> None:
        sizes = {"B": 1, "H": 2, "Hkv": 1, "Lq": 37, **sizes}
        found.append((f"{name} {sizes}", lambda: TritonCase(text, **sizes).check(kind)))

    for i, name in enumerate(SCANS):
        add(name, spec(name), Lq=(1, 19, 37)[i % 3])
    for name, length in (("channel", 1), ("channel", 21), ("channel", 75), ("channel of a head", 70)):
        add(name, spec(name), Lq=length, H=4, Hkv=2)
    add("channel strict", spec("channel", "mask k < q"), Lq=50)
    add("channel half", spec("channel"), dtype=torch.float16, Lq=40, D=16, Dv=16)
    add("channel wide values", spec("channel of a head"), Lq=33, D=24, Dv=40)
    found.append(("channel strong", lambda: _stronger(spec("channel"), 30.0, H=4, Hkv=2, Lq=40)))
    found.append(("pieces channel", lambda: _pieces(spec("channel"), B=1, H=2, Hkv=1, Lq=40)))
    found.append(("pieces channel of a head", lambda: _pieces(spec("channel of a head"), B=1, H=2, Hkv=1, Lq=40)))
    features = "concat(x / 2, outer(x, x) / sqrt(2 * D))"
    maps = f"dot({features.replace('x', 'Q')}, {features.replace('x', 'K')})"
    add("expansion", f"attention a() {{ mask k <= q weight {maps} }}", dtype=torch.float16)
    nested = "dot(outer(Q, concat(Q, Q / 2)) * 0.3, outer(relu(K), concat(K, exp(K)))) / (1 + abs(sum))"
    add("expansion of parts", f"attention a() {{ mask k <= q weight {nested} }}", D=5, H=4, Hkv=2)
    square = "outer(x * 2, x) / D, outer(relu(x), relu(x)), outer(outer(x, x), relu(x))"
    maps = ", ".join(f"concat({square.replace('x', t)})" for t in "QK")
    add("squares", f"attention a() {{ mask k <= q weight dot({maps}) / (1 + abs(sum)) }}", D=5, H=4, Hkv=2)
    taylor = "use features (taylor) attention a() { mask k <= q weight dot(taylor(Q, D), taylor(K, D)) / sum }"
    for i, (size, dtype) in enumerate(
        ((1, torch.float32), (4, torch.float16), (7, torch.float32), (16, torch.float16))
    ):
        add(f"taylor {size}", taylor, D=size, dtype=dtype, Lq=(19, 37)[i % 2])
    found.append(("pieces taylor", lambda: _pieces(taylor, B=1, H=2, Hkv=1, Lq=37, D=4)))
    add("bf16", spec("none"), dtype=torch.bfloat16)
    add("fp16", spec("base"), dtype=torch.float16, D=16, Dv=16)
    for name in ("none", "token", "other sum"):
        add(f"strict {name}", spec(name, "mask k < q"))
        add(f"documents {name}", spec(name, "mask doc[b, q] == doc[b, k] and k <= q", DOC), documents=5)
    add("output", spec("count", output="output o * sigmoid(q * 0.1)"))
    add("empty", spec("none"), Lq=0)
    for name in ("none", "other sum", "sum of vectors", "mean", "count", "map"):
        add(f"reduction {name}", spec(name, ""), "reduction", Lq=19, Lk=40, H=4, Hkv=2)
    add("reduction of few", spec("none", ""), "reduction", Lq=3, Lk=0)
    add("both documents", spec("none", "mask doc[b, q] == doc[b, k]", DOC), "both")
    text = f"attention a({GAMMA}) {{ weight dot(Q, K) * gamma[h]^abs(q - k) / (1 + abs(sum)) }}"
    add("both decaying", text, "both", Lq=21)
    for name in ("none", "base", "token", "mean", "positions"):
        case = {"B": 1, "H": 2, "Hkv": 1, "Lq": 37}
        found.append((f"pieces {name}", lambda name=name, case=case: _pieces(spec(name), **case)))
    mask = "mask doc[b, q] == doc[b, k] and k <= q"
    found.append(("pieces documents", lambda: _pieces(spec("none", mask, DOC), B=1, H=2, Lq=37, documents=5)))
    return found


def _stronger(text: str, strength: float, **sizes: Any) -> None:
    """With decays that are stronger by a factor."""
    case = TritonCase(text, B=1, **sizes)
    case.inputs["g"] = (case.inputs["g"] * strength).detach().requires_grad_(case.inputs["g"].requires_grad)
    case.check("scan")


def _pieces(text: str, **sizes: Any) -> None:
    case = TritonCase(text, **sizes)
    case.compare(case.pieces([20, 36]))


def main() -> int:
    """0 if all cases of the group are right."""
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    group, groups = int(sys.argv[1]), int(sys.argv[2])
    scan_passes.GATE_LENGTH = 32  # pyright: ignore[reportPrivateImportUsage]
    wrong = 0
    chosen = cases()[group::groups]
    if len(sys.argv) > 3:
        chosen = [c for c in chosen if sys.argv[3] in c[0]]
    for i, (name, run) in enumerate(chosen):
        # blocks of a decay per channel are 16 rows, of which a chunk has several
        config = ScanConfig((64, 16, 32)[i % 3] if "channel" in name else 16, 16, 4, 1, gate_whole=i % 4 > 0)
        asked = replace(config, segments=3) if i % 2 else config
        # passes that were tuned apart need not have the same chunks
        apart = {"scan_dq": replace(asked, chunk=32), "scan_dk": replace(asked, chunk=64)} if i % 4 > 1 else {}
        try:
            with scan_configured(asked), scan_configured(**apart):
                run()
        except Exception:
            wrong += 1
            print(f"WRONG {name}\n{traceback.format_exc(limit=-4)}")
    print(f"{len(chosen) - wrong} of {len(chosen)} cases right")
    return 1 if wrong else 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
