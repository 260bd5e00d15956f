"""`aweigh debug`: compute a training step that failed again, on the CPU, and say where and why it failed."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aweigh.errors import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from aweigh.structures import Targets
    from aweigh.training.debug.crash import Bundle
    from aweigh.training.debug.replay import Blame, Examination

GROWN = 1e3  # a weight beyond this is no longer what training usually makes; ours
LARGEST_FLOAT16 = 65504.0


def command(crash: str, /) -> None:
    """Compute a training step that failed again, on the CPU, and say where and why it failed.

    Needs nothing but the folder. Also writes batch.png into it: the images of the step with their boxes.

    Args:
        crash: The folder that training kept the step in, such as runs/shapes/crash-000123.
    """
    from aweigh.lock import hold
    from aweigh.training.debug.crash import read_bundle

    bundle = read_bundle(crash)
    with hold(bundle.folder) as remark:
        if remark:
            print(remark)
        replay(bundle)


def replay(bundle: "Bundle") -> None:
    """Compute the step of a bundle again, say what is found, and draw its images."""
    import torch

    from aweigh.files import atomic_file

    print(*header(bundle), sep="\n")
    exact = bundle.examine()
    print(f"\non the CPU in float32: {outcome(exact)}", *found(exact), sep="\n")
    again = exact
    if bundle.record["precision"] == "bfloat16":
        again = bundle.examine(bundle.precision)
        print(f"\non the CPU in bfloat16, as in the run: {outcome(again)}")
        if again.failed and not exact.failed:
            print(*found(again), sep="\n")
    failing = exact if exact.failed else again
    blamed = (
        bundle.blame(failing.batch, torch.float32 if exact.failed else bundle.precision) if failing.failed else None
    )
    if blamed is not None:
        print("", *images(bundle, failing.batch, blamed), sep="\n")
    print("\nwhat to try:", *(f"  {line}" for line in advice(bundle, exact, again, blamed)), sep="\n")
    picture = bundle.folder / "batch.png"
    with atomic_file(picture) as path:
        drawn(bundle, failing.batch, blamed).save(path)
    print(f"\nimage: {picture}")


def header(bundle: "Bundle") -> Iterator[str]:
    """What the run said: the step, its losses, its images."""
    record = bundle.record
    clip = record["config"].get("clip", 0)
    yield f"{bundle.folder}: step {record['step']}, in epoch {record['epoch']}"
    yield f"  {record['reason']}"
    yield (
        f"  in the run: {_numbers(record['losses'])}, gradient norm {record['gradient_norm']:g}; lr {record['lr']:g}, "
        f"{f'clip {clip:g}' if clip else 'no clip'}, {record['device']}, {record['precision']}"
    )
    for number, (batch, entry) in enumerate(zip(bundle.batches, record["batches"], strict=True)):
        height, width = batch.images.pixels.shape[-2:]
        which = f"batch {number + 1} of {len(bundle.batches)}" if len(bundle.batches) > 1 else "batch"
        yield f"  {which}: {counted(len(batch), 'image')} in {width} x {height} pixels"
        for image, (rows, told) in enumerate(zip(batch.targets, entry["images"], strict=True)):
            high, wide = batch.images.sizes_hw[image]
            dark, light = told["pixels"]
            strange = "" if 0 <= float(dark) <= float(light) <= 1 else f", pixels from {dark} to {light}"
            objects = counted(len(rows), "object")
            yield f"    image {told['id']}: {wide} x {high}, {objects}{strange}  {told['file']}"


def outcome(examination: "Examination") -> str:
    """What the step came to, in a few words."""
    if examination.error:
        return f"fails: {examination.error}"
    numbers = f"{_numbers(examination.losses)}, gradient norm {examination.gradient_norm:g}"
    return f"fails: {numbers}" if examination.failed else f"all is finite: {numbers}"


def found(examination: "Examination") -> Iterator[str]:
    """Where the numbers went bad, from the weights to the levels."""
    bad, (name, value) = examination.bad_weights, examination.largest_weight
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        yield f"  weights before the step: not finite in {', '.join(bad[:5])}{more}"
    else:
        yield f"  weights before the step: finite; the largest is {value:.3g}, in {name}"
    yield f"  largest output of a module: {examination.largest_output[1]:.3g}, of {examination.largest_output[0]}"
    module = examination.module
    if module is not None:
        before = "finite" if module.inputs_finite else "not finite: the images, or what is computed between modules"
        own = "finite" if module.weights_finite else "not finite"
        yield f"  first bad module: {module.name} ({module.kind}): inputs {before}; its weights {own}"
        yield f"    {module.bad_share:.3g} of its output is not finite"
    elif examination.failed and not examination.error:
        yield "  first bad module: none, the network's outputs are finite; it begins in the loss or going backwards"
    if examination.operation:
        yield f"  first bad operation: {examination.operation}"
    if examination.bad_gradient:
        yield f"  first bad gradient, going backwards: {examination.bad_gradient}"
    if examination.gradient_operation:
        yield f"    which begins with that of {examination.gradient_operation}"
    yield from _levels(examination)


def images(bundle: "Bundle", number: int, blamed: "Blame") -> Iterator[str]:
    """Which images fail, and which annotations in them."""
    batch, told = bundle.batches[number], bundle.record["batches"][number]["images"]
    names = [f"image {entry['id']}" for entry in told]
    if not blamed.images:
        alone = ", ".join(names[image] for image in blamed.by_themselves or ())
        yield f"failing: {f'the network itself, on {alone}' if alone else 'no image by its own part of the loss'}"
        return
    which = ", ".join(names[image] for image in blamed.images)
    yield f"failing: {which}{', all of the batch' if len(blamed.images) == len(batch) > 1 else ''}"
    if blamed.by_themselves is not None:
        yield f"  also when the network sees it alone: {', '.join(names[i] for i in blamed.by_themselves) or 'none'}"
    if not any(blamed.annotations.values()):
        yield "  whatever the annotations are: it fails without any too, or the network has put out what is not finite"
    for image, rows in blamed.annotations.items():
        for row in rows[:8]:
            yield f"  {names[image]}: {_annotation(bundle, batch.targets[image], row)}"
        if len(rows) > 8:
            yield f"  {names[image]}: and {counted(len(rows) - 8, 'annotation')} more"


def advice(bundle: "Bundle", exact: "Examination", again: "Examination", blamed: "Blame | None") -> Iterator[str]:
    """What would keep the step from failing, the likeliest first."""
    config, precision = bundle.record["config"], bundle.record["precision"]
    lr = f"a lower lr (now {config.get('lr', bundle.record['lr']):g})"
    clip = config.get("clip", 0)
    clipping = f"a smaller clip (now {clip:g})" if clip else "clip = 10"
    if exact.error:
        yield "Mend what the message says; it is not a matter of learning rate or number format."
    if exact.bad_weights:
        yield f"The weights were lost before this step, by an earlier update: {lr}, {clipping}, a longer warmup."
        yield "Start again from a checkpoint of before; this one cannot be mended."
    elif exact.largest_weight[1] > GROWN and exact.failed:
        yield f"The weights have grown to {exact.largest_weight[1]:.3g}: {lr}, {clipping}, a longer warmup."
    rows = sum(map(len, blamed.annotations.values())) if blamed is not None else 0
    if rows and rows == sum(map(len, bundle.batches[(exact if exact.failed else again).batch].targets)):
        yield "Every single object fails, so it is no annotation but the operation named above."
    elif rows:
        yield "Look at the annotations named above in batch.png, and at all of them with: aweigh data check DATA"
    elif exact.failed and not exact.bad_weights and not exact.error and exact.largest_weight[1] <= GROWN:
        yield f"{lr[0].upper()}{lr[1:]} or {clipping}; if it fails in the first steps, a longer warmup."
    if not exact.failed and again.failed:
        yield 'It fails in bfloat16 alone: precision = "float32", or a lower lr so that the numbers stay smaller.'
    elif not exact.failed:
        largest = exact.largest_output[1]
        if precision == "float16" and largest > LARGEST_FLOAT16:
            yield f'An output of {largest:.3g} is more than float16 can hold (65,504): precision = "bf16" or "float32".'
        elif precision != "float32":
            device = bundle.record["device"]
            yield f'It fails on {device} in {precision} alone, likely by overflow: precision = "float32".'
        elif not math.isfinite(bundle.record["gradient_norm"]) or bundle.record["losses"]:
            yield "It fails on that device alone, or with the gradients of the other processes: train a step with"
            yield "--device cpu; if it is fine there, report the device, its driver and the versions in crash.json."


def drawn(bundle: "Bundle", number: int, blamed: "Blame | None") -> "Image":
    """The images of a batch with their boxes, the failing ones marked below."""
    from aweigh.visualise.pictures import draw_objects
    from aweigh.visualise.sheet import grid

    batch, told = bundle.batches[number], bundle.record["batches"][number]["images"]
    bad = set((blamed.images or blamed.by_themselves or ()) if blamed is not None else ())
    pictures, captions = [], []
    for image, targets in enumerate(batch.targets):
        height, width = batch.images.sizes_hw[image]
        pixels = batch.images.pixels[image, :, :height, :width].nan_to_num().clamp(0, 1)
        known = bool((targets.labels < len(bundle.model.classes)).all())
        pictures.append(draw_objects(pixels, targets.arrays(), bundle.model.classes if known else None))
        captions.append(f"image {told[image]['id']}{', fails' if image in bad else ''}")
    return grid(pictures, captions=captions)


def _levels(examination: "Examination") -> Iterator[str]:
    """One row for each level: its losses alone, the range of each output, whether outputs and gradients are finite."""
    if not examination.levels:
        return
    yield "  levels (losses of each alone; lowest and highest output; finite share where not all is):"
    for level in examination.levels:
        parts = [f"loss {_numbers(level.losses)}"] if level.losses else []
        for name, (low, high, share) in level.raw.items():
            reach = f"{low:.3g} to {high:.3g}" if share else "nothing finite"
            parts.append(f"{name} {reach}" + (f", {share:.1%} finite" if 0 < share < 1 else ""))
        bad = [name for name, (_, _, share) in level.gradients.items() if share < 1]
        parts += [f"gradient of {', '.join(bad)} not finite"] if bad else []
        yield f"    {level.name}: {'; '.join(parts)}"


def _annotation(bundle: "Bundle", targets: "Targets", row: int) -> str:
    names, label = bundle.model.classes.names, int(targets.labels[row])
    kind = names[label] if 0 <= label < len(names) else f"label {label}, which the model does not know"
    box = ", ".join(f"{value:.6g}" for value in targets.boxes[row].tolist())
    return f"annotation {int(targets.ids[row])} ({kind}, box {box})"


def _numbers(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in losses.items()) or "no loss"
