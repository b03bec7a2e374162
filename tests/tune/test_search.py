"""What is measured, in which order, and when a search stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from attndsl.runtime.cache import folder, store, tidy
from attndsl.runtime.cache.entry import Entry, Timing
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.labels import config_data, label
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
    with pytest.raises(RuntimeError, match="illegal memory access"):
        Search(entry, CONFIGS, fake, budget=9, clock=fake.clock, keep=kept.append).run()
    assert kept[-1].timings[label(BEST)].state == "failed"


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
