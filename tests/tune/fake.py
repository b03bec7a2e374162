"""Trials that are made up: times by a formula, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from attndsl.runtime.triton.config import Config
from attndsl.tune.search import Sample

CONFIGS = tuple(
    Config(r, c, w, s) for r in (128, 64, 32) for c in (128, 64, 32) for w in (4, 8) for s in (2, 3)
)  # fmt: skip
"""The first is the default."""


def usual(config: Config) -> float:
    """Milliseconds: 64x32 with 4 warps is best."""
    return 1 + abs(config.rows - 64) / 64 + abs(config.columns - 32) / 32 + 0.1 * config.stages + 0.01 * config.warps


@dataclass
class Fake:
    """Every measurement takes the seconds it was given, compiling takes one a candidate. `guess` is the cost model."""

    time: Callable[[Config], float] = usual
    guess: Callable[[Config], float | None] = usual
    wrong: Callable[[Config], str] = lambda _: ""
    unfit: Callable[[Config], str] = lambda _: ""
    now: float = 0.0
    compiled: list[Config] = field(default_factory=list[Config])
    measured: list[Config] = field(default_factory=list[Config])
    apart: bool = False
    living: Callable[[], bool] = lambda: True
    safe_skipped: bool = False

    def skip_safe(self) -> None:
        self.safe_skipped = True

    def alive(self) -> bool:
        return self.living()

    def clock(self) -> float:
        return self.now

    def predict(self, config: Config) -> float | None:
        return self.guess(config)

    def compile(self, configs: Sequence[Config]) -> Mapping[Config, str]:
        self.compiled += configs
        self.now += len(configs)
        return {c: self.unfit(c) for c in configs}

    def check(self, config: Config) -> str:
        return self.wrong(config)

    def measure(self, config: Config, seconds: float) -> Sample:
        assert not self.unfit(config)
        assert not self.wrong(config)
        self.measured.append(config)
        self.now += seconds
        return Sample(self.time(config), 0.01)
