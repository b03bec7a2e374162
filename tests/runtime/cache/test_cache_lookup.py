"""Which entry is used for a call: the same, shipped data, the nearest; and keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import attndsl
from attndsl.runtime.cache import folder, lookup, tidy
from attndsl.runtime.cache.entry import Timing, entry_data
from attndsl.runtime.cache.key import FAR, Bucket, bucket_of, distance, hashes, kernels_version, key_of, up
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton import choices
from attndsl.runtime.triton.choices import Choices, Facts, decide, key_for
from attndsl.runtime.triton.config import Config, choose, configured
from attndsl.runtime.triton.labels import config_data, config_of, label
from tests.runtime.cache.facts import A100, FAST, H100, H200, make_entry, make_key

WINDOW = "attention window(const w: int = 1024) { mask k <= q and q - k < w }"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a package that ships nothing."""
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "_warned", set())
    monkeypatch.setattr(tidy, "_cleaned", set())
    monkeypatch.setattr(lookup, "DATA", tmp_path / "data")
    lookup.shipped_entries.cache_clear()
    lookup.every_shipped_entry.cache_clear()
    yield tmp_path / "cache"
    lookup.shipped_entries.cache_clear()
    lookup.every_shipped_entry.cache_clear()


def ship(folder: Path, *entries: Any) -> None:
    folder.mkdir()
    (folder / "nvidia-h200.json").write_text(json.dumps({"entries": [entry_data(e) for e in entries]}))


def facts(L: int = 32768, H: int = 16, D: int = 128, **changes: Any) -> Facts:
    sizes = {"B": 1, "H": H, "Hkv": H, "Lq": L, "Lk": L, "L": L, "D": D, "Dv": D}
    return replace(Facts(H200, "bf16", sizes, {}, {}), **changes)


def test_nothing_is_known() -> None:
    assert lookup.lookup(make_key()) is None


def test_own_before_shipped_before_near(tmp_path: Path) -> None:
    key = make_key()
    near = make_key(bucket=Bucket(16, 65536, 65536))
    Store().write(make_entry(near))
    found = lookup.lookup(key)
    assert found is not None
    assert (found.origin, found.same) == ("near", True)
    assert "sizes differ" in found.why
    ship(tmp_path / "data", make_entry(replace(key, kernels="older", triton="3.5.0"), name="shipped one"))
    lookup.shipped_entries.cache_clear()
    found = lookup.lookup(key)
    assert found is not None
    assert found.origin == "shipped"
    assert "2.00x the default" in found.why
    Store().write(make_entry(key, name="mine"))
    found = lookup.lookup(key)
    assert found is not None
    assert (found.origin, found.config) == ("tuned", FAST)


def test_shipped_data_help_a_sibling(tmp_path: Path) -> None:
    ship(tmp_path / "data", make_entry())
    lookup.every_shipped_entry.cache_clear()
    found = lookup.lookup(make_key(machine=H100))
    assert found is not None
    assert found.origin == "near"
    assert "this is NVIDIA H100" in found.why
    assert lookup.lookup(make_key(machine=A100)) is None


def test_a_prediction_comes_after_a_measured_neighbour() -> None:
    key = make_key()
    predicted = {"64x128 w4 s3": Timing({"rows": 64, "columns": 128, "warps": 4, "stages": 3}, "predicted", 0.5)}
    Store().write(make_entry(key, timings=predicted))
    found = lookup.lookup(key)
    assert found is not None
    assert found.why.startswith("predicted")
    Store().write(make_entry(make_key(bucket=Bucket(16, 16384, 16384))))
    found = lookup.lookup(key)
    assert found is not None
    assert found.why.startswith("measured")


def test_what_triton_specialises_is_not_taken_to_another_triton() -> None:
    special = {"special": Timing({**FAST, "specialize": True}, "measured", 0.1)}
    Store().write(make_entry(timings=special))
    assert lookup.lookup(make_key(bucket=Bucket(8, 32768, 32768))) is not None
    assert lookup.lookup(make_key(triton="3.7.0")) is None


def test_distances() -> None:
    key = make_key()
    assert distance(key, key) == 0
    for other in (
        make_key(1), make_key(step="dq"), make_key(dtype="fp16"), make_key(D=64), make_key(machine=A100),
        make_key(bucket=Bucket(16, 1, 1)), make_key(bucket=Bucket(16, 32768, 32768, (128, 256))),
    ):  # fmt: skip
        assert distance(key, other) is None
    far = [
        make_key(kernels="newer"),
        make_key(bucket=Bucket(8, 32768, 32768)),
        make_key(machine=H100),
        make_key(attention="other numbers"),
        make_key(attention="other numbers", machine=H100),
    ]
    found = [distance(key, other) for other in far]
    assert None not in found
    assert found == sorted(found, key=lambda f: f or 0)
    assert all(0 < (f or 0) <= FAR for f in found)


def test_buckets() -> None:
    assert [up(n) for n in (0, 1, 2, 3, 64, 65)] == [0, 1, 2, 4, 64, 128]
    sizes = {"B": 2, "H": 12, "Lq": 30000, "Lk": 32768}
    assert bucket_of(sizes) == Bucket(32, 32768, 32768)
    assert bucket_of(sizes, {"v": (30, 48, 80)}, {"v": (3, 4, 5)}).q_grid == (32, 64, 128)


def test_keys_are_json() -> None:
    key = make_key(bucket=Bucket(1, 2, 3, (4, 5), (6,)))
    assert key_of(json.loads(json.dumps(key.data()))) == key
    for change in ({"D": "128"}, {"D": -1}, {"family": "../x"}, {"step": ""}, {"more": 1}, {"machine": 3}):
        with pytest.raises(ValueError, match="not a key"):
            key_of({**key.data(), **change})


def simplified(text: str, **consts: Any) -> Any:
    return attndsl.load(text, **consts).simplified


def test_names_decide_nothing_and_numbers_make_a_family() -> None:
    window = hashes(simplified(WINDOW))
    named = hashes(simplified(WINDOW.replace("window(const w", "other(const width").replace("< w", "< width")))
    assert window == named
    wider = hashes(simplified(WINDOW, w=2048))
    assert wider[0] != window[0]
    assert wider[1] == window[1]
    assert hashes(simplified("attention causal { mask k <= q }"))[1] != window[1]
    first = hashes(simplified("attention a(input slope: f32[H]) { score s - slope[h] * k mask k <= q }"))
    assert first == hashes(simplified("attention b(input z: f32[H]) { score s - z[h] * k mask k <= q }"))
    grid = "attention g { grid m(y, x) mask abs(q.y - k.y) <= 2 }"
    assert hashes(simplified(grid)) == hashes(simplified(grid.replace("m(y, x)", "n(u, x)").replace(".y", ".u")))
    assert hashes(simplified(grid)) != hashes(simplified(grid.replace(".y", ".x")))


def test_lengths_of_a_bucket_share_a_choice() -> None:
    attention = simplified(WINDOW)
    tuned = make_entry(key_for(attention, "forward", facts(L=30000)))
    Store().write(tuned)
    assert decide(attention, "forward", facts(L=20000)).origin == "tuned"
    assert decide(attention, "forward", facts(L=20000)).config == Config(128, 64, 8, 4)
    assert decide(attention, "forward", facts(L=40000)).origin == "near"
    assert decide(simplified(WINDOW, w=77), "forward", facts(L=20000)).origin == "near"
    assert decide(attention, "dq", facts(L=20000)).origin == "default"
    assert decide(attention, "forward", facts(machine=None)).config == choose("forward", "bf16", 128, 128)


def test_boxes_hold_for_the_same_grid_alone() -> None:
    text = "attention g(const w: int) { grid m(y, x) mask abs(q.y - k.y) <= w }"
    attention, grid = simplified(text, w=2), {"m": (128, 256)}
    where = facts(q_extents=grid, k_extents=grid)
    boxes = {"a": Timing({**FAST, "q_box": [16, 8], "k_box": [8, 16]}, "measured", 1.0)}
    Store().write(make_entry(key_for(attention, "forward", where), timings=boxes))
    assert decide(attention, "forward", where).config == Config(128, 64, 8, 4, False, (16, 8), (8, 16))
    assert decide(simplified(text, w=3), "forward", where).config == Config(128, 64, 8, 4)


def test_an_entry_of_another_version_is_passed_over() -> None:
    attention = simplified(WINDOW)
    strange = {"a": Timing({**FAST, "clusters": 2}, "measured", 1.0)}
    Store().write(make_entry(key_for(attention, "forward", facts()), timings=strange))
    assert decide(attention, "forward", facts()).origin == "default"


def test_a_repeated_call_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = simplified(WINDOW)
    made = Choices(attention)
    asked: list[int] = []

    real = choices._known  # pyright: ignore[reportPrivateUsage]

    def count(*given: Any) -> Any:
        asked.append(1)
        return real(*given)

    monkeypatch.setattr(choices, "_known", count)
    for _ in range(3):
        for length in (100, 4096, 30000):
            made.config("forward", facts(L=length))
    assert len(asked) == 3
    with configured(Config(64, 64, 4, 1)):
        assert made.config("forward", facts()) == Config(64, 64, 4, 1)
    assert made.config("forward", facts(L=30000)) == choose("forward", "bf16", 128, 128)
    # what this process tunes is used at once
    Store().write(make_entry(key_for(attention, "forward", facts()), timings={"a": Timing(FAST, "measured", 1.0)}))
    assert made.config("forward", facts(L=30000)) == Config(128, 64, 8, 4)


def test_configurations_as_text_and_data() -> None:
    usual, special = Config(128, 64, 4, 3), Config(128, 128, 4, 2, True, (2, 8, 8), (2, 8, 8))
    assert label(usual) == "128x64 w4 s3"
    assert label(special) == "128x128 w4 s2 specialize q_box=2x8x8 k_box=2x8x8"
    for config in (usual, special):
        assert config_of(json.loads(json.dumps(config_data(config)))) == config
    for change in ({"rows": 100}, {"rows": "128"}, {"warps": True}, {"stages": 0}, {"q_box": [1.5]}, {"rows": 1 << 20}):
        with pytest.raises(ValueError, match="configuration"):
            config_of({**FAST, **change})
    with pytest.raises(ValueError, match="configuration"):
        config_of({"rows": 128})


def test_the_version_of_kernels_is_a_hash() -> None:
    assert len(kernels_version()) == 16


def test_an_old_entry_that_never_saw_the_default_says_nothing() -> None:
    Store().write(make_entry(make_key(kernels="older")))
    assert lookup.lookup(make_key(), lambda: "64x64 w4 s2") is not None
    assert lookup.lookup(make_key(), lambda: "128x128 w4 s2 specialize") is None
    Store().write(make_entry(make_key()))
    assert lookup.lookup(make_key(), lambda: "128x128 w4 s2 specialize") is not None
