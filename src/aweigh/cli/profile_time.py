"""`aweigh profile speed`, `machine` and `guidelines`: how long networks take here, and why."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from aweigh.cli.flags import SEVERAL, JsonFile
from aweigh.cli.tables import print_table
from aweigh.cli.terminal import bar, log, write_numbers
from aweigh.cli.terminal import output as screen
from aweigh.errors import UsageError, check_reach, counted

if TYPE_CHECKING:
    from aweigh.profiling.engines import Setting
    from aweigh.profiling.machine import Machine
    from aweigh.profiling.networks import Network
    from aweigh.profiling.sweep import Sweep
    from aweigh.profiling.timing import Profile

EngineName = Literal["eager", "compile", "onnx", "openvino"]
Format = Literal["float32", "bf16"]
Numbers = Annotated[tuple[int, ...], SEVERAL]
HtmlFile = Annotated[
    Path | None, Parameter(name="--html", help="Also write a page with tables and charts to this file.")
]


def speed(
    *models: str,
    size: Numbers = (416,),
    batch: Numbers = (1,),
    threads: Numbers = (0,),
    engine: Annotated[tuple[EngineName, ...], SEVERAL] = ("eager",),
    precision: Annotated[tuple[Format, ...], SEVERAL] = ("float32",),
    repeats: int = 15,
    json_file: JsonFile = None,
    html: HtmlFile = None,
) -> None:
    """Time networks on this machine, in turn: engines, number formats, batches, sizes, threads; and where time goes.

    The network alone is timed, on random pixels, without decoding and suppression: aweigh bench times whole predictions
    of detectors. An exported file is run whole. Of each network in torch the time of each kind of operator and of each
    part follows, beside the time at the roof: what the measured arithmetic and memory of this machine would need.

    Args:
        models: Detectors of aweigh models, checkpoints, box, networks of the ShuffleNet V2 paper, models of timm, or
            exported files (.onnx, .xml).
        size: Sides of the images in pixels.
        batch: Images that go through the network together.
        threads: Of the CPU; 0 takes as many as there are cores to use.
        engine: What computes: eager and compile are torch; onnx and openvino export the network first.
        precision: Number formats; onnx has float32 alone.
        repeats: How often each is timed.
    """
    if not models:
        raise UsageError("Name the networks to time: detectors, checkpoints, models of timm, exported files, or box.")
    for name, values in (("size", size), ("batch", batch), ("repeats", (repeats,)), ("threads", threads)):
        for value in values:
            if name != "threads" or value:  # 0 threads: as many as there are cores
                check_reach(name, value)
            if value < (name != "threads"):
                raise UsageError(f"{name} = {value}: expected a number above 0.")
    from itertools import product

    from aweigh.profiling.engines import Setting, engine_of, find
    from aweigh.profiling.sweep import sweep

    networks = {model: find(model) for model in models}
    for network, side in product(networks.values(), size):
        if network is not None:
            network.check_size(side)
    settings = [
        Setting(model, *((name, form) if networks[model] else (engine_of(model), "float32")), side, many, number)
        for model, name, form, side, many, number in product(models, engine, precision, size, batch, threads)
    ]
    with bar("measuring", repeats) as show:
        found = sweep(list(dict.fromkeys(settings)), networks, repeats=repeats, progress=show)
    show_sweep(found)
    first = Setting("", size=size[0], batch=batch[0], threads=threads[0])
    profiles = {model: _profiled(network, first) for model, network in networks.items() if network is not None}
    for model, profile in profiles.items():
        show_profile(model, profile, first)
    if json_file is not None:
        each = {model: profile.to_dict() for model, profile in profiles.items()}
        write_numbers(json_file, {**found.to_dict(), "profiles": each})
    if html is not None:
        from aweigh.profiling.report.html import speed_page

        _write(html, speed_page(found, profiles))


def machine(
    *models: str,
    size: int = 416,
    threads: Numbers = (1, 0),
    precision: Annotated[tuple[Format, ...], SEVERAL] = ("float32", "bf16"),
    most: int = 10,
    json_file: JsonFile = None,
    html: HtmlFile = None,
    output: Annotated[Path | None, Parameter(alias="-o", show_default=False)] = None,
) -> None:
    """Measure the roof of this machine: arithmetic of a large matrix product, values a second of a copy.

    Of each network that is named, the operators follow that lose most time above the roof, on one image.

    Args:
        models: Detectors of aweigh models, checkpoints, box, networks of the ShuffleNet V2 paper, or models of timm.
        size: Side of the image in pixels.
        threads: Numbers of threads; 0 takes as many as there are cores to use. Networks run with the first.
        precision: Number formats of the product; bf16 is left out where the processor does not have it.
        most: Operators that are shown; the file has all.
        output: A chart to write (.png, .pdf, .svg): the roof, and the operators of the network where one is named.
    """
    for name, value in (("size", size), ("most", most)):
        check_reach(name, value)
        if value < 1:
            raise UsageError(f"{name} = {value}: expected a number above 0.")
    if "float32" not in precision and (models or output or html):
        raise UsageError("Networks and charts are of float32: add it to --precision.")
    if output is not None and len(models) > 1:
        raise UsageError(f"--output draws one network, and {len(models)} are named; --html draws them all.")
    from aweigh.profiling.engines import Setting
    from aweigh.profiling.networks import find_network
    from aweigh.profiling.report.tables import machine_table
    from aweigh.profiling.timing import points, reached
    from aweigh.runtime.threads import usable_cores

    for value in filter(None, threads):
        check_reach("threads", value)
    numbers = dict.fromkeys(number or usable_cores() for number in threads)
    networks = {model: find_network(model) for model in models}
    for network in networks.values():
        network.check_size(size)
    found = [_machine(number, precision) for number in numbers]
    profiles = {
        model: _profiled(network, Setting(model, size=size, threads=found[0].threads), found[0])
        for model, network in networks.items()
    }
    screen().print(
        "The fastest matrix product, a multiply-add counted as two, and copies by the bytes they touch.", soft_wrap=True
    )
    print_table(screen(), *machine_table(found))
    for each in found:
        screen().print(f"{counted(each.threads, 'thread')}: {each.noise}", soft_wrap=True)
    for model, profile in profiles.items():
        show_reached(model, profile, most)
    if json_file is not None:
        rows = {model: [row.to_dict() for row in reached(profile)] for model, profile in profiles.items()}
        write_numbers(json_file, {"machines": [each.to_dict() for each in found], "size": size, "operators": rows})
    if output is not None:
        from aweigh.profiling.report.html import roof_chart

        drawn = next((points(profile) for profile in profiles.values()), {})
        log().print(f"Chart: {roof_chart(found[0], drawn, output)}")
    if html is not None:
        from aweigh.profiling.report.html import machine_page

        _write(html, machine_page(found, profiles))


def guidelines(
    *,
    only: Annotated[tuple[Literal["G1", "G2", "G3", "G4", "figure-1"], ...], SEVERAL] = (),
    engine: Literal["eager", "onnx", "openvino"] = "eager",
    threads: int = 1,
    repeats: int = 9,
    json_file: JsonFile = None,
    html: HtmlFile = None,
    output: Annotated[Path | None, Parameter(alias="-o", show_default=False)] = None,
) -> None:
    """Run the experiments of the ShuffleNet V2 paper on this machine: what costs time beside FLOPs.

    Tables 1 to 4 and figure 1, as ratios to the first row, beside the paper's phone (ARM) and GPU.

    Args:
        only: Some of the experiments; all when not given.
        engine: What computes: torch itself, or onnxruntime or OpenVINO, which fuse operators.
        threads: Of the CPU; the paper's phone had one.
        repeats: How often each network is timed.
        output: A chart to write (.png, .pdf, .svg).
    """
    for name, value in (("threads", threads), ("repeats", repeats)):
        check_reach(name, value)
        if value < 1:
            raise UsageError(f"{name} = {value}: expected a number above 0.")
    from aweigh.profiling.guidelines import EXPERIMENTS, measure_guidelines
    from aweigh.profiling.guidelines import Name as Experiment
    from aweigh.profiling.report.tables import guideline_table

    names: list[Experiment] = [name for name in EXPERIMENTS if not only or name.replace(" ", "-") in only]
    with bar("measuring", repeats) as show:
        found, noise = measure_guidelines(names, engine=engine, threads=threads, repeats=repeats, progress=show)
    for each in found:
        log().print(f"\n{each.experiment.title}")
        print_table(screen(), *guideline_table(each))
        log().print(str(each), soft_wrap=True)
    log().print(str(noise), soft_wrap=True)
    if json_file is not None:
        numbers = [each.to_dict() for each in found]
        write_numbers(json_file, {"engine": engine, "threads": threads, "experiments": numbers, "noise": vars(noise)})
    if output is not None:
        from aweigh.profiling.report.html import guidelines_chart

        log().print(f"Chart: {guidelines_chart(found, output)}")
    if html is not None:
        from aweigh.profiling.report.html import guidelines_page

        _write(html, guidelines_page(found, engine, threads, noise))


def advice(
    model: str,
    /,
    *,
    size: int = 416,
    batch: int = 1,
    threads: int = 1,
    repeats: int = 9,
    most: int = 20,
    json_file: JsonFile = None,
    html: HtmlFile = None,
) -> None:
    """Which parts of a network break a guideline of ShuffleNet V2, and what each costs on this machine.

    Each part is timed beside a form of equal multiply-adds that obeys, in turn. G1: 1x1 convolutions of unequal widths,
    G2: groups, G3: fragments, G4: element-wise work. Normalisations are folded first, as they are for prediction. The
    forms compute something else: a network that takes them has to be trained.

    Args:
        model: A detector of aweigh models, a checkpoint, box, a network of the ShuffleNet V2 paper, or a model of timm.
        size: Side of the images in pixels.
        batch: Images that go through the network together.
        threads: Of the CPU. The time of one is its own, which other programs do not disturb.
        repeats: How often each part is timed.
        most: Rows that are shown; the file and the page have all.
    """
    for name, value in (("size", size), ("batch", batch), ("threads", threads), ("repeats", repeats), ("most", most)):
        check_reach(name, value)
        if value < 1:
            raise UsageError(f"{name} = {value}: expected a number above 0.")
    import torch

    from aweigh.profiling.advice import advise
    from aweigh.profiling.machine import clock_of
    from aweigh.profiling.networks import find_network
    from aweigh.profiling.report.tables import CLEAN, advice_table

    network = find_network(model)
    network.check_size(size)
    torch.set_num_threads(threads)
    images = torch.rand(batch, 3, size, size)
    with bar("measuring", repeats) as show:
        found = advise(network.module, images, run=network.run, repeats=repeats, progress=show, clock=clock_of(threads))
    screen().print(f"{model}, {size} x {size}, batch {batch}: {found.whole * 1000:.2f} ms", soft_wrap=True)
    titles, rows = advice_table(found)
    if rows:
        print_table(screen(), titles, rows[:most], left=(0, 6, 7, 8))
        if len(rows) > most:
            screen().print(f"And {counted(len(rows) - most, 'row')} more that cost less (--most).")
    else:
        screen().print(CLEAN)
    if threads > 1:
        screen().print(str(found.noise), soft_wrap=True)
    if json_file is not None:
        write_numbers(json_file, {"model": model, "size": size, "batch": batch, "threads": threads, **found.to_dict()})
    if html is not None:
        from aweigh.profiling.report.html import advice_page

        _write(html, advice_page(model, found))


def show_sweep(found: "Sweep") -> None:
    """A row for each setting."""
    from aweigh.profiling.report.tables import sweep_table

    print_table(screen(), *sweep_table(found), left=(0, 1, 2))
    for setting, why in found.left_out:
        screen().print(f"Left out: {setting.model}, {setting.engine}, {setting.format}: {why}", soft_wrap=True)
    screen().print(str(found.noise), soft_wrap=True)


def show_profile(model: str, profile: "Profile", setting: "Setting") -> None:
    """Where the time goes: by kind of operator, and by part."""
    from aweigh.profiling.report.tables import parts_of, share_table, whole

    where = f"{setting.size} x {setting.size}, batch {setting.batch}, {counted(setting.cores, 'thread')}"
    screen().print(f"\n{model}, eager, float32, {where}: {whole(profile)}", soft_wrap=True)
    print_table(screen(), *share_table("operator", profile.by_kind()))
    screen().print()
    print_table(screen(), *share_table("part", parts_of(profile)))


def show_reached(model: str, profile: "Profile", most: int) -> None:
    """The operators that lose most time above the roof."""
    from aweigh.profiling.report.tables import reached_table, whole
    from aweigh.profiling.timing import reached

    screen().print(f"\n{model}: {whole(profile)}", soft_wrap=True)
    titles, rows = reached_table(reached(profile))
    print_table(screen(), titles, rows[:most], left=(4, 8, 9, 10))
    if len(rows) > most:
        screen().print(f"And {counted(len(rows) - most, 'row')} more that lose less (--most).")
    screen().print(str(profile.noise), soft_wrap=True)


def _profiled(network: "Network", setting: "Setting", machine: "Machine | None" = None) -> "Profile":
    """Of a network in torch, at the first of the sizes, batches and threads. machine: measured now where not given."""
    import torch

    from aweigh.profiling.machine import measure_machine
    from aweigh.profiling.timing import profile

    torch.set_num_threads(setting.cores)
    images = torch.rand(setting.batch, 3, setting.size, setting.size)
    return profile(network.module, images, run=network.run, machine=machine or measure_machine(setting.cores))


def _machine(threads: int, formats: Sequence["Format"]) -> "Machine":
    import torch

    from aweigh.inference.device import has_bf16
    from aweigh.profiling.machine import measure_machine

    there = [form for form in formats if form != "bf16" or has_bf16(torch.device("cpu"))]
    return measure_machine(threads, formats=there or ["float32"])


def _write(file: Path, page: str) -> None:
    from aweigh.files import write_text

    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, page)
    log().print(f"Page: {file}")
