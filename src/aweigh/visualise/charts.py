"""Charts as files: training curves, precision over recall, the confusion matrix, feature reuse.

Each is drawn on a figure of its own (no pyplot), so a program's other figures and settings stay as they are. The ending
of the path says the format (.png, .pdf, .svg).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aweigh.errors import UsageError, counted, escaped, said_if_missing
from aweigh.visualise.colours import PALETTE

if TYPE_CHECKING:
    from aweigh.evaluation.errors import PrecisionRecall

Points = Mapping[float, float]  # position -> value
RatioPanel = tuple[str, Sequence[str], Mapping[str, np.ndarray]]  # title, rows, ratios [R, C] by whose they are
CENTERNESS_NOTE = """centerness cannot reach 0: its targets lie between 0 and 1,
and the best it can come to is their entropy, near 0.6"""
MAIN = ("AP", "mAP", "mask_AP", "keypoint_AP")
MANY = 10  # classes; of more, so many of the best and of the worst are named
NUMBERED = 40  # a matrix of up to so many classes has its numbers written in
WORST = 20  # classes that are listed beside a larger matrix
GREY, BLUE, ORANGE, RED, BLACK = "#b4bac4", "#2f7fd6", "#ee7a1a", "#c0392b", "#16181d"


def curves(rows: Iterable[Mapping[str, Any]], path: str | Path) -> Path:
    """Write an image of a training log: the losses, then validation's metrics, then the learning rate.

    rows: one mapping per line of the log, with `epoch` (or `step`) and numbers. Nested mappings are read as
    `outer/inner`. A number whose name holds `loss` is a loss, dashed if the name begins with `val`; one whose last
    part begins with AP or mAP is a metric, and so is the AP of masks and of keypoints; `lr` is the learning rate; the
    rest is left out. Several rows of the same epoch are averaged. Where there are rows of the kind `step`, all is
    drawn over steps, their losses thin and pale.
    """
    rows = list(rows)
    steps = _series([row for row in rows if row.get("kind") == "step"], "step")
    epochs = _series([row for row in rows if row.get("kind") != "step"], "step" if steps else "epoch")
    losses = {name: values for name, values in epochs.items() if "loss" in name.casefold()}
    losses = losses or {name: values for name, values in steps.items() if "loss" in name.casefold()}
    metrics = {
        name: values
        for name, values in epochs.items()
        if name not in losses and (name in MAIN or name.rsplit("/", 1)[-1].startswith(("AP", "mAP")))
    }
    if not losses and not metrics:
        raise UsageError("curves: the log has neither a loss nor an AP to draw (rows need `epoch` and numbers).")
    rates = {"lr": steps.get("lr") or epochs.get("lr", {})}
    panels = [("Loss", losses), ("Validation", metrics), ("Learning rate", rates if len(rates["lr"]) > 1 else {})]
    panels = [(title, group) for title, group in panels if group]
    figure, places = _figure(len(panels), (6.4, 4.2))
    for axes, (title, group) in zip(places, panels):
        colours: dict[str, Any] = {}  # a loss has the same colour in training and in validation
        for name, points in group.items():
            own, dashed = name.removeprefix("val").lstrip("_/"), title == "Loss" and name.startswith("val")
            colour = colours.setdefault(own, _colour(len(colours)))
            if title == "Loss" and not dashed and name in steps and points is not steps[name]:
                axes.plot(list(steps[name]), list(steps[name].values()), color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(
                list(points),
                list(points.values()),
                label=name,
                color=colour,
                linewidth=2.4 if own in ("loss", "lr", *MAIN) else 1.5,
                linestyle="--" if dashed else "-",
                marker="o" if len(points) <= 40 and not dashed else "",
                markersize=3,
            )
        _finish(axes, title, _position_label(rows, bool(steps)))
        axes.set_xlim(_limits(rows, bool(steps)))
        axes.set_ylim(bottom=0, top=_top(group) if title == "Loss" else None)
        if len(group) > 1:
            axes.legend(fontsize=8.5, framealpha=0.6, edgecolor="none", ncols=1 + len(group) // 7)
        if any("centerness" in name for name in group):
            axes.annotate(
                CENTERNESS_NOTE, (0, -0.19), xycoords="axes fraction", va="top", fontsize=7.5, color="#5a6068"
            )
    return _save(figure, path)


def precision_recall(
    classes: Sequence[PrecisionRecall], together: PrecisionRecall, path: str | Path, *, iou: float, title: str = ""
) -> Path:
    """Write an image: precision over recall on the left, F1 over the score threshold on the right.

    classes: one entry each; of more than ten, those with the ten best AP are blue and named, those with the ten worst
    orange, the others grey. together: all of them, drawn black. A dot is where F1 is best. title: of what, in front.
    """
    drawn = [entry for entry in classes if entry.AP >= 0]
    named = 0 if len(drawn) <= MANY else min(MANY, len(drawn) // 2)
    ranked = sorted(drawn, key=lambda entry: -entry.AP)
    best, between, worst = ranked[:named], ranked[named : len(ranked) - named], ranked[len(ranked) - named :][::-1]
    figure, (left, right) = _figure(2, (6.4, 7.4 if named else 5.2))

    def draw(entry: PrecisionRecall, colour: Any, width: float, *, dots: Sequence[Any] = (), name: bool = True) -> None:
        label = _plain(entry.name)
        threshold = ", nothing right"
        if entry.best >= 0:
            threshold = f", best F1 {entry.f1[entry.best]:.2f} from score {entry.scores[entry.best]:.2f}"
        average = f": AP{round(100 * iou)} {entry.AP:.3f}" if entry.AP >= 0 else ""
        style = {"color": colour, "linewidth": width}
        left.plot(np.linspace(0, 1, 101), entry.curve, label=label + average if name else None, **style)
        right.plot(entry.scores, entry.f1, label=label + threshold if name else None, **style)
        if entry.best >= 0 and left in dots:
            left.plot(entry.recall[entry.best], entry.precision[entry.best], "o", color=colour, markersize=5)
        if entry.best >= 0 and right in dots:
            right.plot(entry.scores[entry.best], entry.f1[entry.best], "o", color=colour, markersize=5)

    for entry in between if named else ():
        draw(entry, GREY, 0.6, name=False)
    for number, entry in enumerate(best if named else drawn):
        draw(entry, _tint(BLUE, number) if named else _colour(number), 1.6, dots=() if named else (left, right))
    if len(drawn) != 1:  # together, the line is a mean over classes and the point is not: it has no dot on the left
        draw(together, BLACK, 2.4, dots=(right,))
    for number, entry in enumerate(worst):
        draw(entry, _tint(ORANGE, number), 1.6)
    of = f"{_plain(title)}: " if title else ""
    for axes, heading, below, beside in (
        (left, f"{of}precision over recall at IoU {iou:g}", "recall", "precision"),
        (right, "F1 over the score threshold", "least score of a detection", "F1"),
    ):
        if named and between:
            axes.plot([], [], color=GREY, linewidth=0.6, label=f"the {counted(len(between), 'class')} between")
        _finish(axes, heading, below)
        axes.set_ylabel(beside, fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    return _save(figure, path)


def confusion(
    counts: np.ndarray, names: Sequence[str], path: str | Path, *, min_score: float, iou: float, title: str = ""
) -> Path:
    """Write an image of a confusion matrix, under its title and thresholds.

    counts: `[C + 1, C + 1]`, rows the truth, columns what was predicted; the last column holds missed objects, the last
    row false positives, detections where nothing is. Blue is the share of the row, orange the share that false
    positives have of their column. Beside more than forty classes, the numbers of the twenty with the most mistakes.
    """
    classes = len(names)
    if counts.shape != (classes + 1, classes + 1):
        raise UsageError(
            f"confusion: {counted(classes, 'class', 'needs')} a matrix [{classes + 1}, {classes + 1}]: {counts.shape}."
        )
    names = [_plain(name) for name in names]
    side = min(12.0, max(3.6, 0.7 * (classes + 1) if classes <= 12 else 0.42 * (classes + 1)))
    widths = [side + 1.8, *([6.0] if classes > NUMBERED else [])]  # inches
    figure, (axes, *beside) = _figure(len(widths), (sum(widths) / len(widths), side + 1.2), shares=widths)
    _draw_matrix(axes, counts, names, side)
    of = f"{_plain(title)}: " if title else ""
    axes.set_title(f"{of}detections with a score from {min_score:.2f}, IoU from {iou:g}", loc="left", fontsize=10)
    if beside:
        _draw_worst(beside[0], counts, names)
    return _save(figure, path)


def _draw_matrix(axes: Any, counts: np.ndarray, names: Sequence[str], side: float) -> None:
    classes = len(names)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share[-1] = counts[-1] / np.maximum(counts.sum(axis=0), 1)
    last = np.arange(classes + 1)[:, None] == classes  # [C + 1, 1]
    for rows, colours in ((~last, "Blues"), (last, "Oranges")):
        shown = np.ma.array(np.sqrt(share), mask=np.broadcast_to(~rows, share.shape))
        axes.imshow(shown, cmap=colours, vmin=0, vmax=1)  # the root lets rare confusions be seen
    letters = max(4.0, min(10.0, 18 * side / (classes + 1)))
    for row, column in zip(*np.nonzero(counts)) if classes <= NUMBERED else ():
        text = f"{int(counts[row, column]):,}" + (f"\n{share[row, column]:.0%}" if classes <= 12 else "")
        weight = "bold" if row == column else "normal"
        colour = "white" if share[row, column] > 0.35 else BLACK
        axes.text(column, row, text, ha="center", va="center", fontsize=letters, color=colour, fontweight=weight)
    ticks, many = range(classes + 1), classes > 6
    axes.set_xticks(ticks, [*names, "missed"], rotation=90 if many else 30, ha="center" if many else "right")
    axes.set_yticks(ticks, [*names, "nothing there"])
    axes.tick_params(labelsize=max(4.0, min(9.0, 40 * side / (classes + 1))), length=0)
    for line in (axes.axhline, axes.axvline):
        line(classes - 0.5, color="#8a919c", linewidth=1)
    axes.set_xlabel("found as", fontsize=9)
    axes.set_ylabel("truth", fontsize=9)
    _bare(axes)


def _draw_worst(axes: Any, counts: np.ndarray, names: Sequence[str]) -> None:
    """Bars of the classes with the most mistakes: their objects to the right, their false positives to the left."""
    classes = len(names)
    right, missed, false = counts.diagonal()[:-1], counts[:-1, -1], counts[-1, :-1]
    confused = counts[:-1, :-1].sum(axis=1) - right
    order = np.argsort(-(missed + confused + false), kind="stable")[:WORST]
    places, start = np.arange(len(order)), np.zeros(len(order))
    for values, colour, label in (
        (right, BLUE, "right"), (confused, ORANGE, "taken for another class"), (missed, GREY, "missed"),
    ):  # fmt: skip
        axes.barh(places, values[order], 0.4, left=start, color=colour, label=label)
        start = start + values[order]
    axes.barh(places, -false[order], 0.4, color=RED, label="nothing there")
    for place, row in zip(places, order):
        others = np.where(np.arange(classes) == row, 0, counts[row, :-1])
        taken = f", {others.max():,} taken for {names[int(others.argmax())]}" if others.any() else ""
        text = f"{right[row]:,} right, {missed[row]:,} missed{taken}; {false[row]:,} where nothing is"
        axes.text(0, place + 0.36, text, va="center", fontsize=8, color=BLACK)
    axes.set_yticks(places, [names[row] for row in order])
    axes.invert_yaxis()
    _finish(axes, "The classes with the most mistakes", "detections where nothing is (left), objects (right)")
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.04), ncols=2)


def feature_reuse(
    weights: np.ndarray, channels: np.ndarray, sources: Sequence[str], blocks: Sequence[str], path: str | Path
) -> Path:
    """Write an image of feature reuse: how strongly each block reads each earlier one, and over how many channels.

    weights: `[S, L]`, mean absolute weight of what block l reads of source s, NaN where it reads nothing. channels:
    `[S, L]`, how many channels that is. sources, blocks: their names. Each column is divided by its largest value: the
    normalisation behind a layer takes away the scale of its weights.
    """
    wanted = (len(sources), len(blocks))
    if weights.shape != wanted or channels.shape != wanted:
        raise UsageError(f"feature_reuse: expected two matrices {wanted}, got {weights.shape} and {channels.shape}.")
    side = min(14.0, max(3.6, 0.34 * max(wanted)))
    figure, panels = _figure(2, (side + 1.2, side + 1.4))
    letters = max(4.0, min(8.0, 20 * side / max(wanted)))
    titles = ("Mean absolute weight of a channel", "Channels read directly")
    for axes, values, title in zip(panels, (weights, np.where(channels > 0, channels, np.nan)), titles):
        image = axes.imshow(values / np.nanmax(values, axis=0, keepdims=True), cmap="viridis", vmin=0, vmax=1)
        axes.set_xticks(range(len(blocks)), blocks, rotation=90, fontsize=letters)
        axes.set_yticks(range(len(sources)), sources, fontsize=letters)
        axes.tick_params(length=0)
        axes.set_xlabel("block that reads", fontsize=9)
        axes.set_ylabel("block that made the channels", fontsize=9)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        _bare(axes)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.02)
    bar.ax.tick_params(labelsize=8, length=0)
    bar.set_label("share of the largest in its column", fontsize=9)
    return _save(figure, path)


def rows_beside_the_paper(
    metric: str,
    found: Mapping[str, Mapping[str, Sequence[float]]],
    paper: Mapping[str, Mapping[str, float]],
    path: str | Path,
) -> Path:
    """Write an image of a study: the rows on the left as they were found, on the right as the paper prints them.

    metric: what is drawn. found: by row and metric one value a seed; each is a point, their mean a stroke. paper: by
    row and metric, all rows in it. Each panel has a scale of its own: the two are no numbers of one data set.
    """
    rows = list(paper)
    panels = [("Here", [found.get(row, {}).get(metric, ()) for row in rows], BLUE)]
    panels.append(("In the paper", [[paper[row][metric]] if metric in paper[row] else () for row in rows], ORANGE))
    panels = [(title, values, colour) for title, values, colour in panels if any(values)]
    if not panels:
        raise UsageError(f"rows_beside_the_paper: no row has {metric}, here or in the paper.")
    figure, places = _figure(len(panels), (5.6, 1.4 + 0.36 * len(rows)))
    for axes, (title, values, colour) in zip(places, panels):
        for place, own in enumerate(values):
            if len(own):
                axes.plot(own, [place] * len(own), "o", color=colour, markersize=6, alpha=0.45, markeredgewidth=0)
                axes.plot([np.mean(own)] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2.4)
        axes.set_yticks(range(len(rows)), [_plain(row) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        drawn = [value for own in values for value in own]
        room = 0.25 * (max(drawn) - min(drawn)) or 1.0
        axes.set_xlim(min(drawn) - room, max(drawn) + room)
        _finish(axes, title, _plain(metric))
    return _save(figure, path)


def ratios_beside_the_paper(panels: Sequence[RatioPanel], path: str | Path) -> Path:
    """Write an image of experiments: how many times as fast as its first row each row is, here and in the paper.

    panels: title, names of the rows, and by whose they are the ratios `[R, C]`; each column is a point, their mean a
    stroke.
    """
    most = max(len(rows) for _, rows, _ in panels)
    figure, places = _figure(len(panels), (7.0 if len(panels) == 1 else 4.8, 1.6 + 0.42 * most))
    colours = (BLUE, ORANGE, GREY)
    for axes, (title, rows, ratios) in zip(places, panels):
        for number, (name, values) in enumerate(ratios.items()):
            for place, own in enumerate(values):
                y, colour = place + 0.2 * (number - 1), colours[number % len(colours)]
                label = name if place == 0 else None
                axes.plot(own, [y] * len(own), "o", color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
                axes.plot([np.mean(own)] * 2, [y - 0.1, y + 0.1], color=colour, linewidth=2.4, label=label)
        axes.set_yticks(range(len(rows)), [_plain(row) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _finish(axes, title, "times as fast as the first row")
    places[0].legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=3)
    return _save(figure, path)


def roofline(gflops: float, gbytes: Mapping[str, float], operators: Mapping[str, np.ndarray], path: str | Path) -> Path:
    """Write an image of operators under the roof of a machine.

    gflops: the most GFLOP/s. gbytes: the most GB/s, by where values lie. operators: by kind, `[N, 3]` floating point
    operations for each byte, GFLOP/s, seconds, which are the size of the point.
    """
    figure, (axes,) = _figure(1, (8.0, 4.6))
    along = np.logspace(-1, 3, 200)
    for name, style, rate in zip(gbytes, ("-", "--", ":"), gbytes.values()):
        label = f"{name}: {rate:.0f} GB/s, {gflops:.0f} GFLOP/s"
        axes.plot(along, np.minimum(gflops, rate * along), color=BLACK, linewidth=2, linestyle=style, label=label)
    longest = max((values[:, 2].max() for values in operators.values()), default=1.0)
    for number, (kind, values) in enumerate(operators.items()):
        sizes = 12 + 160 * values[:, 2] / longest
        axes.scatter(values[:, 0], values[:, 1], s=sizes, color=_colour(number), alpha=0.6, linewidths=0, label=kind)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _finish(axes, "Operators and the roof" if operators else "The roof", "floating point operations for each byte")
    axes.set_ylabel("GFLOP/s", fontsize=9)
    axes.legend(fontsize=8.5, frameon=False, loc="lower right")
    return _save(figure, path)


# --- rows to lines ------------------------------------------------------------------------------------------------


def _series(rows: Iterable[Mapping[str, Any]], along: str) -> dict[str, dict[float, float]]:
    """name -> {position: mean of its finite values}, in the order of the log."""
    gathered: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        flat = dict(_flat(row))
        position = flat.get(along, flat.get("step"))
        if position is None:
            continue
        for name, value in flat.items():
            if math.isfinite(value) and value > -1:  # COCO's -1 stands for "not defined"
                gathered.setdefault(name, {}).setdefault(position, []).append(value)
    return {
        name: {position: sum(values) / len(values) for position, values in sorted(points.items())}
        for name, points in gathered.items()
    }


def _flat(row: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            if name not in ("per_class", "protocol", "objects"):
                yield from _flat(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield before + str(name), float(value)


def _position_label(rows: Sequence[Mapping[str, Any]], over_steps: bool) -> str:
    """ "epoch", or "step (25 in an epoch)"."""
    ends = [(row["step"], row["epoch"]) for row in rows if row.get("kind") == "epoch" and row.get("step")]
    if not over_steps:
        return "epoch"
    return f"step ({ends[-1][0] / ends[-1][1]:.0f} in an epoch)" if ends else "step"


def _limits(rows: Sequence[Mapping[str, Any]], over_steps: bool) -> tuple[float | None, float | None]:
    """The same for all panels: what was not measured in the first epochs begins further right."""
    places = [row.get("step" if over_steps else "epoch", row.get("step")) for row in rows]
    places = [place for place in places if place is not None]
    first, last = min(places), max(places)
    room = 0.03 * (last - first)
    return (first - room, last + room) if last > first else (None, None)


def _top(group: Mapping[str, Points]) -> float | None:
    """A limit for losses that begin very high: three times the value at a quarter of the run, where that cuts off."""
    values = [list(points.values()) for points in group.values()]
    later = max(max(line[len(line) // 4 :], default=0.0) for line in values)
    return 3 * later if 0 < 3 * later < max(max(line) for line in values) else None


# --- how charts look ----------------------------------------------------------------------------------------------

_COLOURS = (1, 0, 7, 8, 4, 6, 9, 11, 5, 18)  # of the palette: those that stand out on white


def _colour(number: int) -> tuple[float, ...]:
    return tuple(0.9 * channel / 255 for channel in PALETTE[_COLOURS[number % len(_COLOURS)]])


def _tint(colour: str, number: int) -> tuple[float, ...]:
    """The paler, the higher the number, which is below `MANY`."""
    channels = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return tuple(1 - (1 - channel) * (1 - 0.07 * number) for channel in channels)


def _figure(panels: int, size: tuple[float, float], *, shares: Sequence[float] | None = None) -> tuple[Any, list[Any]]:
    """Panels side by side, of this size in inches each; shares: of the width, equal where not given."""
    with said_if_missing("A chart"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * panels, size[1]), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.ravel(figure.subplots(1, panels, squeeze=False, width_ratios=shares)))


def _plain(name: str) -> str:
    """A name as matplotlib shows it letter by letter: on one line, dollar signs not taken for formulas."""
    return escaped(name).replace("$", r"\$")


def _finish(axes: Any, title: str, below: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(below, fontsize=9)
    if below.startswith(("epoch", "step")):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=9, length=0)
    axes.grid(True, color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _bare(axes: Any) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)


def _save(figure: Any, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
