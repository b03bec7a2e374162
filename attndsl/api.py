"""The Python interface: load or decorate an attention, call it on tensors, ask for its plan and its source."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from attndsl.ir.attention import Attention, Const
from attndsl.ir.expr import Load, ParamRef, walk
from attndsl.runtime import tuning as tuning_now
from attndsl.runtime.names import did_you_mean, show_dim, show_param
from attndsl.runtime.tiles import tile_of

if TYPE_CHECKING:
    from torch import Tensor

    from attndsl.runtime.given import Signature
    from attndsl.runtime.runner import Runner
    from attndsl.runtime.state import State
    from attndsl.schedule.plan import Plan
    from attndsl.schedule.problem import Problem


class MissingSpecError(FileNotFoundError, ValueError):
    """There is no file of this name."""


class AttentionFunction:
    """An attention as a function of tensors. Made by `load` and `attention`, not by hand.

    Calls differ in sizes, scalars, grids and tensors; consts are fixed (`with_consts` makes a copy with others).
    """

    def __init__(self, attention: Attention, consts: Mapping[str, object] | None = None) -> None:
        self._written = attention
        self._consts = dict(consts or {})
        self._signature: Signature | None = None
        self.__name__ = attention.name
        self.__doc__ = f"{attention.name}({', '.join(map(show_param, attention.params))})"

    @cached_property
    def attention(self) -> Attention:
        """The typed meaning, consts bound. TypeError where a const has no value, SpecError for a failed `require`."""
        from attndsl.ir.bind import bind

        return bind(self._written, self._consts)

    @cached_property
    def simplified(self) -> Attention:
        """The attention that backends and the scheduler are given."""
        from attndsl.ir.simplify import simplify

        return simplify(self.attention)

    @cached_property
    def _runner(self) -> Runner:
        from attndsl.runtime.registry import registered

        return registered(self._spec, self.attention, self.simplified)

    @cached_property
    def _spec(self) -> str:
        from attndsl.ir.printer import print_attention

        return print_attention(self.attention)

    def _prepare(self) -> bool:
        """Have `_signature` made. Consts are bound and the compiler's front half runs at the first call."""
        if self._signature is None:
            from attndsl.runtime.given import Signature

            # the operator finds it by its text
            deciding = self._runner.deciding
            self._signature = Signature.of(self.attention, self.simplified, self._spec, deciding)
        return True

    # torch.compile runs it instead of tracing it (torch.compiler.assume_constant_result, without torch)
    _prepare._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        layout: str = "bhsd",
        return_lse: bool = False,
        scale: float | None = None,
        q_offset: int | str | Tensor = 0,
        grid: Any = None,
        backend: str | None = None,
        checked: bool = False,
        tune: str | None = None,
        initial_state: State | None = None,
        return_state: bool = False,
        **arguments: Any,
    ) -> Any:
        """The output [B, H, Lq, Dv] in q's dtype; with `return_lse` also lse [B, H, Lq], with `return_state` the state.

        q is [B, H, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv], H a multiple of Hkv (`layout="bshd"`: positions
        before heads, in and out). Further arguments are the attention's scalars (Python or numpy numbers, 0-d tensors)
        and inputs (tensors on q's device: floats in any floating type, ints in the declared type or a narrower one).
        A tensor whose innermost stride is not 1 is copied.

        `scale` multiplies dot(Q, K), 1/sqrt(D) unless given. `q_offset` is the position of row 0: an int, an int tensor
        [B], or "end" for Lk - Lq. `grid` gives the extents of the axes, in order or by name; one may be left out.
        `checked` verifies promises (`sorted`, `permutation`, `log_decay`) and that visible pairs read inside tensors,
        in time Lq * Lk. Gradients flow to q, k, v and float inputs, and through lse and states; once. `tune="now"`
        searches for the fastest configuration before the call runs, if its bucket of sizes was not tuned before (see
        `tuning`).

        A causal weight of features (linear attention) has states. `initial_state` (a `State`) stands for the keys
        before the first row, and `return_state` gives the pair of output and the state after the last. Rows then stand
        at `state.position` and after; inputs along L hold the values of these rows alone.

        Raises TypeError and ValueError that name the argument, what was given and what was expected, and KernelError
        (with the kernel's configuration, the compiler's words and a reproducer file) where a generated kernel does not
        compile.
        """
        if tune is not None or tuning_now.active:
            from attndsl.tune.online import tune_call

            tune_call(
                self._runner, q, k, v, arguments, now=tune, backend=backend, layout=layout, scale=scale,
                q_offset=q_offset, grid=grid, states=initial_state is not None or return_state,
            )  # fmt: skip
        from attndsl.runtime.entry import enter

        self._prepare()
        assert self._signature is not None
        return enter(
            self._signature, q, k, v, arguments, layout=layout, return_lse=return_lse, scale=scale, q_offset=q_offset,
            grid=grid, backend=backend, checked=checked, initial_state=initial_state, return_state=return_state,
        )  # fmt: skip

    def step(self, state: State | None, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> tuple[Tensor, State]:
        """One row after those that a state holds: (output [B, H, 1, Dv], the next state).

        q is [B, H, 1, D], k [B, Hkv, 1, D], v [B, Hkv, 1, Dv] (or bshd, by `layout`); `state` None starts empty. Inputs
        along L hold the row's own value (L is 1); further arguments are those of a call. Time and memory are those of
        the state, however many rows came before. Raises as a call does; ValueError for more than one row.
        """
        rows = 1 if arguments.get("layout", "bhsd") == "bshd" else 2
        shape = getattr(q, "shape", ())
        if len(shape) == 4 and shape[rows] != 1:
            raise ValueError(
                f"{self.__name__}: step takes one row, and 'q' has {shape[rows]}; "
                "a call with initial_state= and return_state=True takes many"
            )
        return self(q, k, v, initial_state=state, return_state=True, **arguments)

    def problem(
        self,
        *,
        Lq: int | None = None,
        Lk: int | None = None,
        L: int | None = None,
        B: int = 1,
        H: int = 1,
        Hkv: int | None = None,
        D: int = 64,
        Dv: int | None = None,
        grid: Any = None,
        q_offset: Any = 0,
        **arguments: Any,
    ) -> Problem:
        """What a plan for these sizes depends on; see `plan`."""
        from attndsl.runtime.problems import bind_problem

        return bind_problem(
            self.attention, self.simplified, arguments,
            Lq=Lq, Lk=Lk, L=L, B=B, H=H, Hkv=Hkv, D=D, Dv=Dv, grid=grid, q_offset=q_offset,
        )  # fmt: skip

    def plan(self, *, tile: Any = None, **sizes: Any) -> Plan:
        """The tile schedule of a call of these sizes; needs no tensors and no torch.

        Sizes are `Lq` and `Lk` (`L` gives both, a full `grid` too), `B` (1), `H` (1), `Hkv` (H), `D` (64), `Dv` (D) and
        fresh sizes by name. `grid` and `q_offset` are as in a call, the offset also as an array [B]. Scalars that the
        mask reads are needed; inputs that it reads are arrays or tensors, and one that is absent is unknown: the
        plan is sound without it. `tile` is (q box, k box), chosen by the cost model unless given. Raises TypeError and
        ValueError, also for a `decay` whose mask does not imply k <= q.
        """
        return self._planned(self.problem(**sizes), tile)

    def explain(self, *, tile: Any = None, **sizes: Any) -> str:
        """Why the plan of a call of these sizes is what it is, as text. Arguments as in `plan`."""
        from attndsl.schedule.report import report

        problem = self.problem(**sizes)
        return report(self.simplified, problem, self._planned(problem, tile))

    def _planned(self, problem: Problem, tile: Any) -> Plan:
        from attndsl.schedule.build import build
        from attndsl.schedule.causal import check_decay

        boxes = tile_of(self.__name__, tile)
        check_decay(self.simplified, problem)
        return build(self.simplified, problem, boxes)

    def source(self, backend: str = "cpu") -> str:
        """The generated kernels of a backend, readable; for `triton` those of bf16 heads of 128.

        ValueError for a backend that this version has not, or that cannot run this attention.
        """
        from attndsl.runtime.dispatch import check_backend, source_of

        return source_of(self.simplified, check_backend(self.__name__, backend))

    def with_consts(self, **consts: object) -> AttentionFunction:
        """A copy with other values of these consts. Raises TypeError and ValueError for names and values that do not
        fit, SpecError for a failed `require`."""
        _check_decides(self._written, consts)
        made = AttentionFunction(self._written, {**self._consts, **consts})
        # now, so that the mistake is reported where it was made
        _ = made.attention
        return made

    def __reduce__(self) -> Any:
        """Copies and pickles hold what was written and the consts; kernels and plans are made again."""
        from attndsl.ir.printer import print_attention

        return _restored, (print_attention(self._written), self._consts, self.__doc__)

    def __repr__(self) -> str:
        def shown(const: Const) -> str:
            value = self._consts.get(const.name, const.default)
            return f"{const.name}={'?' if value is None else value}"

        consts = ", ".join(shown(c) for c in self._written.consts)
        takes = ", ".join(show_param(p) for p in self._written.params if not isinstance(p, Const))
        return f"<attention {self.__name__}({consts}){f' takes {takes}' if takes else ''}>"

    @property
    def __signature__(self) -> inspect.Signature:
        """q, k, v, then the attention's scalars and inputs, then the options of every call."""
        own = inspect.signature(AttentionFunction.__call__)
        options = [p for n, p in own.parameters.items() if n not in ("self", "arguments")]
        declared: list[inspect.Parameter] = []
        for s in self._written.scalars:
            default = inspect.Parameter.empty if s.default is None else s.default
            declared.append(
                inspect.Parameter(s.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=str(s.kind))
            )
        for i in self._written.inputs:
            shape = f"{i.dtype}[{', '.join(map(show_dim, i.shape))}]"
            declared.append(inspect.Parameter(i.name, inspect.Parameter.KEYWORD_ONLY, annotation=shape))
        return own.replace(parameters=[*options[:3], *declared, *options[3:]])


def load(spec: Any, name: str | None = None, **consts: object) -> AttentionFunction:
    """The attention of a file or a text, with its consts bound.

    `spec` is a path, or the text itself: a str with a newline or a `{` is text, any other str is a path. It may also
    be an attention made before (a rebound copy is returned), or a Python function as `attention` takes it.
    `name` picks one of several attentions. Raises SpecError with every finding for a wrong spec, MissingSpecError (a
    FileNotFoundError and a ValueError) for a path without a file, ValueError where `name` is needed or unknown,
    TypeError and ValueError for consts that do not fit.
    """
    if isinstance(spec, AttentionFunction):
        if name is not None and name != spec.__name__:
            raise ValueError(f"this is attention {spec.__name__!r}, not {name!r}")
        return spec.with_consts(**consts)
    written = _pick(_compile(spec), name, spec)
    made = AttentionFunction(written)
    return made.with_consts(**consts)


@overload
def attention(function: Callable[..., Any], /) -> AttentionFunction: ...
@overload
def attention(**consts: object) -> Callable[[Callable[..., Any]], AttentionFunction]: ...
def attention(function: Callable[..., Any] | None = None, /, **consts: object) -> Any:
    """Decorator: a Python function, read by its syntax tree and never executed, as an attention.

    `@attention` takes consts from their defaults, `@attention(window=512)` gives values to some. A const without
    a value is an error at the first use, not here. Raises SpecError with every finding for a wrong function.
    """

    def decorate(function: Callable[..., Any]) -> AttentionFunction:
        from attndsl.frontend.compile import compile_python

        if not inspect.isfunction(function):
            raise TypeError(f"attention decorates a Python function, got {type(function).__name__}")
        made = AttentionFunction(compile_python(function))
        if consts:
            made = made.with_consts(**consts)
        made.__module__ = function.__module__
        made.__doc__ = function.__doc__ or made.__doc__
        return made

    return decorate if function is None else decorate(function)


def _restored(printed: str, consts: Mapping[str, object], doc: str | None) -> AttentionFunction:
    from attndsl.ir.reader import read_attention

    made = AttentionFunction(read_attention(printed), consts)
    made.__doc__ = doc
    return made


def _compile(spec: Any) -> tuple[Attention, ...]:
    from attndsl.frontend.compile import compile_file, compile_python, compile_text

    if inspect.isfunction(spec):
        return (compile_python(spec),)
    if isinstance(spec, str) and ("\n" in spec or "{" in spec):
        return compile_text(spec)
    if not isinstance(spec, str | os.PathLike):
        raise TypeError(f"load takes a path or the text of a spec, got {type(spec).__name__}")
    if spec == "":
        raise ValueError("load takes a path or the text of a spec, got an empty string")
    path = Path(spec)  # pyright: ignore[reportUnknownArgumentType]
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; load takes one file")
        if not path.exists():
            raise MissingSpecError(_missing(path))
        return compile_file(path)
    except OSError as error:
        if isinstance(error, MissingSpecError):
            raise
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def _missing(path: Path) -> str:
    """What to say of a path without a file: what stands near it."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no file {str(path)!r}: there is no folder {str(folder)!r}"
    beside = sorted(p.name for p in folder.glob("*.attn"))
    hint = did_you_mean(path.name, beside)
    if not hint and path.suffix != ".attn":
        hint = did_you_mean(f"{path.name}.attn", beside)
    if not hint and beside:
        shown = ", ".join(beside[:8]) + (", ..." if len(beside) > 8 else "")
        hint = f"; {str(folder)!r} has {shown}"
    text = "" if path.suffix or hint else " (the text of a spec has a '{')"
    return f"there is no file {str(path)!r}{hint}{text}"


def _pick(found: tuple[Attention, ...], name: str | None, spec: object) -> Attention:
    shown = "the text" if isinstance(spec, str) and "{" in spec else str(spec)
    names = [a.name for a in found]
    if not names:
        raise ValueError(f"{shown} declares no attention")
    if name is None:
        if len(names) > 1:
            raise ValueError(f"{shown} declares {len(names)} attentions, pick one with name=: {', '.join(names)}")
        name = names[0]
    if name not in names:
        raise ValueError(f"{shown} has no attention {name!r}{did_you_mean(name, names)} (it has {', '.join(names)})")
    return found[names.index(name)]


def _check_decides(attention: Attention, consts: Mapping[str, object]) -> None:
    """TypeError for a const whose value was substituted before: a new one would change nothing."""
    from attndsl.ir.bind import expressions

    used = {
        n.name if isinstance(n, ParamRef) else n.tensor
        for e in expressions(attention)
        for n in walk(e)
        if isinstance(n, ParamRef | Load)
    }
    for const in attention.consts:
        if const.name in consts and const.name not in used:
            raise TypeError(f"{attention.name}: const {const.name!r} decides nothing here, a value cannot be given")
