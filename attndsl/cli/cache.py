"""`attndsl cache`: what is tuned, by how much, and whether the cache is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli.output import CALL_WRONG, OK, CallError, plural, print_json, write_whole

if TYPE_CHECKING:
    from attndsl.runtime.cache.entry import Entry, Timing
    from attndsl.runtime.cache.key import Key

app = typer.Typer(
    name="cache",
    help="What is tuned and kept: list, show, verify, move and prune it.",
    add_completion=False,
    rich_markup_mode=None,
)
DAMAGED = 3
"""Exit code of `verify` where something is not whole."""
JSON = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


@app.command("ls")
def ls(
    gpu: Annotated[str | None, typer.Option(help="Entries of GPUs whose name has this in it.")] = None,
    shipped: Annotated[bool, typer.Option("--shipped", help="What the package brings instead.")] = False,
    as_json: JSON = False,
) -> int:
    """List tuned configurations: for what, the best candidate, its gain over the untuned default."""
    entries = _entries(shipped, gpu)
    if as_json:
        print_json([_as_row(e) for e in entries])
        return OK
    for line in _table([_row(e) for e in entries]):
        print(line)
    print(f"{plural(len(entries), 'entry') if len(entries) == 1 else f'{len(entries):,} entries'} in {_where(shipped)}")
    return OK


@app.command("show")
def show(
    entry: Annotated[str, typer.Argument(metavar="ID", help="The start of an ID that `ls` prints, or a spec's name.")],
    shipped: Annotated[bool, typer.Option("--shipped", help="Among what the package brings.")] = False,
    as_json: JSON = False,
) -> int:
    """Show every candidate of an entry: which won, and by how much."""
    from attndsl.runtime.cache.entry import entry_data

    every = _entries(shipped, None)
    found = [e for e in every if entry_id(e.key).startswith(entry)] or [e for e in every if e.name == entry]
    if not found:
        raise CallError(f"there is no entry {entry!r} in {_where(shipped)}; `attndsl cache ls` lists them")
    if as_json:
        print_json([entry_data(e) for e in found])
        return OK
    print("\n\n".join(_shown(e) for e in found))
    return OK


@app.command("verify")
def verify(as_json: JSON = False) -> int:
    """Check that every entry can be read, is what its name says, and that nothing was left by a process that died."""
    from attndsl.runtime.cache.store import Store

    count, problems = len(Store().paths()), Store().problems()
    if as_json:
        print_json({"entries": count, "problems": {str(p): why for p, why in problems.items()}})
    else:
        for path, why in problems.items():
            print(f"{path}: {why}")
        print(f"{count:,} looked at in {_where(False)}, {plural(len(problems), 'problem')}")
    return DAMAGED if problems else OK


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    gpu: Annotated[str | None, typer.Option(help="Entries of GPUs whose name has this in it.")] = None,
) -> int:
    """Write all entries to one file, for another machine."""
    from attndsl.runtime.cache.entry import entry_data

    entries = _entries(False, gpu)
    data = {"entries": [entry_data(e.settled) for e in entries]}
    write_whole(file, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")
    print(f"{_entries_word(len(entries))} written to {file}")
    return OK


@app.command("import")
def import_(file: Annotated[Path, typer.Argument(help="A JSON file that `export` wrote.")]) -> int:
    """Take the entries of a file; candidates that are timed here keep their times."""
    from dataclasses import replace

    from attndsl.runtime.cache.entry import entry_of
    from attndsl.runtime.cache.store import Store

    try:
        data: Any = json.loads(file.read_bytes())
        entries = [entry_of(e).settled for e in data["entries"]]
    except OSError as error:
        raise CallError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CallError(f"{file} is not a file that `attndsl cache export` wrote: {error}") from error
    store, kept = Store(), 0
    for entry in entries:
        with store.lock(entry.key):
            mine = store.read(entry.key)
            merged = replace(entry, made={**entry.made, "origin": f"imported from {file.name}"})
            kept += store.write(merged if mine is None else mine.with_timings({**entry.timings, **mine.timings}))
    print(f"{kept:,} of {_entries_word(len(entries))} taken from {file}")
    return OK if kept == len(entries) else CALL_WRONG


@app.command("prune")
def prune(
    everything: Annotated[bool, typer.Option("--all", help="All entries, and all kernels that were compiled.")] = False,
) -> int:
    """Delete what cannot be read, what processes that died left, and entries of other versions."""
    from attndsl.runtime.cache.folder import part
    from attndsl.runtime.cache.store import Store, read_entry

    store, removed = Store(), 0
    for path in store.problems():
        removed += store.remove(path)
    for path in store.paths():
        entry = read_entry(path)
        if everything or entry is None or not _current(entry.key):
            removed += store.remove(path)
    for name in ("compiled", "kernels", "facts", "failures", "native") if everything else ():
        folder = part(name)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{plural(removed, 'file')} removed from {_where(False)}")
    return OK


def _entries(shipped: bool, gpu: str | None) -> list[Entry]:
    from attndsl.runtime.cache.lookup import every_shipped_entry
    from attndsl.runtime.cache.store import Store

    found = every_shipped_entry() if shipped else Store().entries()
    chosen = [e for e in found if gpu is None or gpu.lower() in e.key.machine.name.lower()]
    return sorted(chosen, key=lambda e: (e.key.machine.name, e.name, e.key.step, e.key.D, e.key.bucket.Lk, e.key.name))


def _entries_word(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _where(shipped: bool) -> str:
    from attndsl.runtime.cache.folder import cache_root

    return "the package" if shipped else str(cache_root())


def entry_id(key: Key) -> str:
    """A short name of an entry."""
    from attndsl.runtime.cache.key import digest

    return digest(key.name)[:8]


def _current(key: Key) -> bool:
    from attndsl.runtime.cache.key import kernels_version

    return key.kernels == kernels_version()


HEADS = ("id", "attention", "pass", "for", "gpu", "best", "gain", "")


def _row(entry: Entry) -> tuple[str, ...]:
    from attndsl.runtime.cache.lookup import show_shape

    key = entry.key
    gain = "" if entry.gain is None else f"{entry.gain:.2f}x"
    notes = [] if entry.measured else ["predicted"]
    notes += [] if _current(key) else ["other version"]
    where = f"{key.dtype} {show_shape(entry.shape)}"
    return entry_id(key), entry.name, key.step, where, key.machine.name, entry.best or "none", gain, ", ".join(notes)


def _as_row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry_id(entry.key), "attention": entry.name, "pass": entry.key.step, "shape": dict(entry.shape),
        "best": entry.best, "gain": entry.gain, "measured": entry.measured, "current": _current(entry.key),
        "key": entry.key.data(),
    }  # fmt: skip


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows under their heads, in columns."""
    whole = [HEADS, *rows] if rows else []
    widths = [max(len(r[i]) for r in whole) for i in range(len(HEADS))] if rows else []
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in whole]


def _shown(entry: Entry) -> str:
    from attndsl.runtime.cache.lookup import show_shape

    key = entry.key
    lines = [
        f"{entry.name}  {key.step}  {key.dtype} {show_shape(entry.shape)}",
        f"gpu       {key.machine.name}, sm_{key.machine.capability}, {key.machine.multiprocessors} multiprocessors",
        f"versions  triton {key.triton}, kernels {key.kernels}" + ("" if _current(key) else " (not this version's)"),
        *(f"{name:<9} {text}" for name, text in entry.made.items()),
    ]
    best = entry.best
    for label, timing in sorted(entry.timings.items(), key=_rank):
        lines.append(f"  {'*' if label == best else ' '} {label:<36} {_time(entry, timing)}".rstrip())
    if best is None:
        lines.append("no candidate was right")
    elif entry.gain is not None:
        lines.append(f"{best} is {entry.gain:.3g}x as fast as the default {entry.default}")
    return "\n".join(lines)


def _rank(item: tuple[str, Timing]) -> tuple[Any, ...]:
    label, timing = item
    order = ("measured", "predicted", "running", "wrong", "failed", "unfit").index(timing.state)
    return order, timing.ms if timing.ms is not None else 0.0, label


def _time(entry: Entry, timing: Timing) -> str:
    if timing.ms is None:
        return f"{timing.state}: {timing.note}" if timing.note else timing.state
    best = entry.timings[entry.best].ms if entry.best is not None else None
    over = f"  {timing.ms / best:.2f}x" if best else ""
    spread = f" ± {50 * timing.spread:.1f} %" if timing.spread is not None else ""
    kind = "" if timing.state == "measured" else f"  {timing.state}"
    return f"{timing.ms:9.4f} ms{spread}{over}{kind}  {timing.note}".rstrip()
