"""Every example is a spec of its own, small, explained, and compiles."""

from pathlib import Path

import pytest

from attndsl.frontend.compile import compile_file

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.attn"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path: Path):
    text = path.read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 24
    assert len(compile_file(path)) == 1


def test_the_examples_people_look_for_are_there():
    names = {p.stem for p in EXAMPLES}
    assert names >= {
        "alibi_window", "gna", "documents", "duo", "sink_gated", "relu2", "sigmoid", "cog", "linear", "retention",
        "simple_gla", "gla", "hedgehog", "joint", "pooled_keys", "swin", "radial_video", "power", "t5", "softcap",
        "moa", "prefix_lm", "dilated", "strided",
    }  # fmt: skip
