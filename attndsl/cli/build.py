"""`attndsl build`: the kernels of a spec as files, compiled for a GPU that need not be there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli.options import did_you_mean, parse_grid, parse_settings, parse_shape
from attndsl.cli.output import OK, CallError, plural, print_json, progress

if TYPE_CHECKING:
    from attndsl.cli.setup import Setup
    from attndsl.runtime.triton.cross import Compiled
    from attndsl.runtime.triton.lowering import Lowered
    from attndsl.runtime.triton.standalone_lowering import Lowering
    from attndsl.schedule.plan import Plan

TARGETS = {"sm_80": 80, "sm_86": 86, "sm_89": 89, "sm_90": 90, "sm_100": 100, "sm_120": 120}


def build(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The .attn file; - is standard input.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")],
    target: Annotated[str, typer.Option(help=f"The GPU: {', '.join(TARGETS)}.")] = "sm_90",
    backend: Annotated[str, typer.Option(help="Which backend's kernels: triton.")] = "triton",
    shape: Annotated[str | None, typer.Option(help="Sizes, such as B=1,H=8,L=4096,D=64.")] = None,
    grid: Annotated[str | None, typer.Option(help="Grid extents, such as 8x24x40.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A const or scalar: window=3,9,9.")] = None,
    name: Annotated[str | None, typer.Option(help="Which attention of the file.")] = None,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    forward: Annotated[bool, typer.Option("--forward", help="Leave the backward pass out.")] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Gradients of inputs that no order of programs changes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> int:
    """Compile an attention for a GPU: sources, PTX, cubin, the plan, and a module that runs by itself."""
    from attndsl.cli.folder import check_folder, write_folder
    from attndsl.cli.run import DTYPES

    if dtype not in DTYPES:
        raise CallError(f"--dtype: there is no {dtype!r}{did_you_mean(dtype, DTYPES)}; it is bf16, fp16 or fp32")
    if target not in TARGETS:
        raise CallError(f"--target: there is no {target!r}{did_you_mean(target, TARGETS)}; it is {', '.join(TARGETS)}")
    if backend != "triton":
        hint = did_you_mean(backend, ["triton"])
        raise CallError(f"--backend: kernels of {backend!r} cannot be built{hint}; it is triton")
    given = parse_shape(shape), parse_grid(grid), parse_settings(settings or [])
    check_folder(Path(output))

    from attndsl.cli.planning import check
    from attndsl.cli.setup import prepare
    from attndsl.cli.specs import pick

    setup = prepare(pick(file, name), *given)
    check(setup)
    if not all(map(find_spec, ("torch", "triton"))):
        raise CallError("build needs torch and triton: pip install 'attndsl[triton]'")
    files, manifest = built(setup, DTYPES[dtype], target, backward=not forward, deterministic=deterministic)
    write_folder(Path(output), files, manifest)
    if as_json:
        print_json(manifest)
    else:
        _print(output, setup, manifest)
    return OK


def built(
    setup: Setup, dtype: Any, target: str, *, backward: bool, deterministic: bool = False
) -> tuple[dict[str, str | bytes], dict[str, Any]]:
    """The files of a build and its manifest. CallError names what the backend cannot do; KernelError is a kernel that
    does not compile."""
    from attndsl.cli.build_scan import built_scan
    from attndsl.cli.explain import written
    from attndsl.cli.report import plan_data
    from attndsl.ir.simplify import simplify
    from attndsl.runtime.triton.standalone import call_name, parts, standalone
    from attndsl.runtime.triton.standalone_lowering import lower_module
    from attndsl.runtime.triton.standalone_scan import ScanLowering, lower_scan_module

    simplified, problem = simplify(setup.attention), setup.problem()
    scan = lower_scan_module(
        simplified, setup.attention, problem, dtype, capability=TARGETS[target], backward=backward
    )  # fmt: skip
    if isinstance(scan, ScanLowering):
        return built_scan(setup, scan, target)
    try:
        with progress("planning"):
            lowering = lower_module(
                simplified, setup.attention, problem, dtype, capability=TARGETS[target],
                backward=backward, deterministic=deterministic,
            )  # fmt: skip
    except ValueError as error:
        raise CallError(f"{error} (as a scan: {scan})" if _scans(setup) else str(error)) from error
    lowering, files, kernels = _kernels(lowering, target)
    module = f"{call_name(setup.attention.name)}.py"
    files[module] = standalone(lowering, written(setup.attention))
    for part, text in parts(lowering).items():
        files[f"parts/{part}/{part}.py"] = text
    route = f"tiles of pairs, for a module does not scan {scan}" if _scans(setup) else "tiles of pairs"
    if lowering.stages:
        route += ", after sums over rows"
    if any(it.located is not None for it in lowering.launches):
        route += ", in boxes that the device finds"
    files["plan.txt"] = _plan_text(setup, lowering.plan, kernels, route)
    facts = {"plan": plan_data(lowering.plan), "module": module, "route": route, "kernels": kernels}
    return files, manifest_of(setup, dtype, target) | facts


def _scans(setup: Setup) -> bool:
    """Whether calls run as scans."""
    from attndsl.ir.simplify import simplify
    from attndsl.schedule.legalise import legalise

    return legalise(simplify(setup.attention), setup.problem()).form is not None


def _kernels(lowering: Lowering, target: str) -> tuple[Lowering, dict[str, str | bytes], list[dict[str, Any]]]:
    """A lowering as it compiles, the files of its kernels and tables, those of its parts in folders of their own, and
    what the manifest says of the kernels."""
    from dataclasses import replace

    from attndsl.cli.build_scan import entries
    from attndsl.runtime.triton.standalone import tables_of
    from attndsl.runtime.triton.standalone_boxes import box_launches
    from attndsl.runtime.triton.standalone_scan import compile_scans

    wholes = {"": lowering, **lowering.parts}
    launches = tuple(it for own in wholes.values() for it in own.launches)
    found, compiled = _compiled(launches)
    made = {id(old): (new, code) for old, new, code in zip(launches, found, compiled, strict=True)}
    files: dict[str, str | bytes] = {}
    kernels: list[dict[str, Any]] = []
    fitted: dict[str, Lowering] = {}
    for part, own in wholes.items():
        folder = f"parts/{part}/" if part else ""
        pairs = [made[id(it)] for it in own.launches]
        for it, code in pairs:
            paths = {
                "source": f"{folder}kernels/{it.name}.py", "ptx": f"{folder}ptx/{it.name}.{target}.ptx",
                "cubin": f"{folder}cubin/{it.name}.{target}.cubin",
            }  # fmt: skip
            files |= {paths["source"]: it.module.source, paths["ptx"]: code.ptx, paths["cubin"]: code.cubin}
            kernels.append(_kernel(it, code, target, part) | paths)
        boxes = box_launches([it for it, _ in pairs])
        more, listed = entries(compile_scans(boxes), target, folder)
        files |= more | {f"{folder}kernels/{it.home}.py": it.module.source for it in boxes}
        kernels += listed
        files[f"{folder}tables.json"] = _tables(tables_of([it for it, _ in pairs]))
        fitted[part] = own.replaced({id(it): made[id(it)][0] for it in own.launches})
    stages = tuple(
        replace(it, sums=fitted[f"sums{i}"], gradients=fitted.get(f"gradients{i}"))
        for i, it in enumerate(lowering.stages)
    )
    return replace(fitted[""], stages=stages), files, kernels


def _compiled(found: tuple[Lowered, ...]) -> tuple[list[Lowered], list[Compiled]]:
    """Every kernel compiled, in processes of their own where there are several."""
    from attndsl.runtime.triton.lowering import compile_all

    with progress(f"compiling {plural(len(found), 'kernel')}") as say:
        pairs = compile_all(found, lambda done: say(f"compiled {done} of {plural(len(found), 'kernel')}"))
    return [it for it, _ in pairs], [code for _, code in pairs]


def _kernel(it: Lowered, code: Compiled, target: str, part: str) -> dict[str, Any]:
    return {
        "name": f"{part}/{it.name}" if part else it.name,
        "pass": it.step,
        "target": target,
        "tile": list(it.tile),
        "warps": it.config.warps,
        "stages": it.stages,
        "registers": code.registers,
        "spills": code.spills,
        "shared": code.shared,
    }


def _tables(tables: dict[str, dict[str, Any]]) -> str:
    import json

    return json.dumps(tables, separators=(",", ":")) + "\n"


def manifest_of(setup: Setup, dtype: str, target: str) -> dict[str, Any]:
    """What the manifests of all builds say."""
    from importlib.metadata import version

    from attndsl.cli.report import call_data

    return {
        "attndsl": version("attndsl"),
        "triton": version("triton"),
        "attention": setup.attention.name,
        "backend": "triton",
        "target": target,
        "dtype": dtype,
        "call": call_data(setup),
    }


def _plan_text(setup: Setup, plan: Plan, kernels: list[dict[str, Any]], route: str) -> str:
    from attndsl.cli.dump import plan_text
    from attndsl.cli.explain import written
    from attndsl.cli.report import bounds_line, plan_line, settings_line, tiles_line

    lines = [f"{setup.attention.name}  {setup.describe()}"]
    lines += [f"set     {line}" for line in (settings_line(setup),) if line]
    lines += ["", *(f"    {line}" for line in written(setup.attention)), ""]
    lines.append(f"runs    {route}")
    lines += [f"plan    {plan_line(plan)}", f"tiles   {tiles_line(plan)}", f"bounds  {bounds_line(plan)}"]
    lines += [f"ranges  {text}" for text in plan.closed_form]
    lines += [f"because {text}" for text in plan.reasons]
    lines += ["", *map(kernel_line, kernels), "", plan_text(plan)]
    return "\n".join(lines) + "\n"


def kernel_line(kernel: dict[str, Any]) -> str:
    """A kernel and what it takes."""
    tile = "x".join(map(str, kernel["tile"]))
    return (
        f"kernel  {kernel['name']}: tile {tile}, {kernel['warps']} warps, {kernel['stages']} stages; "
        f"{kernel['registers']} registers, {kernel['spills']} bytes spilled, {kernel['shared']:,} bytes shared"
    )


def _print(output: str, setup: Setup, manifest: dict[str, Any]) -> None:
    print(f"{setup.attention.name}  {setup.describe()}  {manifest['dtype']}  {manifest['target']}")
    for kernel in manifest["kernels"]:
        print(kernel_line(kernel))
    print(f"runs    {manifest['route']}")
    print(f"wrote   {output}: {manifest['module']} runs by itself; kernels, ptx, cubin, plan.txt, manifest.json")
