"""Candidates that run in a process of their own: what ends it ends nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from attndsl.runtime.cache import folder, tidy
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.labels import label
from attndsl.tune.apart import Asked, Measurer
from attndsl.tune.failures import LostError, MeasurerError, ShortOfMemoryError
from attndsl.tune.search import Sample
from attndsl.tune.session import Task, tune
from tests.runtime.cache.facts import make_key
from tests.tune.fake import CONFIGS, Fake, usual

BEST, *NEXT = sorted(CONFIGS, key=usual)
COMMAND = [sys.executable, "-m", "tests.tune.fake_measurer"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "_warned", set())
    monkeypatch.setattr(tidy, "_cleaned", set())
    return tmp_path


class Apart(Fake):
    """Trials that another process runs."""

    def __init__(self, measurer: Measurer) -> None:
        super().__init__(apart=True)
        self.measurer = measurer

    def check(self, config: Config) -> str:
        return self.measurer.ask(Asked("forward", config, CONFIGS[0], self.safe_skipped))

    def measure(self, config: Config, seconds: float) -> Sample:
        return self.measurer.ask(Asked("forward", config, CONFIGS[0], self.safe_skipped, seconds))


def measured(root: Path, do: Mapping[Config, str], configs: Sequence[Config] = CONFIGS, limit: float = 60.0) -> Any:
    recipe = {"log": str(root / "log"), "do": {label(c): what for c, what in do.items()}}
    with Measurer(recipe, command=COMMAND, limit=limit) as measurer:
        return tune(Task(make_key(), "window", {}, configs), Apart(measurer), budget=1000)


def started(root: Path) -> int:
    return len((root / "log").read_text().splitlines())


def test_what_crashes_is_left_out_and_the_rest_goes_on(root: Path) -> None:
    """Killed, aborted, ended, a context that is lost, an error that is not: the search ends with all the others."""
    illegal = "Triton Error [CUDA]: an illegal instruction was encountered"
    do = {BEST: "kill", NEXT[0]: "abort", NEXT[1]: "exit", NEXT[2]: illegal, NEXT[3]: "no kernel of that kind"}
    found = measured(root, do)
    notes = [found.timings[label(c)].note for c in (BEST, *NEXT[:4])]
    assert notes == [
        "crashed: its process ended by SIGKILL", "crashed: its process ended by SIGABRT",
        "crashed: its process ended with 7", "crashed: illegal instruction",
        "RuntimeError: no kernel of that kind",
    ]  # fmt: skip
    assert found.best == label(NEXT[4])
    assert found.gain is not None
    # an error that leaves the context as it was takes no process
    assert started(root) == 5
    kept = Store().read(found.key)
    assert kept == found
    assert Store().problems() == {}
    assert measured(root, {}) == found
    assert started(root) == 5


def test_what_hangs_is_ended(root: Path) -> None:
    some = (CONFIGS[0], BEST, NEXT[0])
    found = measured(root, {BEST: "hang"}, some, limit=3.0)
    assert found.timings[label(BEST)].note.startswith("crashed: hung, ended after ")
    assert found.best == label(NEXT[0])


def test_a_default_that_crashes_is_not_compared_with(root: Path) -> None:
    some = (CONFIGS[0], BEST)
    recipe = {"log": str(root / "log"), "do": {label(CONFIGS[0]): "exit"}}
    with Measurer(recipe, command=COMMAND) as measurer:
        trials = Apart(measurer)
        found = tune(Task(make_key(), "window", {}, some), trials, budget=1000)
    assert trials.safe_skipped
    assert found.best == label(BEST)


def test_a_process_that_does_not_start_is_no_candidates_fault(root: Path) -> None:
    some = (CONFIGS[0], BEST)
    with (
        Measurer({"log": str(root / "log"), "do": {}, "start": "no driver"}, command=COMMAND) as measurer,
        pytest.raises(MeasurerError, match="no driver"),
    ):
        tune(Task(make_key(), "window", {}, some), Apart(measurer), budget=1000)
    kept = Store().read(make_key())
    assert kept is None or not kept.timings
    broken = [sys.executable, "-c", "import sys; sys.exit('no such library')"]
    with Measurer({}, command=broken) as measurer, pytest.raises(MeasurerError, match="no such library"):
        _ = measurer.ready
    with Measurer({}, command=["/no/such/program"]) as measurer, pytest.raises(MeasurerError, match="does not start"):
        _ = measurer.ready


def test_short_memory_is_told_apart(root: Path) -> None:
    recipe = {"log": str(root / "log"), "do": {label(BEST): "CUDA out of memory", label(CONFIGS[0]): "kill"}}
    with Measurer(recipe, command=COMMAND) as measurer:
        with pytest.raises(ShortOfMemoryError):
            measurer.ask(Asked("forward", BEST, BEST))
        with pytest.raises(LostError):
            measurer.ask(Asked("forward", CONFIGS[0], BEST))
        assert measurer.ask(Asked("forward", NEXT[0], BEST)) == ""
    full = {"log": str(root / "log"), "do": {}, "start": "CUDA out of memory"}
    with Measurer(full, command=COMMAND) as measurer, pytest.raises(ShortOfMemoryError):
        _ = measurer.ready
