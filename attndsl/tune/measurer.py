"""The process that runs candidates, `python -m attndsl.tune.measurer`: see `attndsl.tune.apart`.

It reads a recipe, makes the tensors, and answers what it is asked until its parent goes away. After an error that took
the GPU's context with it, it says so and ends.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from attndsl.tune.apart import Answer, Asked, Ready, Recipe
from attndsl.tune.failures import crash_of, lost, short, words_of

if TYPE_CHECKING:
    from attndsl.runtime.cache.key import Machine
    from attndsl.runtime.call import Call
    from attndsl.tune.scan_trials import ScanTrials
    from attndsl.tune.trials import CallTrials

PR_SET_PDEATHSIG = 1


class Candidates:
    """The call of a recipe, and the trials of its passes."""

    def __init__(self, recipe: Recipe) -> None:
        import torch

        from attndsl.ir.simplify import simplify
        from attndsl.runtime.binding import bind_call
        from attndsl.runtime.triton.kernels import kernel_for
        from attndsl.tune.oracle import Subject
        from attndsl.tune.scans import scan_of

        device = self._device(recipe)
        s, attention = recipe.sizes, recipe.attention
        simplified = simplify(attention)
        generator = torch.Generator(device).manual_seed(recipe.seed)
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[recipe.dtype]

        def made(heads: str, length: str, width: str) -> Any:
            shape = s["B"], s[heads], s[length], s[width]
            if recipe.token_major:
                shape = shape[0], shape[2], shape[1], shape[3]
            found = torch.randn(shape, generator=generator, device=device).to(dtype)
            return found.transpose(1, 2) if recipe.token_major else found

        q, k, v = made("H", "Lq", "D"), made("Hkv", "Lk", "D"), made("Hkv", "Lk", "Dv")
        inputs = {n: t.to(device) for n, t in recipe.inputs.items()}
        offset = recipe.q_offset if isinstance(recipe.q_offset, int) else recipe.q_offset.to(device)
        call = bind_call(
            attention, simplified, q, k, v, {**recipe.scalars, **inputs}, grid=recipe.grid, scale=recipe.scale,
            q_offset=offset,
        )  # fmt: skip
        grad = made("H", "Lq", "Dv")
        self.kernel = kernel_for(simplified)
        self.subject = Subject(attention, call, recipe.grid, grad)
        form = scan_of(simplified, call.problem)
        self.form = form if form is not None and self.kernel.scan_gap(call, form) is None else None
        self.ready = Ready(self._machine(device), self.form is not None)
        self._trials: dict[tuple[str, tuple[int | None, int] | None], CallTrials | ScanTrials] = {}

    @staticmethod
    def _device(recipe: Recipe) -> Any:
        import torch

        if not torch.cuda.is_available():
            raise ValueError("torch finds no GPU here")
        torch.cuda.set_device(recipe.device)
        return torch.device("cuda", torch.cuda.current_device())

    @staticmethod
    def _machine(device: Any) -> Machine:
        from attndsl.runtime.triton.machine import machine_of

        found = machine_of(device)
        assert found is not None
        return found

    def __call__(self, asked: Asked) -> Any:
        """What a candidate's check, or its measurement, comes to."""
        trials: Any = self._of(asked)
        if asked.safe_fails:
            trials.skip_safe()
        return trials.measure(asked.config, asked.seconds) if asked.seconds else trials.check(asked.config)

    def _of(self, asked: Asked) -> CallTrials | ScanTrials:
        key = asked.step, None if asked.part is None else (asked.part.stage, asked.part.nth)
        found = self._trials.get(key)
        if found is None:
            # of a pass before this one nothing is asked any more, and its tensors take memory
            self._trials.clear()
            found = self._trials[key] = self._made(asked)
        return found

    def _made(self, asked: Asked) -> CallTrials | ScanTrials:
        from dataclasses import replace

        from attndsl.tune.machines import like
        from attndsl.tune.scan_candidates import shape_of
        from attndsl.tune.scan_trials import ScanTrials
        from attndsl.tune.stage_trials import trials_of
        from attndsl.tune.workers import Workers

        gpu, workers = like(self.ready.machine), Workers()
        step: Any = asked.step
        safe: Any = asked.safe
        call: Call = self.subject.call
        if self.form is not None:
            facts = self.kernel.scan_facts(call, self.form)
            subject = replace(self.subject, width=max(facts.features, facts.sizes["D"]))
            return ScanTrials(
                self.kernel, subject, self.form, shape_of(step, facts, self.form), step, safe, gpu, workers
            )
        assert asked.part is not None
        return trials_of(self.kernel, self.subject, asked.part, step, safe, gpu, workers)


def serve(asks: IO[bytes], answers: IO[bytes], begin: Callable[[Any], Any], alive: Callable[[], bool]) -> None:
    """Answer until there is nothing more to read: `begin` makes what answers from the first message. An error after
    which this process is not `alive` is its last answer."""
    try:
        recipe = pickle.load(asks)
    except EOFError:
        return
    try:
        made = begin(recipe)
        answer = Answer(made.ready)
    except Exception as error:
        _send(answers, Answer(failed=words_of(error), fatal=True, short=short(error)))
        return
    _send(answers, answer)
    while True:
        try:
            asked = pickle.load(asks)
        except EOFError:
            return
        try:
            answer = Answer(made(asked))
        except Exception as error:
            if not short(error) and (lost(error) or not alive()):
                _send(answers, Answer(failed=crash_of(error), fatal=True))
                return
            answer = Answer(failed=words_of(error), short=short(error))
        _send(answers, answer)


def _send(stream: IO[bytes], answer: Answer) -> None:
    pickle.dump(answer, stream)
    stream.flush()


def end_with_parent() -> None:
    """Have this process end when its parent does: one that hangs would hold the GPU for ever."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Answer the parent."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    # what is printed must not get among the answers
    os.dup2(2, 1)

    def alive() -> bool:
        import torch

        from attndsl.tune.trials import alive as answers_still

        return answers_still(torch.device("cuda", torch.cuda.current_device()))

    serve(sys.stdin.buffer, answers, Candidates, alive)


if __name__ == "__main__":
    # answers name classes of the module, not of the script
    from attndsl.tune import measurer

    measurer.main()
    # a context that is lost may hang where it is torn down
    os._exit(0)
