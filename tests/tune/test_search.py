"""What is measured, in which order, and when a search stops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attndsl.runtime.cache import folder, store, tidy
from attndsl.runtime.cache.entry import Entry, Timing
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.labels import config_data, label
from attndsl.tune.failures import AGAIN, ENDED_TWICE, CrashedError, LostError, ShortOfMemoryError
from attndsl.tune.search import ENOUGH, FINALISTS, Progress, Search
from attndsl.tune.session import Task, tune
from tests.runtime.cache.facts import make_key
from tests.tune.fake import CONFIGS, Fake, usual

BEST = min(CONFIGS, key=usual)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "_warned", set())
    monkeypatch.setattr(tidy, "_cleaned", set())
    monkeypatch.setattr(store, "_unkept", {})
    return tmp_path / "cache"


def search(fake: Fake, known: Entry | None = None, budget: float = 1e9, configs: tuple[Config, ...] = CONFIGS) -> Entry:
    entry = known or Entry(make_key(), "window", {}, {}, label(configs[0]))
    return Search(entry, configs, fake, budget=budget, clock=fake.clock).run()


def test_the_fastest_wins_and_the_default_is_beside_it() -> None:
    fake = Fake()
    found = search(fake)
    assert found.best == label(BEST)
    assert found.gain == usual(CONFIGS[0]) / usual(BEST)
    assert fake.measured[0] == CONFIGS[0]
    assert fake.measured[1] == BEST
    # the cost model was right, so the search is confident soon
    assert 2 + ENOUGH <= len(found.timings) < len(CONFIGS)
    assert len(fake.measured) == len(found.timings) + FINALISTS + 1


def test_a_cost_model_that_is_wrong_costs_time_only() -> None:
    fake = Fake(guess=lambda c: 1 / usual(c))
    assert search(fake).best == label(BEST)
    fake = Fake(guess=lambda c: None)
    assert search(fake).best == label(BEST)


def test_wrong_results_never_win() -> None:
    fake = Fake(wrong=lambda c: "12 elements are not finite" if c.warps == 4 else "")
    found = search(fake)
    assert found.config is not None
    assert found.config["warps"] == 8
    assert {t.state for t in found.timings.values()} == {"measured", "wrong"}
    assert found.timings[label(BEST)].note == "12 elements are not finite"


def test_what_does_not_fit_never_runs() -> None:
    fake = Fake(unfit=lambda c: "needs 300 KiB" if c.rows == 64 else "")
    found = search(fake)
    assert all(c.rows != 64 for c in fake.measured)
    assert found.timings[label(BEST)] == Timing(config_data(BEST), "unfit", note="needs 300 KiB")
    assert found.config is not None


def test_a_candidate_that_raises_is_passed_over() -> None:
    def raises(config: Config) -> float:
        if config == BEST:
            raise RuntimeError("out of\nresources")
        return usual(config)

    found = search(Fake(time=raises))
    assert found.timings[label(BEST)].note == "RuntimeError: out of resources"
    assert found.best != label(BEST)


def test_a_lost_gpu_ends_the_search_and_is_remembered() -> None:
    kept: list[Entry] = []

    def lost(config: Config) -> float:
        if config == BEST:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return usual(config)

    fake = Fake(time=lost)
    entry = Entry(make_key(), "window", {}, {}, label(CONFIGS[0]))
    with pytest.raises(CrashedError, match="illegal memory access") as raised:
        Search(entry, CONFIGS, fake, budget=9, clock=fake.clock, keep=kept.append).run()
    assert raised.value.config == BEST
    assert kept[-1].timings[label(BEST)] == Timing(config_data(BEST), "failed", note="crashed: illegal memory access")
    # any other words, where the context does not answer any more
    fake = Fake(time=lost, living=lambda: BEST not in fake.measured)
    fake.time = lambda c: usual(c) if c != BEST else 1 // 0
    with pytest.raises(CrashedError, match="ZeroDivisionError"):
        Search(entry, CONFIGS, fake, budget=9, clock=fake.clock, keep=kept.append).run()


def test_that_a_candidate_runs_is_written_down_before() -> None:
    kept: list[Entry] = []
    seen: list[str] = []

    def time(config: Config) -> float:
        seen.append(kept[-1].timings[label(config)].state)
        return usual(config)

    fake = Fake(time=time)
    found = Search(Entry(make_key(), "window", {}, {}, ""), CONFIGS, fake, budget=20, clock=fake.clock,
                   keep=kept.append).run()  # fmt: skip
    assert set(seen) == {"running"}
    assert kept[-1] == found
    assert {t.state for t in found.timings.values()} == {"measured"}
    # one that runs elsewhere takes nothing of this process with it
    apart: list[Entry] = []
    fake = Fake(apart=True)
    Search(Entry(make_key(), "window", {}, {}, ""), CONFIGS, fake, budget=20, clock=fake.clock, keep=apart.append).run()
    assert not any(t.state == "running" for e in apart for t in e.timings.values())


def killed(task: Task[Config], candidate: Config, times: int) -> Timing:
    """What a process leaves that is gone without a word when it measures a candidate for so many times."""
    child = os.fork()
    if child == 0:
        left = [times]

        def time(config: Config) -> float:
            left[0] -= config == candidate
            return usual(config) if left[0] or config != candidate else os._exit(9)

        tune(task, Fake(time=time), budget=100)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    found = Store().read(task.key)
    assert found is not None
    return found.timings[label(candidate)]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("candidate", [BEST, CONFIGS[0]])
def test_what_ended_two_processes_is_not_tried_again(candidate: Config, times: int, root: Path) -> None:
    """When it was tried, or among the finalists."""
    task = Task(make_key(), "window", {}, CONFIGS)
    assert killed(task, candidate, times).state == "running"
    second = killed(task, candidate, times)
    assert (second.state, second.note.startswith(AGAIN)) == ("running", True)
    left = Store().read(task.key)
    assert left is not None
    others = {label(c) for c in CONFIGS if c != candidate}
    # it was the last one
    assert {left.timings[n].state for n in others if n in left.timings} == {"measured"}
    fake = Fake()
    found = tune(task, fake, budget=100)
    assert found.timings[label(candidate)] == Timing(config_data(candidate), "failed", note=ENDED_TWICE)
    assert candidate not in fake.measured
    assert fake.safe_skipped == (candidate == CONFIGS[0])
    assert found.config is not None
    assert Store().read(task.key) == found
    assert Store().problems() == {}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("candidate", [BEST, CONFIGS[0]])
def test_one_process_that_ended_blames_nobody_for_good(candidate: Config, times: int, root: Path) -> None:
    """Somebody may have killed it, or the power may have gone."""
    task = Task(make_key(), "window", {}, CONFIGS)
    killed(task, candidate, times)
    fake = Fake()
    found = tune(task, fake, budget=100)
    assert found.timings[label(candidate)].state == "measured"
    assert found.best == label(BEST)
    assert tune(task, Fake(), budget=100) == found


def test_who_is_interrupted_blames_nobody(root: Path) -> None:
    def interrupted(config: Config) -> float:
        if config == BEST:
            raise KeyboardInterrupt
        return usual(config)

    task = Task(make_key(), "window", {}, CONFIGS)
    with pytest.raises(KeyboardInterrupt):
        tune(task, Fake(time=interrupted), budget=100)
    left = Store().read(task.key)
    assert left is not None
    assert list(left.timings) == [label(CONFIGS[0])]
    assert tune(task, Fake(), budget=100).best == label(BEST)


def test_memory_that_is_short_is_no_fault_of_a_candidate(root: Path) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    def large(config: Config) -> float:
        if config.rows == 64:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return usual(config)

    task = Task(make_key(), "window", {}, CONFIGS)
    found = tune(task, Fake(time=large), budget=100)
    assert {t.config["rows"] for t in found.timings.values()} <= {32, 128}
    assert "space" not in found.made
    assert tune(task, Fake(), budget=100).best == label(BEST)
    none = Task(make_key(1), "window", {}, tuple(c for c in CONFIGS if c.rows == 64))
    with pytest.raises(ShortOfMemoryError, match="20 GiB"):
        tune(none, Fake(time=large), budget=100)
    nothing = Store().read(none.key)
    assert nothing is None or not nothing.timings


def test_a_finalist_that_fails_at_last_does_not_win(root: Path) -> None:
    """Right and fast when it was tried, and gone when it was measured longer."""
    fake = Fake(apart=True)

    def late(config: Config) -> float:
        if config == BEST and fake.measured.count(BEST) == 2:
            raise LostError("crashed: illegal instruction")
        return usual(config)

    fake.time = late
    found = tune(Task(make_key(), "window", {}, CONFIGS), fake, budget=100)
    assert found.timings[label(BEST)].note == "crashed: illegal instruction"
    assert found.best != label(BEST)
    assert found.config is not None


def test_a_budget_is_kept_and_the_next_search_goes_on() -> None:
    first = Fake(guess=lambda c: 1 / usual(c))
    found = search(first, budget=10)
    assert CONFIGS[0] in first.measured
    assert len(found.timings) < len(CONFIGS)
    assert first.now < 10 + 10 + 1
    assert "space" not in found.made
    second = Fake()
    whole = search(second, known=found)
    assert "space" in whole.made
    assert not {label(c) for c in second.compiled} & set(found.timings)
    assert whole.best == label(BEST)


def test_no_budget_still_knows_the_default() -> None:
    fake = Fake()
    found = search(fake, budget=0)
    assert list(found.timings) == [label(CONFIGS[0])]


def test_new_candidates_are_measured_alone() -> None:
    old = tuple(c for c in CONFIGS if c.rows != 64)
    found = search(Fake(), configs=old)
    fake = Fake()
    more = search(fake, known=found)
    assert more.best == label(BEST)
    assert {label(c) for c in fake.compiled} >= set(more.timings) - set(found.timings)
    assert not {label(c) for c in fake.compiled} & set(found.timings)


def test_progress() -> None:
    fake, seen = Fake(unfit=lambda c: "large" if c.rows == 32 else ""), list[Progress]()
    entry = Entry(make_key(), "window", {}, {}, label(CONFIGS[0]))
    Search(entry, CONFIGS, fake, budget=100, clock=fake.clock, report=seen.append).run()
    assert [p.tried for p in seen] == sorted(p.tried for p in seen)
    assert seen[0].total == len(CONFIGS)
    assert seen[-1].best == label(BEST)
    assert seen[-1].ms == usual(BEST)
    assert seen[-1].left == 100 - seen[-1].seconds


def test_tuned_once_for_all_who_come(root: Path) -> None:
    task = Task(make_key(), "window", {"L": 30000}, CONFIGS)
    first = Fake()
    found = tune(task, first, budget=100)
    assert found.best == label(BEST)
    assert Store().read(task.key) == found
    second = Fake()
    assert tune(task, second, budget=100) == found
    assert second.measured == []


def test_predictions_are_replaced_by_measurements(root: Path) -> None:
    task = Task(make_key(), "window", {}, CONFIGS)
    guess = {label(c): Timing(config_data(c), "predicted", 0.001) for c in CONFIGS}
    Store().write(Entry(task.key, "window", {}, guess, label(CONFIGS[0])))
    found = tune(task, Fake(), budget=100)
    assert {t.state for t in found.timings.values()} == {"measured"}
    assert found.best == label(BEST)
