"""`attndsl tune`: find the fastest configuration of a spec's passes, here or for a GPU that is not here."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from attndsl.cli.options import did_you_mean, parse_grid, parse_settings, parse_shape
from attndsl.cli.output import OK, CallError, print_json
from attndsl.cli.run import DTYPES

if TYPE_CHECKING:
    from attndsl.cli.setup import Setup
    from attndsl.runtime.cache.entry import Entry
    from attndsl.runtime.triton.config import Pass
    from attndsl.tune.search import Progress

PASSES: tuple[Pass, ...] = ("forward", "dq", "dkdv", "decode")
NOT_TUNED = 3
"""Exit code where no candidate of a pass was right, or compiled."""


def tune(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The .attn file; - is standard input.")],
    shape: Annotated[str | None, typer.Option(help="Sizes, such as B=1,H=16,L=32768,D=128.")] = None,
    grid: Annotated[str | None, typer.Option(help="Grid extents, such as 8x24x40.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A const or scalar: window=3,9,9.")] = None,
    name: Annotated[str | None, typer.Option(help="Which attention of the file.")] = None,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    budget: Annotated[str, typer.Option(help="Time for every pass: 120s, 2m.")] = "60s",
    passes: Annotated[str, typer.Option(help="Which passes: forward,dq,dkdv,decode.")] = "forward",
    target: Annotated[
        str | None, typer.Option(help="A GPU that is not here: sm_80, sm_89, sm_90, sm_100, h200, ...")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the tensors.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> int:
    """Search for the fastest configuration and keep it in the cache. Candidates run in a process of their own: one that
    crashes the GPU, or hangs, is left out. With --target candidates are compiled for that GPU, checked for resources
    and ranked by the cost model: the result is a prediction."""
    if dtype not in DTYPES:
        raise CallError(f"--dtype: there is no {dtype!r}{did_you_mean(dtype, DTYPES)}; it is fp32, bf16 or fp16")
    seconds, steps = _seconds(budget), _passes(passes)
    given = parse_shape(shape), parse_grid(grid), parse_settings(settings or [])

    from attndsl.cli.planning import check
    from attndsl.cli.setup import prepare
    from attndsl.cli.specs import pick

    setup = prepare(pick(file, name), *given)
    check(setup)
    shown = _Shown(quiet=as_json)
    if target is None:
        entries = _measured(setup, DTYPES[dtype], steps, seconds, seed, shown)
    else:
        entries = _predicted(setup, DTYPES[dtype], steps, seconds, target, seed, shown)
    shown.end()
    if as_json:
        from attndsl.runtime.cache.entry import entry_data

        print_json({"entries": [entry_data(e) for e in entries]})
    else:
        for entry in entries:
            print(_line(entry))
    return OK if all(e.best is not None for e in entries) else NOT_TUNED


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|)", text.strip())
    if found is None:
        raise CallError(f"--budget: {text!r} is not a time such as 120s or 2m")
    return float(found[1]) * {"s": 1, "": 1, "m": 60, "h": 3600}[found[2]]


def _passes(text: str) -> list[Pass]:
    found: list[Pass] = []
    for word in (w.strip() for w in text.split(",")):
        step: Pass | None = next((p for p in PASSES if p == word), None)
        if step is None:
            raise CallError(f"--passes: there is no {word!r}{did_you_mean(word, PASSES)}; it has {', '.join(PASSES)}")
        if step not in found:
            found.append(step)
    return found


class _Shown:
    """Progress on standard error: one line that is written over on a terminal, else a line now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._terminal = sys.stderr.isatty()
        self._quiet = quiet and not self._terminal
        self._said = 0.0

    def __call__(self, p: Progress) -> None:
        if self._quiet or (not self._terminal and p.seconds - self._said < 5):
            return
        self._said = p.seconds
        best = "" if p.ms is None else f", best {p.best} {p.ms:.4f} ms"
        left = min(p.left, (p.total - p.tried) * p.seconds / max(p.tried, 1))
        text = f"{p.tried} of {p.total} tried, {p.pruned} left out{best}, at most {left:.0f} s more"
        print(f"\r\x1b[K{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def end(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _measured(setup: Setup, dtype: str, steps: Sequence[Pass], budget: float, seed: int, shown: _Shown) -> list[Entry]:
    try:
        import torch
    except ImportError:
        raise CallError("tune needs torch: pip install 'attndsl[torch]'; --target SM predicts without a GPU") from None
    if not torch.cuda.is_available():
        raise CallError(
            "there is no GPU here; --target names one (sm_80, sm_89, sm_90, sm_100): candidates are then compiled "
            "for it and ranked by the cost model"
        )
    from attndsl.cli import trial
    from attndsl.cli.planning import mask_tables
    from attndsl.tune.apart import Recipe
    from attndsl.tune.apart_trials import tune_apart
    from attndsl.tune.failures import MeasurerError, ShortOfMemoryError

    inputs = trial.make_inputs_of(setup, seed)
    recipe = Recipe(setup.attention, setup.sizes, dtype, inputs, setup.scalars, setup.grid, seed=seed)
    try:
        return tune_apart(recipe, setup.problem(mask_tables(setup, seed)), steps, budget, shown)
    except ShortOfMemoryError as error:
        raise CallError(f"--shape: the GPU has too little memory for a call of {setup.describe()}: {error}") from error
    except (TypeError, ValueError, MeasurerError) as error:
        raise CallError(str(error)) from error


def _predicted(
    setup: Setup, dtype: str, steps: Sequence[Pass], budget: float, target: str, seed: int, shown: _Shown
) -> list[Entry]:
    from attndsl.cli.planning import mask_tables
    from attndsl.ir.simplify import simplify
    from attndsl.tune.machines import gpu_of
    from attndsl.tune.offline import predict_passes

    try:
        gpu = gpu_of(target)
        attention = simplify(setup.attention)
        problem = setup.problem(mask_tables(setup, seed))
        return predict_passes(attention, setup.attention.name, problem, dtype, steps, gpu, budget, shown)
    except ValueError as error:
        raise CallError(f"--target: {error}" if "no GPU" in str(error) else str(error)) from error


def _line(entry: Entry) -> str:
    from attndsl.cli.cache import entry_id
    from attndsl.runtime.cache.lookup import show_shape
    from attndsl.tune.failures import CRASHED

    where = f"{entry.name} {entry.key.step} {entry.key.dtype} {show_shape(entry.shape)} on {entry.key.machine.name}"
    if entry.best is None:
        return f"{where}: no candidate is right; `attndsl cache show {entry_id(entry.key)}` says why"
    best = entry.timings[entry.best]
    kind = "" if entry.measured else ", predicted"
    gain = "" if entry.gain is None else f", {entry.gain:.2f}x the default {entry.default}"
    tried = sum(t.state in ("measured", "predicted") for t in entry.timings.values())
    out = len(entry.timings) - tried
    crashed = sum(t.note.startswith(CRASHED) for t in entry.timings.values())
    counts = f"{tried} compared, {out} left out" + (f", {crashed} of them crashed" if crashed else "")
    counts += f" ({entry_id(entry.key)})"
    return f"{where}\n  {entry.best}  {best.ms:.4f} ms{kind}{gain}; {counts}"
