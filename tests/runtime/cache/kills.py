"""Kill writers at random moments: `python -m tests.runtime.cache.kills KILLS`. Prints what was left, as JSON."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

from attndsl.runtime.cache import tidy as module
from attndsl.runtime.cache.store import Store
from tests.runtime.cache.facts import make_entry, make_key

KEYS = 4


def write_for_ever(seed: int, ready: int) -> None:
    rng = random.Random(seed)
    os.write(ready, b"x")
    while True:
        key = make_key(rng.randrange(KEYS))
        with Store().lock(key):
            Store().write(make_entry(key, fast=rng.random()))


def main() -> None:
    rng = random.Random(0)
    kills, left = int(sys.argv[1]), 0
    for n in range(KEYS):
        Store().write(make_entry(make_key(n)))
    folder = Store().folder()
    assert folder is not None
    for seed in range(kills):
        reads, ready = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                write_for_ever(seed, ready)
            finally:
                os._exit(1)
        os.read(reads, 1)
        os.close(reads)
        os.close(ready)
        time.sleep(rng.uniform(0.0005, 0.008))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"writer {seed} stopped by itself"
        left += sum(p.suffix != ".json" for p in folder.iterdir())
    # the next start
    vars(module)["_cleaned"].clear()
    problems = {str(p): why for p, why in Store().problems().items()}
    names = [p.name for p in folder.iterdir()]
    readable = sum(Store().read(make_key(n)) is not None for n in range(KEYS))
    print(json.dumps({"left": left, "problems": problems, "names": names, "readable": readable}))


if __name__ == "__main__":
    main()
