"""The files of a build whose attention runs as a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attndsl.cli.output import plural, progress

if TYPE_CHECKING:
    from attndsl.cli.setup import Setup
    from attndsl.runtime.triton.cross import Compiled
    from attndsl.runtime.triton.standalone_boxes import BoxLaunch
    from attndsl.runtime.triton.standalone_scan import ScanLaunch, ScanLowering


def built_scan(setup: Setup, lowering: ScanLowering, target: str) -> tuple[dict[str, str | bytes], dict[str, Any]]:
    """The files and the manifest. KernelError is a kernel that does not compile."""
    from attndsl.cli.build import manifest_of
    from attndsl.cli.explain import written
    from attndsl.runtime.triton.standalone import call_name
    from attndsl.runtime.triton.standalone_scan import compile_scans, scan_standalone
    from attndsl.schedule.legalise import legalise
    from attndsl.schedule.scan_report import scan_report

    launches = lowering.launches
    count = plural(len(launches), "kernel")
    with progress(f"compiling {count}") as say:
        compiled = compile_scans(launches, lambda done: say(f"compiled {done} of {count}"))
    for old, (new, _) in zip(launches, compiled, strict=True):
        if old.stages != new.stages:
            lowering = lowering.fitted(old, new.stages)
    files, kernels = entries(compiled, target)
    files |= {f"kernels/{f.name}.py": f.module.source for f in lowering.files}
    module = f"{call_name(setup.attention.name)}.py"
    files[module] = scan_standalone(lowering, written(setup.attention))
    route = str(legalise(lowering.attention, lowering.problem))
    report = scan_report(lowering.attention, lowering.problem)
    lines = {} if report is None else dict(report.lines)
    files["plan.txt"] = _plan_text(setup, kernels, lines)
    facts = {"scan": lines, "module": module, "route": route, "kernels": kernels}
    return files, manifest_of(setup, lowering.dtype, target) | facts


def entries(
    compiled: Sequence[tuple[ScanLaunch | BoxLaunch, Compiled]], target: str, folder: str = ""
) -> tuple[dict[str, str | bytes], list[dict[str, Any]]]:
    """What was compiled, as files in a folder, and as a manifest lists it."""
    files: dict[str, str | bytes] = {}
    kernels: list[dict[str, Any]] = []
    for it, code in compiled:
        paths = {"ptx": f"{folder}ptx/{it.name}.{target}.ptx", "cubin": f"{folder}cubin/{it.name}.{target}.cubin"}
        files |= {paths["ptx"]: code.ptx, paths["cubin"]: code.cubin}
        kernels.append(_kernel(it, code, target) | {"source": f"{folder}kernels/{it.home}.py"} | paths)
    return files, kernels


def _kernel(it: ScanLaunch | BoxLaunch, code: Compiled, target: str) -> dict[str, Any]:
    return {
        "name": it.name,
        "pass": it.home,
        "target": target,
        "tile": list(it.tile),
        "warps": it.warps,
        "stages": it.stages,
        "registers": code.registers,
        "spills": code.spills,
        "shared": code.shared,
    }


def _plan_text(setup: Setup, kernels: list[dict[str, Any]], report: dict[str, str]) -> str:
    from attndsl.cli.build import kernel_line
    from attndsl.cli.explain import written
    from attndsl.cli.report import settings_line

    lines = [f"{setup.attention.name}  {setup.describe()}"]
    lines += [f"set     {line}" for line in (settings_line(setup),) if line]
    lines += ["", *(f"    {line}" for line in written(setup.attention)), ""]
    lines += [f"{name:<8} {text}" for name, text in report.items()]
    lines += ["", *map(kernel_line, kernels)]
    return "\n".join(lines) + "\n"
