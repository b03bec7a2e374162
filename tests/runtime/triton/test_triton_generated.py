"""Generated modules outlive a process: equal to fresh ones, written anew where they are damaged, checked as always."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import attndsl
from attndsl.codegen import templates
from attndsl.codegen.triton import generate
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_backward import BackwardForm, generate_sweep
from attndsl.codegen.triton_decode import generate_decode
from attndsl.codegen.triton_form import Form, PieceForm, SideForm, typical_forms
from attndsl.codegen.triton_prepare import generate_prepare
from attndsl.codegen.triton_scan import ScanModule
from attndsl.codegen.whitelist import UnsafeCodeError
from attndsl.runtime.cache import tidy
from attndsl.runtime.cache.facts import keep, known
from attndsl.runtime.triton import generated
from attndsl.runtime.triton.generated import backward_module, decode_module, forward_module, scan_module_for

SPECS = (
    "attention causal { mask k <= q }",
    "attention alibi(input slope: f32[H], input c: f32[Hkv, L]) { score s - slope[h] * (q - k) + c[hkv, k]"
    " mask k <= q }",
    "attention gated(input z: f32[H], input g: f32[B, H, Lq]) { weight exp(s) / (exp(z[h]) + sum)"
    " output o * sigmoid(g[b, h, q]) }",
    "attention relu2(input t: f32[H, Lq, Lk]) { score s + t[h, q, k] weight relu(s)^2 / count }",
)
LINE = SideForm("", ("0",), (False,))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tidy, "_cleaned", set())
    return tmp_path / "cache"


def modules(attention: Any) -> list[Any]:
    """Through the cache."""
    (form,) = typical_forms(attention)
    wanted = frozenset(p.name for p in attention.inputs)
    few = Form("bf16", 64, 64, LINE, (PieceForm(LINE, False),))
    return [
        forward_module(attention, form), decode_module(attention, few),
        *(backward_module(s, attention, BackwardForm(form, wanted)) for s in ("prepare", "dq")),
        backward_module("dkdv", attention, BackwardForm(Form(**{**vars(form), "turned": True}), wanted)),
    ]  # fmt: skip


def fresh(attention: Any) -> list[Any]:
    """As they are written."""
    (form,) = typical_forms(attention)
    wanted = frozenset(p.name for p in attention.inputs)
    few = Form("bf16", 64, 64, LINE, (PieceForm(LINE, False),))
    turned = Form(**{**vars(form), "turned": True})
    return [
        generate(attention, form), generate_decode(attention, few),
        generate_prepare(attention, BackwardForm(form, wanted)), generate_sweep(attention, BackwardForm(form, wanted)),
        generate_sweep(attention, BackwardForm(turned, wanted)),
    ]  # fmt: skip


@pytest.mark.parametrize("text", SPECS, ids=lambda t: t.split()[1].split("(")[0])
def test_the_next_process_writes_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = attndsl.load(text).simplified
    expected = fresh(attention)
    assert modules(attention) == expected

    def no_templates() -> Any:
        raise AssertionError("a template was filled")

    monkeypatch.setattr(templates, "environment", no_templates)
    assert modules(attention) == expected
    assert [type(m) for m in modules(attention)] == [type(m) for m in expected]


def test_names_and_forms_are_told_apart() -> None:
    one, other = (attndsl.load(f"attention {n} {{ mask k <= q }}").simplified for n in ("one", "other"))
    (form,) = typical_forms(one)
    assert "other" in forward_module(other, form).source
    assert "other" not in forward_module(one, form).source
    assert forward_module(one, form) != forward_module(one, Form(**{**vars(form), "D": 64, "Dv": 64}))


def test_another_compiler_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = attndsl.load(SPECS[0]).simplified
    (form,) = typical_forms(attention)
    forward_module(attention, form)
    written: list[str] = []
    monkeypatch.setattr(generated, "keep", lambda kind, about, fact: written.append(kind))
    forward_module(attention, form)
    assert written == []
    monkeypatch.setattr(generated, "compiler_version", lambda: "another")
    forward_module(attention, form)
    assert written == ["forward"]


def test_what_is_no_module_is_written_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = attndsl.load(SPECS[1]).simplified
    (form,) = typical_forms(attention)
    whole = backward_module("dq", attention, BackwardForm(form, frozenset({"slope"})))
    assert whole is not None
    assert whole.slots
    abouts: list[str] = []

    def spied(kind: str, about: str) -> dict[str, Any] | None:
        abouts.append(about)
        return known(kind, about)

    monkeypatch.setattr(generated, "known", spied)
    wrong: list[dict[str, Any]] = [
        {}, {"module": {}}, {"module": {"source": "x"}}, {"module": 7},
        {"module": {**generated.module_data(whole), "slots": [[0, "(size Lq)", 0, True, False]]}},
        {"module": {**generated.module_data(whole), "slots": [[0, "((((", 0, True, False]]}},
        {"module": {**generated.module_data(whole), "arguments": [["q"]]}},
    ]  # fmt: skip
    for fact in wrong:
        assert backward_module("dq", attention, BackwardForm(form, frozenset({"slope"}))) == whole
        keep("dq", abouts[-1], fact)
        assert backward_module("dq", attention, BackwardForm(form, frozenset({"slope"}))) == whole
    for path in (root / "facts").glob("dq-*.json"):
        path.write_bytes(path.read_bytes()[:-10])
    assert backward_module("dq", attention, BackwardForm(form, frozenset({"slope"}))) == whole
    assert json.loads(next((root / "facts").glob("dq-*.json")).read_text())["fact"]["module"] is not None


def test_modules_of_scans(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ScanModule(
        "text", {"states": (Argument("q", "*qkv", "tensor", ("q",)), Argument("H", "i32", "size", ("H", 2)))}
    )
    assert scan_module_for("scan", ("walk", 1), lambda: made) == made

    def never() -> ScanModule:
        raise AssertionError("written twice")

    assert scan_module_for("scan", ("walk", 1), never) == made
    with pytest.raises(AssertionError, match="written twice"):
        scan_module_for("scan", ("walk", 2), never)
    for fact in ({}, {"source": "text", "arguments": []}, {"source": "text", "arguments": {"states": [["q"]]}}):
        monkeypatch.setattr(generated, "known", lambda kind, about, fact=fact: fact)
        assert scan_module_for("scan", ("walk", 1), lambda: made) == made


def test_code_from_the_cache_is_checked_like_fresh_code(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from attndsl.runtime.triton.modules import load_module

    attention = attndsl.load(SPECS[0]).simplified
    (form,) = typical_forms(attention)
    whole = forward_module(attention, form)
    data = generated.module_data(whole)
    evil = data["source"].replace("import triton\n", "import triton\nimport os\n", 1)
    assert evil != data["source"]
    monkeypatch.setattr(generated, "known", lambda kind, about: {"module": {**data, "source": evil}})
    with pytest.raises(UnsafeCodeError, match="import of os"):
        load_module(forward_module(attention, form).source)
