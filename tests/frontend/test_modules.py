"""From files to programs: what `use` finds, what it refuses, and what each function sees."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl.frontend import limits
from attndsl.frontend.modules import Program, program_from_text, read_program, std_modules


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.attn"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "root.attn"


def codes(program: Program) -> list[str]:
    return [d.code for d in program.diagnostics]


def test_library():
    assert set(std_modules()) >= {"masks", "scores", "features"}
    program = program_from_text("use masks (causal, neighborhood)\nuse scores (t5_bucket_both)")
    assert program.diagnostics == ()
    assert set(program.functions) == {"causal", "neighborhood", "t5_bucket_both"}


def test_library_has_what_the_design_names():
    masks = (
        "causal, sliding_window, prefix, document, block_diagonal, dilated, strided, sink_window, neighborhood, swin, "
        "axial, halo, radial, power"
    )
    assert codes(program_from_text(f"use masks ({masks})\nuse scores (alibi, t5_bucket, softcap)")) == []


def test_functions_see_their_own_file(tmp_path: Path):
    root = write(
        tmp_path,
        root='use "./lib/near.attn" (near)\nfn helper(x) = x\nattention a { mask near(q, k) }',
        lib__near='use "./base.attn" (helper)\nuse "../other.attn" (third)\nfn near(i, j) = helper(i - j) < third(8)',
        lib__base="fn helper(x) = abs(x)",
        other="fn third(x) = 3 * x",
    )
    program = read_program(root)
    assert program.diagnostics == ()
    near = program.scope.functions["near"]
    inner = near.scope.functions["helper"]
    assert inner.function is not program.scope.functions["helper"].function
    assert inner.function.value.span.text == "abs(x)"
    assert set(near.scope.functions) == {"near", "helper", "third"}
    assert "third" not in program.functions


def test_one_file_used_twice_is_one_file(tmp_path: Path):
    root = write(
        tmp_path,
        root='use "./a.attn" (f)\nuse "./b.attn" (g)\nuse "./c.attn" (h)',
        a='use "./c.attn" (h)\nfn f(x) = h(x)',
        b='use "./c.attn" (h)\nfn g(x) = h(x)',
        c="fn h(x) = x",
    )
    program = read_program(root)
    assert program.diagnostics == ()
    h = [program.scope.functions[n].scope.functions["h"].function for n in "fg"]
    assert h[0] is h[1]


def test_cycles(tmp_path: Path):
    root = write(
        tmp_path,
        root='use "./a.attn" (f)',
        a='use "./b.attn" (g)\nfn f(x) = g(x)',
        b='use "./a.attn" (f)\nfn g(x) = f(x)',
    )
    program = read_program(root)
    assert codes(program) == ["E0505"]
    assert "a.attn -> b.attn -> a.attn" in program.diagnostics[0].message
    assert program.diagnostics[0].span.source.name == (tmp_path / "b.attn").as_posix()
    assert set(program.functions) == {"f"}


@pytest.mark.parametrize(
    "path",
    ["../out.attn", "./x/../../out.attn", "/etc/hosts.attn", "~/x.attn", "C:/x.attn", "x\\\\y.attn", "./x.txt", ".", "",
     "./link.attn", "./linked/out.attn"],
)  # fmt: skip
def test_paths_stay_inside(tmp_path: Path, path: str):
    (tmp_path / "out.attn").write_text("fn f(x) = x")
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link.attn").symlink_to(tmp_path / "out.attn")
    (folder / "linked").symlink_to(tmp_path)
    root = write(folder, root=f'use "{path}" (f)\nattention a {{ mask f(q) }}')
    program = read_program(root)
    assert codes(program) == ["E0503"]
    assert program.scope.missing == {"f"}


def test_a_link_to_the_root_may_be_read(tmp_path: Path):
    root = write(tmp_path, real__root='use "./near.attn" (near)', real__near="fn near(i, j) = i == j")
    (tmp_path / "root.attn").symlink_to(tmp_path / "real/root.attn")
    assert read_program(root).diagnostics == ()


def test_not_a_file(tmp_path: Path):
    (tmp_path / "d.attn").mkdir()
    os.mkfifo(tmp_path / "fifo.attn")
    root = write(tmp_path, root='use "./d.attn" (f)\nuse "./fifo.attn" (g)')
    assert codes(read_program(root)) == ["E0507", "E0507"]


def test_missing_root(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_program(tmp_path / "no.attn")


def test_errors_of_used_files_are_reported_there(tmp_path: Path):
    root = write(
        tmp_path,
        root='use "./a.attn" (f, g)\nattention a { mask f(q) }',
        a="fn f(x) = x +\nfn g(x) = x",
    )
    program = read_program(root)
    assert codes(program) == ["E0110"]
    assert program.diagnostics[0].span.source.name.endswith("a.attn")
    assert set(program.functions) == {"g"} and program.scope.missing == {"f"}


def test_broken_use_leaves_no_unknown_names():
    program = program_from_text("use masks (causal\nattention a { mask causal(q, k) }")
    assert codes(program) == ["E0111"] and "causal" in program.scope.missing


def test_damage():
    program = program_from_text("attention a { maks k <= q }\nattention b { mask k <= q }")
    first, second = program.file.attentions
    assert program.is_damaged(first) and not program.is_damaged(second)


def test_collisions_and_suggestions():
    program = program_from_text("use masks (causal)\nfn causal(q, k) = true")
    assert codes(program) == ["E0506"]
    program = program_from_text("use masks (slidng_window)")
    assert program.diagnostics[0].help == "did you mean `sliding_window`?"
    assert program_from_text("use masks (causal, causal)").diagnostics == ()


def test_too_many_files(tmp_path: Path):
    files = {f"f{i}": f'use "./f{i + 1}.attn" (f{i + 1})\nfn f{i}(x) = x' for i in range(limits.FILES + 2)}
    program = read_program(write(tmp_path, root='use "./f0.attn" (f0)', **files))
    assert codes(program) == ["E0606"]


def test_large_file_is_not_read(tmp_path: Path):
    path = tmp_path / "big.attn"
    with path.open("wb") as handle:
        handle.truncate(10_000_000_000)
    assert codes(read_program(path)) == ["E0601"]
    path.write_text("#" * limits.SOURCE_BYTES)
    assert codes(read_program(path)) == []
    path.write_text("#" * (limits.SOURCE_BYTES + 1))
    assert codes(read_program(path)) == ["E0601"]
    assert codes(program_from_text("é" * (limits.SOURCE_BYTES // 2 + 1))) == ["E0601"]


def test_encodings(tmp_path: Path):
    path = tmp_path / "t.attn"
    path.write_bytes(b"\xef\xbb\xbfattention a {\r\n    mask k <= q\r\n}\r\n")
    program = read_program(path)
    assert program.diagnostics == ()
    assert program.file.span.source.position(program.file.attentions[0].span.start) == (1, 1)
    path.write_bytes("attention a {}".encode("utf-16"))
    (found,) = read_program(path).diagnostics
    assert found.code == "E0102" and "UTF-16" in found.help
    assert codes(program_from_text("\ufeffattention a { mask k <= q }")) == []
    assert codes(program_from_text("# \ud800")) == ["E0102"]


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_findings_only(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.getbasetemp() / "bytes.attn"
    path.write_bytes(data)
    program = read_program(path)
    for found in program.diagnostics:
        found.render().encode()
