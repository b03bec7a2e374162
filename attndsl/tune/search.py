"""The search: which candidates are compiled, checked and measured, in which order, and when it stops.

What trials do is behind an interface: on a GPU they run kernels, in tests they are made up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Generic, Protocol, TypeVar

from attndsl.runtime.cache.entry import Entry, Timing
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.labels import AnyConfig, config_data, label
from attndsl.runtime.triton.scan_config import ScanConfig
from attndsl.tune.failures import (
    AGAIN,
    ENDED,
    CrashedError,
    LostError,
    MeasurerError,
    ShortOfMemoryError,
    crash_of,
    lost,
    short,
    words_of,
)

C = TypeVar("C", Config, ScanConfig)
"""What is tuned: the configuration of a pass over tiles, or of a scan."""
AHEAD = 8
"""Candidates that are compiled while others wait."""
ENOUGH = 8
MARGIN = 1.15
"""A search is done when so many measured candidates in a row improved nothing, and the cost model, scaled to what was
measured, gives the next one (and all after it) a longer time than the best by this factor."""
BETTER = 0.99
FINALISTS = 3
SHORT = 3
"""Candidates in a row without memory for them after which a search ends."""
QUICK, CAREFUL = 0.04, 0.2
"""Seconds of measuring a candidate, first and among the finalists."""


@dataclass(frozen=True)
class Sample:
    """A measurement: the median in milliseconds, and the middle half of the samples over it."""

    ms: float
    spread: float


class Trials(Protocol[C]):
    """What candidates of one pass of one call do.

    `apart`: they run in another process, whose end is a LostError and loses nothing here. In this process one may take
    the process with it: that it runs is written down before."""

    @property
    def apart(self) -> bool: ...

    def predict(self, config: C) -> float | None:
        """Milliseconds by the cost model; None where it has nothing to say."""
        ...

    def compile(self, configs: Sequence[C]) -> Mapping[C, str]:
        """Compile side by side; why a candidate cannot run (resources, the compiler's words), empty where it can."""
        ...

    def check(self, config: C) -> str:
        """Run a candidate once and compare its results; what is wrong with them, empty where nothing is."""
        ...

    def measure(self, config: C, seconds: float) -> Sample:
        """The time of a candidate that was right."""
        ...

    def skip_safe(self) -> None:
        """What runs untuned fails: candidates are compared with the oracle alone."""
        ...

    def alive(self) -> bool:
        """Whether what runs candidates can still run any."""
        ...


@dataclass(frozen=True)
class Progress:
    """Where a search stands: candidates in all, tried, left out because they do not fit or are wrong; the best and its
    time; seconds since the start and that are left of the budget."""

    total: int
    tried: int
    pruned: int
    best: str
    ms: float | None
    seconds: float
    left: float


Report = Callable[[Progress], None]


def space_of(configs: Iterable[AnyConfig]) -> str:
    """A digest of what there is to try: another version may have more."""
    from attndsl.runtime.cache.key import digest

    return digest("\n".join(sorted(label(c) for c in configs)))[:16]


def settled(entry: Entry | None, configs: Sequence[AnyConfig]) -> bool:
    """Whether a search over these candidates came to its end."""
    return entry is not None and entry.measured and entry.made.get("space") == space_of(configs)


class Search(Generic[C]):
    """One search for the best configuration of one key."""

    def __init__(
        self,
        entry: Entry,
        configs: Sequence[C],
        trials: Trials[C],
        *,
        budget: float,
        report: Report | None = None,
        keep: Callable[[Entry], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        careful: float = CAREFUL,
    ) -> None:
        """`entry` has what is known already; the first of `configs` is the default. `keep` is given the entry as it
        grows. Finalists are measured for `careful` seconds."""
        self.entry, self.configs, self.trials = entry, tuple(configs), trials
        self._budget, self._report, self._keep, self._clock = budget, report, keep, clock
        self._careful = careful
        self._start = clock()
        self._tried = 0
        self._again = {n for n, t in entry.timings.items() if t.note == ENDED}

    def run(self) -> Entry:
        """The entry with what was found. A budget that ends leaves the rest for the next search."""
        default, *_ = self.configs
        predicted = {c: self.trials.predict(c) for c in self.configs}
        ranked = self._ranked(predicted)
        self._look_at(default)
        finished = self._try([c for c in ranked if label(c) not in self.entry.timings], predicted)
        # last, so that one that does end processes takes nothing with it
        finished &= self._try([c for c in ranked if label(c) in self._again], predicted)
        self._final()
        if finished:
            self.entry = self._made(space=space_of(self.configs))
        self._write(self.entry)
        return self.entry

    def _try(self, todo: Sequence[C], predicted: Mapping[C, float | None]) -> bool:
        """Try candidates, the likely ones first. Whether none was left that has a chance."""
        default, *_ = self.configs
        since_best = short_in_a_row = 0
        finished = True
        for config, reason in self._compiled(todo):
            if self._left() <= 0 and config != default:
                return False
            if since_best >= ENOUGH and self._hopeless(config, predicted):
                break
            before = self._best_ms()
            try:
                timing = Timing(config_data(config), "unfit", note=reason) if reason else self._tried_one(config)
            except ShortOfMemoryError as error:
                finished, short_in_a_row = False, short_in_a_row + 1
                if short_in_a_row < SHORT:
                    continue
                if not self.entry.measured:
                    raise ShortOfMemoryError(f"not enough memory to measure anything: {error}") from error
                break
            short_in_a_row = 0
            self._note(config, timing)
            self._look_at(default)
            if timing.state == "measured":
                improved = before is None or (timing.ms is not None and timing.ms < BETTER * before)
                since_best = 0 if improved else since_best + 1
        return finished

    def _ranked(self, predicted: Mapping[C, float | None]) -> list[C]:
        """The default, then what the cost model thinks fastest; what it does not know comes last, in its order."""
        default, *rest = self.configs
        order = sorted(range(len(rest)), key=lambda i: (_number(predicted[rest[i]], float("inf")), i))
        return [default, *(rest[i] for i in order)]

    def _hopeless(self, config: C, predicted: Mapping[C, float | None]) -> bool:
        """Whether the cost model, scaled to the measured candidates, gives a candidate no chance."""
        mine, best = predicted[config], self._best_ms()
        if mine is None or best is None:
            return False
        ratios: list[float] = []
        for other, guess in predicted.items():
            timing = self.entry.timings.get(label(other))
            if timing is not None and timing.state == "measured" and timing.ms and guess:
                ratios.append(timing.ms / guess)
        return bool(ratios) and mine * median(ratios) > MARGIN * best

    def _compiled(self, todo: Sequence[C]) -> Iterator[tuple[C, str]]:
        for start in range(0, len(todo), AHEAD):
            some = todo[start : start + AHEAD]
            if start and self._left() <= 0:
                # say that something was left
                yield some[0], ""
                return
            reasons = self.trials.compile(some)
            yield from ((c, reasons.get(c, "")) for c in some)

    def _look_at(self, default: C) -> None:
        """Whether others can be compared with the default."""
        timing = self.entry.timings.get(label(default))
        if timing is not None and timing.state in ("failed", "unfit"):
            self.trials.skip_safe()

    def _tried_one(self, config: C) -> Timing:
        data = config_data(config)

        def run() -> Timing:
            wrong = self.trials.check(config)
            if wrong:
                return Timing(data, "wrong", note=wrong)
            sample = self.trials.measure(config, QUICK)
            return Timing(data, "measured", sample.ms, sample.spread)

        return self._guarded(config, run)

    def _guarded(self, config: C, run: Callable[[], Timing]) -> Timing:
        """What becomes of a candidate. ShortOfMemoryError where there was no memory for it; CrashedError where it took
        the GPU's context of this process with it."""
        name, data, before = label(config), config_data(config), self.entry
        if not self.trials.apart:
            # should this process end here, the next one knows
            note = f"{AGAIN if name in self._again else ''}by process {os.getpid()}"
            self._write(before.with_timings({name: Timing(data, "running", note=note)}))
        try:
            return run()
        except LostError as error:
            return Timing(data, "failed", note=str(error))
        except MeasurerError:
            self._write(before)
            raise
        except Exception as error:
            if short(error):
                self._write(before)
                raise ShortOfMemoryError(words_of(error)) from error
            if not self.trials.apart and (lost(error) or not self.trials.alive()):
                note = crash_of(error)
                self._note(config, Timing(data, "failed", note=note))
                self._write(self.entry)
                raise CrashedError(config, note) from error
            return Timing(data, "failed", note=words_of(error))
        except BaseException:
            # asked to end: nothing is wrong with the candidate
            self._write(before)
            raise

    def _write(self, entry: Entry) -> None:
        if self._keep is not None:
            self._keep(entry)

    def _final(self) -> None:
        """Measure the fastest, and the default, again and longer: short measurements flatter by chance."""
        timed = [(t.ms, n) for n, t in self.entry.timings.items() if t.state == "measured" and t.ms is not None]
        names = [n for _, n in sorted(timed)[:FINALISTS]]
        if len(names) < 2 or not self._tried:
            return
        names += [n for n in [self.entry.default] if n not in names and any(n == m for _, m in timed)]
        by_label = {label(c): c for c in self.configs}
        for name in names:
            config = by_label.get(name)
            if config is None or self._left() < -self._careful * len(names):
                continue

            def run(config: C = config) -> Timing:
                sample = self.trials.measure(config, self._careful)
                return Timing(config_data(config), "measured", sample.ms, sample.spread)

            try:
                self._note(config, self._guarded(config, run))
            except ShortOfMemoryError:
                # what was measured at first stays
                return

    def _note(self, config: C, timing: Timing) -> None:
        self._tried += 1
        self.entry = self.entry.with_timings({label(config): timing})
        if self._tried % AHEAD == 0:
            self._write(self.entry)
        if self._report is not None:
            known = [self.entry.timings[n] for n in map(label, self.configs) if n in self.entry.timings]
            pruned = sum(t.state in ("wrong", "failed", "unfit") for t in known)
            used = self._clock() - self._start
            self._report(
                Progress(
                    len(self.configs), len(known), pruned, self.entry.best or "", self._best_ms(), used,
                    max(self._budget - used, 0.0),
                )
            )  # fmt: skip

    def _best_ms(self) -> float | None:
        best = self.entry.best
        return None if best is None else self.entry.timings[best].ms

    def _left(self) -> float:
        return self._budget - (self._clock() - self._start)

    def _made(self, **more: str) -> Entry:
        return replace(self.entry, made={**self.entry.made, **more})


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
