"""`attndsl verify`: random calls of a spec against its dense definition."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli.options import did_you_mean, parse_grid, parse_settings, parse_shape
from attndsl.cli.output import OK, CallError, plural, print_json, progress

if TYPE_CHECKING:
    from attndsl.cli.draws import Draw, Given
    from attndsl.ir.attention import Attention
    from attndsl.reference.accuracy import Verdict

RESULT_WRONG = 1
"""Exit code for a call outside the error rule."""
BACKENDS = ("cpu", "triton")


def verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The .attn file; - is standard input.")],
    trials: Annotated[int, typer.Option(help="Random calls of each attention.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the first call; the next ones count up.", min=0)] = 0,
    backend: Annotated[str, typer.Option(help="cpu, or triton on a GPU (or with TRITON_INTERPRET=1).")] = "cpu",
    shape: Annotated[str | None, typer.Option(help="Sizes that are not random, such as D=64,L=300.")] = None,
    grid: Annotated[str | None, typer.Option(help="Grid extents that are not random.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A const or scalar that is not random.")] = None,
    name: Annotated[str | None, typer.Option(help="Which attention of the file; all unless given.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; random unless given.")] = None,
    forward: Annotated[bool, typer.Option("--forward", help="Leave the gradients out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> int:
    """Run an attention on random sizes, consts, offsets, layouts and element types, forward and backward, and compare
    with the dense fp64 definition. Exit 0 where all is right, 1 where a call is not."""
    from attndsl.cli.draws import Given
    from attndsl.cli.run import DTYPES

    if dtype is not None and dtype not in DTYPES:
        raise CallError(f"--dtype: there is no {dtype!r}{did_you_mean(dtype, DTYPES)}; it is fp32, bf16 or fp16")
    if backend not in BACKENDS:
        raise CallError(f"--backend: there is no {backend!r}{did_you_mean(backend, BACKENDS)}; it is cpu or triton")
    given = Given(
        parse_shape(shape), parse_grid(grid), parse_settings(settings or []), None if dtype is None else DTYPES[dtype]
    )  # fmt: skip
    attentions = _attentions(file, name)
    device = _device(backend)
    options = _options(backend, shape, grid, settings or [], dtype, forward)
    reports = [_verify(a, given, trials, seed, backend, device, not forward) for a in attentions]
    if as_json:
        print_json({"ok": not any(r.failures for r in reports), "attentions": [r.as_data() for r in reports]})
    else:
        for report in reports:
            _print(report, file, options)
    return RESULT_WRONG if any(r.failures for r in reports) else OK


def _attentions(file: str, name: str | None) -> list[Attention]:
    from attndsl.cli.specs import attentions_of, pick

    return attentions_of(file) if name is None else [pick(file, name)]


def _device(backend: str) -> str:
    if find_spec("torch") is None:
        raise CallError("verify needs torch: pip install 'attndsl[torch]'")
    if backend == "cpu" or os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise CallError("--backend triton needs a GPU; TRITON_INTERPRET=1 runs its kernels on the CPU, slowly")
    return "cuda"


@dataclass(frozen=True)
class Failure:
    """A call that is not right: verdicts that are not, or the error it stopped with."""

    draw: Draw
    wrong: dict[str, Verdict]
    error: str = ""

    def as_data(self) -> dict[str, Any]:
        wrong = {n: {"error": v.error, "allowed": v.allowed} for n, v in self.wrong.items()}
        return {"seed": self.draw.seed, "call": self.draw.describe(), "wrong": wrong, "error": self.error or None}


@dataclass(frozen=True)
class Report:
    """What became of the calls of an attention; `worst` is the largest share of its allowance that each result used."""

    name: str
    calls: int
    seed: int
    failures: list[Failure]
    worst: dict[str, float]

    def as_data(self) -> dict[str, Any]:
        return {
            "attention": self.name, "calls": self.calls, "seed": self.seed, "worst": self.worst,
            "failures": [f.as_data() for f in self.failures],
        }  # fmt: skip


def _verify(
    attention: Attention, given: Given, trials: int, seed: int, backend: str, device: str, backward: bool
) -> Report:
    from attndsl.cli.draws import draw

    failures: list[Failure] = []
    worst: dict[str, float] = {}
    with progress(f"verifying {attention.name}") as say:
        for i in range(trials):
            say(f"verifying {attention.name}: call {i + 1} of {trials}, {len(failures)} wrong")
            drawn = draw(attention, given, seed + i)
            found = _try(drawn, backend, device, backward)
            if isinstance(found, Failure):
                failures.append(found)
                continue
            for name, verdict in found.items():
                worst[name] = max(worst.get(name, 0.0), verdict.error / verdict.allowed if verdict.allowed else 0.0)
    return Report(attention.name, trials, seed, failures, worst)


def _try(drawn: Draw, backend: str, device: str, backward: bool) -> dict[str, Verdict] | Failure:
    from attndsl.cli.judging import verdicts

    try:
        found = verdicts(drawn, backend, device, backward)
    except NotImplementedError as error:
        raise CallError(f"{error} (verify --forward leaves gradients out)") from error
    except (TypeError, ValueError) as error:
        if "does not have" in str(error) or "needs the package" in str(error):
            raise CallError(str(error)) from error
        return Failure(drawn, {}, f"{type(error).__name__}: {error}")
    except (AssertionError, ArithmeticError, LookupError, RuntimeError) as error:
        return Failure(drawn, {}, f"{type(error).__name__}: {error}")
    wrong = {n: v for n, v in found.items() if not v.ok}
    return Failure(drawn, wrong) if wrong else found


def _options(
    backend: str, shape: str | None, grid: str | None, settings: list[str], dtype: str | None, forward: bool
) -> str:
    """The options of this run that a single call must have, too."""
    parts = [f"--backend {backend}"] if backend != "cpu" else []
    parts += [f"--{n} {v}" for n, v in (("shape", shape), ("grid", grid), ("dtype", dtype)) if v is not None]
    parts += [f"--set {s}" for s in settings] + (["--forward"] if forward else [])
    return " ".join(parts)


def _print(report: Report, file: str, options: str) -> None:
    for failure in report.failures:
        print(f"WRONG   {report.name}  {failure.draw.describe()}")
        for name, v in failure.wrong.items():
            print(f"        {name:<6} {v.error:.1e} from the fp64 definition, {v.allowed:.1e} allowed")
        if failure.error:
            print("        " + "\n        ".join(failure.error.splitlines()))
        again = f"attndsl verify {file} --name {report.name} --seed {failure.draw.seed} --trials 1 {options}".rstrip()
        print(f"        again: {again}")
    wrong = len(report.failures)
    verdict = "all right" if not wrong else f"{wrong} wrong"
    largest = max(report.worst.items(), key=lambda item: item[1], default=None)
    close = "" if largest is None else f"; {largest[0]} used {largest[1]:.0%} of what is allowed at most"
    print(f"{report.name}: {plural(report.calls, 'call')} from seed {report.seed}, {verdict}{close}")
