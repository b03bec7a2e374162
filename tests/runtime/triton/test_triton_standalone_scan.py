"""Modules built of linear attention run as scans where attndsl is not, and equal the dense definition."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from attndsl.ir.expr import Size
from attndsl.runtime.triton.standalone_scan import ScanLowering, lower_scan_module, scan_standalone
from tests.runtime.scan_cases import ScanCase
from tests.runtime.triton.interpreted import BRISK, run_alone

pytest.importorskip("triton")


@dataclass
class Built:
    """A case, the form it has, and the rows of the calls that it is cut into; `whole`: run in one segment, too."""

    kind: str
    text: str
    sizes: dict[str, Any] = field(default_factory=dict[str, Any])
    rows: tuple[int, ...] = ()
    whole: bool = False


LINEAR = "attention linear { mask k <= q weight dot(elu(Q) + 1, elu(K) + 1) / sum }"
BUILT = {
    "own sum": Built("scan", LINEAR, {"Dv": 8, "Lq": 70}, whole=True),
    "own sum, pieces": Built("scan", LINEAR, {"B": 1}, (20, 12, 1)),
    "retention": Built("scan", "attention retention(input gamma: f32[H]) { mask k <= q "
                       "weight dot(Q, K) * gamma[h]^(q - k) }", {"B": 2, "Dv": 8, "Lq": 70}),
    "token, pieces": Built("scan", "attention gated(input g: f32[B, H, L] log_decay, input u: f32[B, H, L, Dv]) "
                           "{ mask k <= q weight dot(Q, K) * decay(g) output o * sigmoid(u[b, h, q]) }", {},
                           (40, 29, 1)),
    "token, own sum": Built("scan", "attention gated(input g: f32[B, Hkv, L] log_decay) { mask k <= q "
                            "weight dot(relu(Q) + 0.1, relu(K) + 0.1) * decay(g) / sum }", {"Lq": 70}),
    "logarithm, strict": Built("scan", "attention slow(input slope: f32[H]) { mask k < q "
                               "weight dot(Q, K) * exp(-abs(slope[h]) * (q - k)) }", {"Lq": 70, "Dv": 8}),
    "documents": Built("scan", "attention docs(input doc: i32[B, L] sorted) { mask k <= q and doc[b, q] == doc[b, k] "
                       "weight dot(exp(Q), exp(K)) / sum }", {"Lq": 70}),
    "documents, pieces": Built("scan", "attention docs(input doc: i32[B, L] sorted, input g: f32[B, H, L] log_decay) "
                               "{ mask k <= q and doc[b, q] == doc[b, k] weight dot(Q, K) * decay(g) }", {}, (9, 8, 1)),
    "positions, pieces": Built("scan", "attention near(input W: f32[H, D, M]) { mask k <= q "
                               "feature phi(x) = concat(softmax(x @ W[h]), 1 / (1 + abs(x))) "
                               "weight dot(phi(Q) * cos(q / 9), phi(K) * cos(k / 9)) / (abs(sum) + 0.5) }", {},
                               (9, 8, 1)),
    "two maps, pieces": Built("scan", "attention two { mask k <= q "
                              "weight dot(relu(Q), relu(K)) / sum(dot(elu(Q) + 1, elu(K) + 1)) }", {}, (12, 8)),
    "sum of vectors, pieces": Built("scan", "attention far(input u: f32[H, D]) { mask k <= q "
                                    "weight dot(Q, K) / (norm(sum(abs(K) + 1)) + count) }", {}, (12, 8, 1)),
    "channel": Built("scan", "attention gla(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q "
                     "weight dot(Q, K * decay(g)) }", {"Dv": 8, "Lq": 70, "Hkv": 1}),
    "channel, pieces": Built("scan", "attention gla(input g: f32[B, H, L, D] log_decay) { mask k < q "
                             "weight dot(Q, K * decay(g)) }", {}, (40, 20, 1)),
    "channel, own sum": Built("scan", "attention gla(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q "
                              "weight dot(relu(Q) + 0.1, (relu(K) + 0.1) * decay(g)) / sum }", {}, (40, 1)),
    "both ways": Built("both", "attention both(input slope: f32[H]) { "
                       "weight dot(elu(Q) + 1, elu(K) + 1) * exp(-abs(slope[h]) * abs(q - k)) / sum }", {"Dv": 8}),
    "documents, both ways": Built("both", "attention both(input doc: i32[L] sorted) { mask doc[q] == doc[k] "
                                  "weight dot(relu(Q), relu(K)) / (sum + 1) }"),
    "reduction": Built("reduction", "attention every { weight dot(softmax(Q), softmax(K)) / sum }", {"Lk": 50}),
    "reduction by head": Built("reduction", "attention every(input W: f32[H, D, M]) { "
                               "weight dot(outer(Q @ W[h], Q), outer(K @ W[h], K)) / (abs(mean(dot(Q, K))) + 1) }",
                               {"D": 4, "Dv": 8}),
}  # fmt: skip

RUNNER = """
import importlib.util, sys
from pathlib import Path

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "attndsl":
            raise ImportError(f"{name} is not needed")

sys.meta_path.insert(0, Refused())
import torch

def loaded(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def results(out, live, g):
    values = torch.autograd.grad([out], list(live.values()), [g], allow_unused=True)
    gradients = {n: torch.zeros_like(t) if v is None else v for (n, t), v in zip(live.items(), values)}
    return {"out": out.detach(), **{f"grad {n}": v for n, v in gradients.items()}}

for folder in sorted(Path(sys.argv[1]).iterdir()):
    call = torch.load(folder / "call.pt")
    modules = [loaded(folder / str(rows), call["module"]) for rows in call["rows"]]
    found = []
    for segmented in call["segmented"]:
        live = {n: t.detach().clone().requires_grad_() for n, t in call["floats"].items()}
        rest = {n: live.get(n, t) for n, t in call["inputs"].items()}
        if len(modules) == 1:
            (module,) = modules
            if segmented and hasattr(module, "Walk"):
                # more segments of the sequence than a machine without multiprocessors asks for
                module.Walk.cut = lambda self, most=0: (-(-self.L // self.plan["chunk"]), self.plan["chunk"])
            out = getattr(module, call["module"])(live["q"], live["k"], live["v"], **rest)
        else:
            outs, state, first = [], None, 0
            for rows, module in zip(call["rows"], modules):
                q, k, v = (live[n][:, :, first : first + rows] for n in "qkv")
                own = {n: t.narrow(call["along"][n], first, rows) if n in call["along"] else t for n, t in rest.items()}
                if state is not None:
                    state = module.State(*state)
                out, state = getattr(module, call["module"])(q, k, v, **own, initial_state=state, return_state=True)
                outs.append(out)
                first += rows
            out = torch.cat(outs, 2)
        found.append(results(out, live, call["g"]))
    torch.save(found, folder / "found.pt")
"""


def case_of(built: Built) -> ScanCase:
    lengths = {"Lq": sum(built.rows)} if built.rows else {}
    return ScanCase(built.text, **{"B": 1, "H": 2, "Hkv": 1, **built.sizes, **lengths})


def lowered(case: ScanCase, rows: int, **options: Any) -> ScanLowering:
    f = case.function
    fresh = {
        e.name: n for p in f.attention.inputs for e, n in zip(p.shape, case.inputs[p.name].shape, strict=True)
        if isinstance(e, Size) and e.name not in ("B", "H", "Hkv", "L", "Lq", "Lk", "D", "Dv")
    }  # fmt: skip
    lengths = {"Lq": case.Lq, "Lk": case.Lk} if rows == case.Lq else {"Lq": rows, "Lk": rows}
    problem = f.problem(B=case.B, H=case.H, Hkv=case.Hkv, **lengths, D=case.D, Dv=case.Dv, **fresh)
    found = lower_scan_module(f.simplified, f.attention, problem, "fp32", **options)
    assert isinstance(found, ScanLowering), found
    return found


def write(folder: Path, built: Built) -> ScanCase:
    """A module for every call that a case is cut into, and its tensors."""
    case = case_of(built)
    rows = built.rows or (case.Lq,)
    f = case.function
    for n in rows:
        lowering = lowered(case, n)
        place = folder / str(n)
        (place / "kernels").mkdir(parents=True)
        for file in lowering.files:
            (place / "kernels" / f"{file.name}.py").write_text(file.module.source)
        (place / f"{f.__name__}.py").write_text(scan_standalone(lowering))
    along = {
        p.name: axis for p in f.attention.inputs for axis, e in enumerate(p.shape)
        if isinstance(e, Size) and e.name in ("L", "Lq", "Lk")
    }  # fmt: skip
    torch.save({
        "module": f.__name__, "rows": rows, "floats": case.floats, "inputs": case.inputs, "g": case.g, "along": along,
        "segmented": (False,) if built.rows else (False, True) if built.whole else (True,),
    }, folder / "call.pt")  # fmt: skip
    return case


def test_modules_scan_by_themselves(tmp_path: Path) -> None:
    cases = {name: write(tmp_path / f"{i:02}", built) for i, (name, built) in enumerate(BUILT.items())}
    ran = run_alone(BRISK + RUNNER, tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for i, (name, case) in enumerate(cases.items()):
        found = torch.load(tmp_path / f"{i:02}" / "found.pt")
        assert len(found) == (2 if BUILT[name].whole else 1)
        for results in found:
            try:
                case.compare(results)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error
