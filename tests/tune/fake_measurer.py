"""A process that measures, made up: `python -m tests.tune.fake_measurer`. Its recipe says, by the label of a candidate,
what becomes of it; without one it takes as long as `tests.tune.fake` says."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from attndsl.runtime.cache.key import Machine
from attndsl.runtime.triton.labels import label
from attndsl.tune.apart import Asked, Ready
from attndsl.tune.measurer import serve
from attndsl.tune.search import Sample
from tests.tune.fake import usual


class Fake:
    """What answers: `recipe` also counts the processes that were started."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        with Path(recipe["log"]).open("a") as file:
            file.write("started\n")
        if recipe.get("start"):
            raise RuntimeError(recipe["start"])
        self.recipe = recipe
        self.ready = Ready(Machine("made up", 90, 132, 227 << 10), False)

    def __call__(self, asked: Asked) -> Any:
        config: Any = asked.config
        match self.recipe["do"].get(label(config), ""):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "abort":
                print("terminate called", file=sys.stderr)
                os.abort()
            case "exit":
                os._exit(7)
            case "hang":
                time.sleep(600)
            case "":
                pass
            case words:
                raise RuntimeError(words)
        return Sample(usual(config), 0.01) if asked.seconds else ""


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers, Fake, lambda: True)
