"""The `attndsl` command: one module a subcommand, one boundary that no traceback of a user's mistake crosses."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib import import_module
from typing import Annotated

import typer

from attndsl.cli.output import CALL_WRONG, COMPILER_WRONG, OK, SPEC_WRONG, CallError, print_diagnostics
from attndsl.diagnostics.report import SpecError
from attndsl.runtime.failures import KernelError

COMMANDS = ("check", "fmt", "explain", "run", "build", "bench", "verify", "viz", "tune", "doctor", "cache")
"""Modules of this package with a function, or commands of their own, of that name."""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"attndsl {version('attndsl')}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """A compiler for attention: write the mask, the score and the weight; get the kernel."""


@lru_cache(maxsize=16)
def _app(commands: tuple[str, ...]) -> typer.Typer:
    found = typer.Typer(
        name="attndsl",
        help="A compiler for attention: write the mask, the score and the weight; get the kernel.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    found.callback()(options)
    for name in commands:
        module = import_module(f"attndsl.cli.{name}")
        if name == "cache":
            found.add_typer(module.app)
        else:
            found.command(name)(getattr(module, name))
    return found


def _app_for(arguments: list[str]) -> typer.Typer:
    """With the command that is asked for, the only one that is imported; all of them where it is not known."""
    asked = next((a for a in arguments if not a.startswith("-")), "")
    return _app((asked,) if asked in COMMANDS else COMMANDS)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Exit code 0 fine, 1 the spec is wrong, 2 the call is wrong, 3 our mistake: a result
    outside the error rule, or a kernel that does not compile."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe went away; nothing more can be said on standard output, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _dispatch(arguments: list[str]) -> int:
    try:
        result = _app_for(arguments)(arguments or ["--help"], standalone_mode=False, prog_name="attndsl")
    except SpecError as error:
        print_diagnostics(error.diagnostics)
        return SPEC_WRONG
    except CallError as error:
        return _fail(str(error))
    except KernelError as error:
        print(f"attndsl: {error}", file=sys.stderr)
        return COMPILER_WRONG
    except (KeyboardInterrupt, typer.Abort):
        print("attndsl: stopped", file=sys.stderr)
        return 130
    except typer.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        raise
    except SystemExit:
        # typer's own answer to a closed pipe, which is no mistake of the spec
        raise BrokenPipeError from None
    except MemoryError:
        return _fail("not enough memory for this size; try a smaller --shape")
    except Exception as error:
        # Usage errors: their class moved from click into typer, their interface stayed.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return _fail(f"{describe()}{hint}")
    return result if isinstance(result, int) else OK


def _fail(message: str) -> int:
    print(f"attndsl: {' '.join(message.split())}", file=sys.stderr)
    return CALL_WRONG
