"""Processes that start cold on the same keys: `python -m tests.tune.crowd PROCESSES KEYS LOG`."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.labels import label
from attndsl.tune.search import Sample
from attndsl.tune.session import Task, tune
from tests.runtime.cache.facts import make_key
from tests.tune.fake import CONFIGS, Fake, usual


class Logged(Fake):
    """Writes down which key it measures the default of."""

    def __init__(self, log: Path, key: int) -> None:
        super().__init__()
        self.log, self.key = log, key

    def measure(self, config: Config, seconds: float) -> Sample:
        if config == CONFIGS[0] and not self.measured:
            with self.log.open("a") as file:
                file.write(f"{self.key}\n")
        return super().measure(config, seconds)


def work(seed: int, keys: int, log: Path) -> None:
    order = list(range(keys))
    random.Random(seed).shuffle(order)
    for n in order:
        found = tune(Task(make_key(n), "window", {}, CONFIGS), Logged(log, n), budget=1000)
        assert found.best == label(min(CONFIGS, key=usual))
        assert Store().read(make_key(n)) == found


def main() -> None:
    processes, keys, log = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    children: list[int] = []
    for seed in range(processes):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(seed, keys, log)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    failed = [c for c in children if os.waitpid(c, 0)[1] != 0]
    sys.exit(len(failed))


if __name__ == "__main__":
    main()
