"""Learning curves of a run as one picture, ``curves.png``: accuracy or loss, and the predicted labels."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedws.core.atomic_files import atomic_file
from fedws.data import label_ranges
from fedws.recording.evaluation_lines import FEDERATED_MODEL, distinct_label_sets
from fedws.recording.metrics_reader import MAX_PLOTTED_VALUE, Series, metric_series, prediction_shares
from fedws.recording.stored_records import Record, WorkerLabels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MAIN_COLOUR, FAINT_COLOUR = "#1a1a1a", "#b8b8b8"
# The colours of Okabe and Ito, which people with any kind of colour vision can distinguish. With two line styles they
# identify twice as many workers. Among more workers, only the highest and the lowest curves are named.
COLOURS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "osD^vP"
TIME_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
STYLE: Any = {"text.usetex": False, "font.size": 11, "axes.titlelocation": "left"}


def draw_curves(
    records: Sequence[Record], worker_labels: WorkerLabels, path: Path, title: str = "", *, shared: bool = True
) -> None:
    """Draw the records of a run into a PNG file at ``path``, which is written atomically.

    ``worker_labels`` are the labels that each worker declares. The picture shows the accuracy by round, or the loss if
    the models do not classify. If no model was evaluated, it shows the seconds of each round. If workers hold different
    labels, a second half shows what each model predicts. ``shared`` is the argument of ``save_figure``. Raises
    OSError if the file cannot be written.
    """
    save_figure(path, lambda figure: _draw_run(figure, records, worker_labels, title), shared=shared)


def draw_over_time(
    values: Mapping[str, Sequence[tuple[float, float]]], path: Path, title: str = "", target: float | None = None
) -> None:
    """Draw the accuracies (0 to 1) of several runs over time (seconds) into a PNG file at ``path``.

    A horizontal line marks the accuracy ``target``. Raises OSError if the file cannot be written.
    """
    save_figure(path, lambda figure: _draw_over_time(figure, values, title, target))


def save_figure(path: Path, draw: Callable[["Figure"], "Figure"], *, shared: bool = True) -> None:
    """Write the figure that ``draw`` returns as a PNG file at ``path``, which is written atomically.

    ``draw`` gets an empty figure. ``shared`` is the argument of ``fedws.core.atomic_files.atomic_file``. Raises
    OSError if the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font lacks a character of the title
        warnings.filterwarnings("ignore", message="overflow")  # ticks far outside an axis of many decades
        picture = BytesIO()
        draw(Figure(dpi=100)).savefig(picture, format="png")
    with atomic_file(path, shared=shared) as part:
        part.write_bytes(picture.getbuffer())


def _draw_run(figure: "Figure", records: Sequence[Record], worker_labels: WorkerLabels, title: str) -> "Figure":
    parts, distinct = prediction_shares(records, worker_labels), distinct_label_sets(worker_labels)
    workers = [worker for worker in worker_labels if worker in parts]
    both = len(distinct) > 1 and bool(workers)
    figure.set_size_inches((16, 9) if both else (11, 7))
    figure.text(0.02, 0.975, _shorten(title, 110 if both else 72), size=15, weight="bold", va="top", parse_math=False)
    left = figure.add_axes((0.05, 0.085, 0.34, 0.78) if both else (0.075, 0.105, 0.68, 0.75))
    if values := metric_series(records):
        _draw_lines(left, _to_percent(values), list(worker_labels), "{:.2f} %", "Accuracy on the test data (%)")
    elif values := metric_series(records, "loss"):
        _draw_lines(left, values, list(worker_labels), "{:#.4g}", "Loss on the test data")
    else:
        took = ((r["round"], r.get("seconds", math.inf)) for r in records if r.get("kind") == "round")
        timed = sorted((round_number, float(seconds)) for round_number, seconds in took if seconds <= MAX_PLOTTED_VALUE)
        what = "Seconds per round" if timed else "Nothing was recorded"
        _draw_lines(left, {"last round": timed} if timed else {}, [], "{:.3g} s", what)
    if both and len(worker_labels) <= len(COLOURS) and len(set().union(*distinct)) == sum(map(len, distinct)):
        _draw_prediction_shares(figure, parts, workers, worker_labels)
    elif both:
        where = {
            worker: distinct.index(tuple(sorted(set(worker_labels[worker]))))
            for worker in workers
            if worker_labels[worker]
        }
        own = {worker: [(r, part[i]) for r, part in parts[worker].items()] for worker, i in where.items()}
        right = figure.add_axes((0.57, 0.085, 0.27, 0.78))
        _draw_lines(
            right, _to_percent(own), list(worker_labels), "{:.0f} %", "Predictions among the worker's own labels (%)"
        )
    return figure


def _draw_lines(axes: "Axes", values: Series, model_order: Sequence[str], value_format: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    workers = [m for m in model_order if m in values] + [
        m for m in values if m not in model_order and m != FEDERATED_MODEL
    ]
    ranked = sorted(workers, key=lambda m: values[m][-1][1])
    named = {FEDERATED_MODEL, *(workers if len(workers) <= 2 * len(COLOURS) else (ranked[0], ranked[-1]))}
    crowd = f"; of {len(workers)} workers the highest and the lowest are named" if len(workers) > len(named) else ""
    axes.set(title=title, xlabel=f"round{crowd}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    rounds = sorted({r for points in values.values() for r, _ in points}) or [1]
    room = max(0.03 * (rounds[-1] - rounds[0]), 0.5)
    ticks = [int(t) for t in MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]).tick_values(rounds[0], rounds[-1])]
    if len(rounds) <= 10 and all(b - a >= 2 * room for a, b in pairwise(rounds)):
        ticks = rounds
    axes.set_xticks([rounds[0], *(t for t in ticks if rounds[0] + 2 * room <= t <= rounds[-1])])
    every = [v for points in values.values() for _, v in points] or [1.0]
    if "%" in value_format:
        axes.set_ylim(-2, 102)
    elif min(every) > 0 and max(every) > 50 * min(every):
        axes.set_yscale("log")
    else:
        axes.set_ylim(min(0.0, 1.08 * min(every)), max(0.0, 1.08 * max(every)) or 1)
    shown = []
    for model in [*workers, *([FEDERATED_MODEL] if FEDERATED_MODEL in values else [])]:
        look = _line_style(None if model == FEDERATED_MODEL else workers.index(model), model in named)
        size = 7.0 if len(rounds) <= 15 else 4.0 if len(rounds) <= 60 else 0.0
        axes.plot(*zip(*values[model], strict=True), **look, markersize=size)
        last, value = values[model][-1]
        text = f"{_shorten(model, 12)}  {value_format.format(value)}" + (f" at {last}" if last != rounds[-1] else "")
        shown += [(text, look, last, value)] if model in named else []
    axes.set_xlim(rounds[0] - room, rounds[-1] + room)
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform((x, y)) for _, _, x, y in shown]
    places = spread_positions([float(y) for _, y in ends], 20 / axes.bbox.height)
    for (text, look, _, _), (x, y), place in zip(shown, ends, places, strict=True):
        aside: Any = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([x, 1.025], [y, place], color=look["color"], linewidth=0.8, linestyle=":", **aside)
        axes.plot([1.025, 1.045, 1.065], [place] * 3, **look, markersize=7, markevery=[1], **aside)
        weight = "bold" if look["color"] == MAIN_COLOUR else "normal"
        axes.text(1.08, place, text, va="center", weight=weight, parse_math=False, **aside)


def _line_style(index: int | None, highlighted: bool) -> dict[str, Any]:
    if index is None:
        return {"color": MAIN_COLOUR, "linewidth": 3.2, "marker": "o", "zorder": 10}
    if not highlighted:
        return {"color": FAINT_COLOUR, "linewidth": 1.0, "zorder": 2}
    dashes = "-" if index % (2 * len(COLOURS)) < len(COLOURS) else (0, (4, 2))
    kind = index % len(COLOURS)
    return {"color": COLOURS[kind], "marker": MARKERS[kind], "linewidth": 1.7, "linestyle": dashes, "zorder": 4}


def _draw_over_time(
    figure: "Figure", values: Mapping[str, Sequence[tuple[float, float]]], title: str, target: float | None
) -> "Figure":
    figure.set_size_inches((11, 7))
    figure.text(0.02, 0.975, _shorten(title, 72), size=15, weight="bold", va="top", parse_math=False)
    axes = figure.add_axes((0.075, 0.105, 0.64, 0.75))
    last = max((when for points in values.values() for when, _ in points), default=0.0)
    unit, seconds = next((unit for unit in TIME_UNITS if last >= 2 * unit[1]), TIME_UNITS[-1])
    axes.set(title="Accuracy on the test data (%)", xlabel=f"virtual time ({unit})", ylim=(-2, 102))
    axes.set_xlim(0, 1.03 * last / seconds or 1.0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    for index, (name, points) in enumerate(values.items()):
        x, y = [when / seconds for when, _ in points], [100 * value for _, value in points]
        end = f"  {y[-1]:.2f} %" if y else "  not evaluated"
        size = 4.0 if len(points) <= 60 else 0.0
        axes.plot(x, y, **_line_style(index, True), markersize=size, label=f"{_shorten(name, 18)}{end}")
    if target is not None:
        axes.axhline(100 * target, color=MAIN_COLOUR, linewidth=1.2, linestyle=":", label=f"target  {100 * target:g} %")
    axes.legend(handles=axes.get_lines(), loc="upper left", bbox_to_anchor=(1.01, 1.01), frameon=False)
    return figure


def spread_positions(positions: Sequence[float], gap: float) -> list[float]:
    """Return positions near the given ones, in the same order, at least ``gap`` apart and not above 1.

    >>> spread_positions([0.5, 0.5, 1.0, 1.0], 0.25)
    [0.25, 0.5, 0.75, 1.0]
    """
    order, places = sorted(range(len(positions)), key=lambda i: positions[i]), list(positions)
    for below, i in pairwise(order):
        places[i] = max(places[i], places[below] + gap)
    ceiling = 1.0
    for i in reversed(order):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return places


def _draw_prediction_shares(
    figure: "Figure", shares: Mapping[str, Any], workers: Sequence[str], worker_labels: WorkerLabels
) -> None:
    from matplotlib.patches import Patch

    distinct = distinct_label_sets(worker_labels)
    holders = [
        next(i for i, w in enumerate(worker_labels) if set(worker_labels[w]) == set(group)) for group in distinct
    ]
    colours = [COLOURS[i] for i in holders]
    models = [*workers, *([FEDERATED_MODEL] if FEDERATED_MODEL in shares else [])]
    rounds = sorted({r for model in models for r in shares[model]})
    ticks = sorted({round(i * (len(rounds) - 1) / 5) for i in range(6)})
    rows = -(-len(models) // 2)
    grid = figure.add_gridspec(rows, 2, left=0.59, right=0.955, bottom=0.085, top=0.785, hspace=0.4, wspace=0.32)
    figure.text(0.59, 0.877, "What each model predicts (% of its predictions)", size=12)
    keys = [
        Patch(color=c, label=f"labels {_shorten(label_ranges.format_labels(g), 12)}")
        for c, g in zip(colours, distinct, strict=True)
    ]
    keys.append(Patch(facecolor="white", edgecolor=MAIN_COLOUR, linewidth=1.8, label="the worker's own"))
    figure.legend(handles=keys, loc="upper left", bbox_to_anchor=(0.585, 0.875), ncols=4, frameon=False, handlelength=1)
    for place, model in enumerate(models):
        axes = figure.add_subplot(grid[place // 2, place % 2])
        own = tuple(sorted(set(worker_labels.get(model, ()))))
        name = f"{_shorten(model, 12)}, holds {_shorten(label_ranges.format_labels(own), 12)}" if own else model
        axes.set_title(name, size=11, pad=5, parse_math=False)
        axes.set_xticks(ticks, [str(rounds[i]) for i in ticks])
        axes.set(xlim=(-0.5, len(rounds) - 0.5), ylim=(0, 100), yticks=[0, 50, 100])
        axes.tick_params(labelleft=place % 2 == 0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("round" if place + 2 >= len(models) else "")
        edges, floor = [n - 0.5 for n in range(len(rounds) + 1)], [0.0] * len(rounds)
        for group in sorted(range(len(distinct)), key=lambda i: distinct[i] != own):  # own labels at the bottom
            is_own_group = distinct[group] == own
            heights = [100 * shares[model][r][group] if r in shares[model] else math.nan for r in rounds]
            top = [low + height for low, height in zip(floor, heights, strict=True)]  # NaN leaves a gap
            low = [0.0 if math.isnan(value) else value for value in floor]
            axes.stairs(top, edges, baseline=low, fill=True, color=colours[group], alpha=1 if is_own_group else 0.45)
            if is_own_group and len(rounds) <= 100:
                axes.stairs(top, edges, color=MAIN_COLOUR, linewidth=1.8, zorder=5)
            if heights[-1] * axes.bbox.height > 100 * 13:
                middle = (top[-1] + floor[-1]) / 2
                axes.text(1.03, middle / 100, f"{int(heights[-1])} %", va="center", size=10, transform=axes.transAxes)
            floor = top
        axes.vlines(edges[1:-1] if len(rounds) <= 20 else [], 0, 100, color="white", linewidth=2, zorder=4)


def _to_percent(values: Series) -> Series:
    return {model: [(r, 100 * value) for r, value in points] for model, points in values.items()}


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length // 2]}…{text[-(length // 2 - 1) :]}"
