"""What every command shares: exit codes, writing files whole, JSON, and knowing when a person is watching."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from attndsl.diagnostics.report import Diagnostic

OK, SPEC_WRONG, CALL_WRONG, COMPILER_WRONG = 0, 1, 2, 3
"""Exit codes: fine, the spec is wrong, the call is wrong, a result or a kernel is (our mistake, not the user's)."""


class CallError(Exception):
    """The command was called wrongly: one line for standard error, exit code 2."""


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def unicode_output() -> bool:
    """Whether standard output is a terminal that can show block characters."""
    return is_terminal() and (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def print_json(data: Any) -> None:
    """One JSON document; numbers that JSON lacks (inf, nan) become null."""
    print(json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(k): _plain(v) for k, v in cast(dict[Any, Any], data).items()}
    if isinstance(data, (list, tuple)):
        return [_plain(v) for v in cast(Iterable[Any], data)]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data


def print_diagnostics(diagnostics: Iterable[Diagnostic]) -> None:
    """Reports on standard error, an empty line after each; colours on a terminal only."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    for diagnostic in diagnostics:
        text = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in diagnostic.render())
        print(_coloured(text) if colour else text, end="\n\n", file=sys.stderr)


def _coloured(text: str) -> str:
    """Code in red, underline in red, help in cyan: the few colours a report needs."""
    red, cyan, bold, end = "\x1b[31m", "\x1b[36m", "\x1b[1m", "\x1b[0m"
    lines = text.split("\n")
    code, _, message = lines[0].partition(":")
    out = [f"{bold}{red}{code}{end}{bold}:{message}{end}"]
    for line in lines[1:]:
        head, bar, rest = line.partition("|")
        if bar and not head.strip() and rest.lstrip().startswith("^"):
            out.append(f"{head}{bar}{red}{rest}{end}")
        elif line.startswith("  help:"):
            out.append(f"{cyan}{line}{end}")
        else:
            out.append(line)
    return "\n".join(out)


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


@contextmanager
def progress(what: str) -> Generator[Callable[[str], None]]:
    """A spinner while something long runs, on a terminal; nothing else where output is piped. What is yielded changes
    the words beside it."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield status.update


def read_spec(path: str) -> None:
    """Raise CallError unless the path is a readable file."""
    p = Path(path)
    if p.is_dir():
        raise CallError(f"{path} is a directory; name an .attn file")
    if not p.exists():
        raise CallError(f"no such file: {path}{_nearby(p)}")
    if not os.access(p, os.R_OK):
        raise CallError(f"cannot read {path}: permission denied")


def _nearby(path: Path) -> str:
    from difflib import get_close_matches

    with suppress(OSError):
        names = [p.stem for p in path.parent.glob("*.attn")]
        if close := get_close_matches(path.stem, names, n=1):
            return f" (did you mean {path.with_name(close[0])}.attn?)"
    return ""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: a temporary neighbour, then one rename.

    A symlink is followed, so that its target changes and the link stays; an existing file keeps its permissions.
    Raises CallError naming the path where it cannot be written.
    """
    target = path.resolve()
    data = content.encode() if isinstance(content, str) else content
    if target.is_dir():
        raise CallError(f"cannot write {path}: it is a directory")
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            target.write_bytes(data)
            return
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise CallError(f"cannot write {path}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise CallError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
