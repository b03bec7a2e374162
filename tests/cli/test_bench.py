"""`bench`: rows that say what they measured, workloads by name, and peers that compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.bench.flex import functions
from attndsl.bench.peers import block_mask
from attndsl.bench.workloads import workloads
from attndsl.cli.inputs import make_inputs
from attndsl.cli.main import main
from attndsl.reference import visible
from attndsl.runtime.cpu.kernel import CpuKernel
from tests.cli.shell import EXAMPLES

WINDOW = EXAMPLES / "alibi_window.attn"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("no time to compile here")

    monkeypatch.setattr("attndsl.bench.measure.SECONDS", 0.0)
    monkeypatch.setattr("attndsl.cli.benching.flex", refuse)


def test_a_spec_over_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    shapes = ["--shape", "H=2,L=200,D=16", "--shape", "H=2,L=100,D=8"]
    assert (
        main(["bench", str(WINDOW), *shapes, "--set", "window=32", "-o", str(out), "--backend", "cpu", "--json"]) == 0
    )
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == record
    assert {"cpu", "versions", "commit", "rows"} <= record.keys()
    assert len({r["wl"] for r in record["rows"]}) == 2
    for row in record["rows"]:
        assert row.keys() == {"wl", "sys", "pas", "ms", "tflops", "note"}
    found = [(r["sys"], r["pas"]) for r in record["rows"][:5]]
    ours, dense = "attndsl-cpu", "sdpa-dense"
    assert found == [(ours, "fwd"), (ours, "bwd"), (dense, "fwd"), (dense, "bwd"), ("flex", "fwd")]
    assert all(r["ms"] > 0 for r in record["rows"][:4])
    forward, backward = record["rows"][:2]
    pairs = sum(min(i + 1, 32) for i in range(200))
    assert forward["tflops"] * forward["ms"] * 1e9 == pytest.approx(2 * 4 * 16 * pairs)
    assert backward["tflops"] * backward["ms"] == pytest.approx(2.5 * forward["tflops"] * forward["ms"])
    assert "error" in forward["note"]
    assert record["rows"][4]["ms"] is None
    assert record["rows"][4]["note"] == "ERR RuntimeError: no time to compile here"


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def forward(self: CpuKernel, *arguments: Any, **options: Any) -> Any:
        out, lse, saved = right(self, *arguments, **options)
        return out + 0.1, lse, saved

    right = CpuKernel.forward
    monkeypatch.setattr(CpuKernel, "forward", forward)
    assert main(["bench", str(WINDOW), "--shape", "H=2,L=64,D=16", "--backend", "cpu", "--no-peers", "--json"]) == 3
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["note"].startswith("WRONG")
    assert row["ms"] is None


def test_workloads_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    names = [w["workload"] for w in listed]
    assert len(names) == len(set(names)) == 8 + 9 + 4 + 3 + 5
    for name in (
        "dense D128 S16384 B1 H16 causal", "mask32k D128 H16 sink4+swa1024", "decode B8 kv32768 Hq32 Hkv8 D128",
        "gna hunyuan 30x48x80 w18,24,24 s16,8,8 H24",
    ):  # fmt: skip
        assert {"workload": name, "runs on": "GPU"} in listed


def test_counts_of_pairs_are_those_of_the_masks() -> None:
    for w in workloads("cpu"):
        f = attndsl.load(w.text, **w.consts)
        read = {} if "randblk" in w.name else {n: t for n, t in w.inputs.items() if n in ("doc",)}
        if "randblk" in w.name or w.grid is not None:
            continue
        plan = f.plan(Lq=w.Lq or w.S, Lk=w.S, H=1, D=w.D, **{n: t.numpy() for n, t in read.items()})
        ratio = plan.bounds.dense_over_pairs
        assert ratio is not None, w.name
        found = (w.Lq or w.S) * w.S / ratio
        # plans count half of a tile on the diagonal, dense triangles are half a square
        assert found == pytest.approx(w.pairs, rel=2e-3), w.name


SPECS = [
    ("alibi_window", {"window": 20}, {}),
    ("gna", {"window": (3, 3, 3), "stride": (1, 2, 2)}, {"grid": (3, 5, 6)}),
    ("joint", {"window": (3, 3, 3)}, {"grid": {"text": (10,), "video": (3, 4, 5)}}),
    ("documents", {}, {}),
    ("duo", {"recent": 9, "sink": 3}, {}),
]


@pytest.mark.parametrize(("name", "consts", "how"), SPECS, ids=[s[0] for s in SPECS])
def test_flex_is_given_the_same_mask(name: str, consts: dict[str, Any], how: dict[str, Any]) -> None:
    f = attndsl.load(EXAMPLES / f"{name}.attn", **consts)
    lengths = {} if how else {"L": 70}
    problem = f.problem(B=2, H=4, D=8, **lengths, **how)
    inputs = {n: torch.from_numpy(t) for n, t in make_inputs(f.attention, problem.sizes, 3).items()}
    score, mask = functions(f.attention, problem, inputs)
    assert mask is not None
    B, H, Lq, Lk = (problem.sizes[n] for n in ("B", "H", "Lq", "Lk"))
    at = torch.meshgrid(torch.arange(B), torch.arange(H), torch.arange(Lq), torch.arange(Lk), indexing="ij")
    exact = visible(f.attention, problem.sizes, inputs=inputs, grid=how.get("grid"))
    assert torch.equal(torch.as_tensor(mask(*at)).expand(B, H, Lq, Lk), exact)
    if name == "alibi_window":
        problem = f.problem(B=2, H=4, D=8, L=70, strength=0.5)
        score, _ = functions(f.attention, problem, inputs)
        assert score is not None
        s = torch.randn(B, H, Lq, Lk)
        expected = s - 0.5 * inputs["slope"][None, :, None, None] * (at[2] - at[3])
        assert torch.allclose(score(s, *at), expected)


@pytest.mark.parametrize("text", ["attention a { weight relu(s) }", "attention a { score acos(s) }"])
def test_what_flex_cannot_say(text: str) -> None:
    f = attndsl.load(text)
    with pytest.raises(ValueError, match="FlexAttention"):
        functions(f.attention, f.problem(L=9), {})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench"], "name a FILE, or workloads"),
        (["bench", WINDOW, "--workload", "dense"], "name a FILE, or workloads"),
        (["bench", "--workload", "dense", "--shape", "L=5"], "--workload says sizes"),
        (["bench", "--workload", "nothing like it", "--backend", "cpu"], "none is called nothing like it"),
        (["bench", "--workload", "decode", "--backend", "cpu"], "needs a GPU; this machine runs 'cpu B1 H8 L4096 D64"),
        (["bench", WINDOW, "--backend", "gpu"], "--backend: there is no 'gpu'"),
    ],
)
def test_wrong_calls(arguments: list[object], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(a) for a in arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    "mask",
    [
        lambda b, h, i, j: (i >= j) & (i - j < 200),
        lambda b, h, i, j: i // 128 != j // 128,
        lambda b, h, i, j: i < 0,
    ],
    ids=["window", "other blocks", "nothing"],
)
@pytest.mark.parametrize(("rows", "keys"), [(1000, 1300), (512, 512), (7, 129)])
def test_block_masks_are_torchs(mask: Any, rows: int, keys: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    found, right = block_mask(mask, rows, keys, "cpu"), create_block_mask(mask, None, None, rows, keys, device="cpu")
    assert found.seq_lengths == right.seq_lengths and found.BLOCK_SIZE == right.BLOCK_SIZE
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(right, name)), name
    for name in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(right, f"{name}_num_blocks").flatten()
        ours, theirs = (getattr(m, f"{name}_indices").flatten(0, 2) for m in (found, right))
        for i, n in enumerate(counts.tolist()):
            assert torch.equal(ours[i, :n], theirs[i, :n]), name
