"""A study is run: each row trained by the code of `aweigh train`, with equal budget and the same order of images.

Each training has a folder of its own and goes on from its last saved state, and what it came to is kept beside it: a
study that was killed and is run again goes on where it was, and finds on a CPU the very numbers of one that was not.
"""

import io
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import suppress
from queue import Empty
from typing import Any

import torch

from aweigh.console import SafeConsole
from aweigh.errors import AweighError
from aweigh.files import read_json, remove_leftovers, write_text
from aweigh.inference.device import choose_device
from aweigh.inference.memory import begin_high_water_anew, high_water
from aweigh.lock import hold
from aweigh.studies.cost import cost_of_rows
from aweigh.studies.measure import Figures, assignment_figures, backbone_figures, figures_of, training_figures
from aweigh.studies.plan import Plan, Training
from aweigh.studies.results import CHART, Results
from aweigh.studies.study import Row
from aweigh.training.backbone.classify import train_classifier
from aweigh.training.backbone.config import ClassifyConfig
from aweigh.training.config import resolve
from aweigh.training.logs.callback import Beginning, Callback
from aweigh.training.train import train
from aweigh.visualise.charts import rows_beside_the_paper

DONE = "measured.json"
Progress = Callable[[float, str], object]  # how many trainings are done, and what is under way


def run_study(plan: Plan, *, processes: int = 1, progress: Progress = lambda done, what: None) -> Results:
    """Train and measure what is not yet, and return all results; they are written after each training.

    processes: trainings at a time, each in a process of its own. progress: is told how far the whole is.
    """
    with hold(plan.output):
        plan.claim()
        remove_leftovers(plan.output)
        paper = {row.name: row.paper for row in plan.rows}
        results = Results(plan.study.to_dict(), {**plan.to_dict(), "seeds": plan.seeds}, paper)
        if plan.study.kind == "assignment":
            for number, row in enumerate(plan.rows):
                progress(number / len(plan.rows), row.name)
                results.add(row.name, 0, assignment_figures(plan, row))
        else:
            for name, figures in cost_of_rows(plan.study, plan.rows).items():
                results.add(name, 0, figures)
            trainings = plan.trainings()
            trained = _side_by_side if processes > 1 else _one_by_one
            for training, found in trained(plan, trainings, progress, processes):
                for row_name, own in found.items():
                    results.add(row_name, training.seed, own)
                results.write(plan.output)
        results.write(plan.output)
        rows_beside_the_paper(results.metric, results.values(), paper, plan.output / CHART)
    return results


def _one_by_one(
    plan: Plan, trainings: Sequence[Training], progress: Progress, processes: int
) -> Iterator[tuple[Training, dict[str, Figures]]]:
    for number, training in enumerate(trainings):

        def tell(share: float, number: int = number, training: Training = training) -> None:
            progress(number + share, str(training))

        yield training, train_and_measure(plan, training, tell)


def _side_by_side(
    plan: Plan, trainings: Sequence[Training], progress: Progress, processes: int
) -> Iterator[tuple[Training, dict[str, Figures]]]:
    """In processes that share the cores; each ends when this one does."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    shares = [0.0] * len(trainings)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_listen, initargs=(told,)) as pool:
        pending = {pool.submit(_in_a_process, plan, training, n): n for n, training in enumerate(trainings)}
        try:
            while pending:
                done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                _hear(told, shares)
                for future in done:
                    number = pending.pop(future)
                    shares[number] = 1.0
                    yield trainings[number], future.result()
                progress(sum(shares), f"{min(processes, len(pending))} at a time")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def train_and_measure(plan: Plan, training: Training, tell: Callable[[float], object]) -> dict[str, Figures]:
    """The figures of each row of a training, which is begun, gone on with, or done already. tell: the share done."""
    kept = training.folder / DONE
    content: dict[str, Any] = read_json(kept) if kept.exists() else {}
    try:
        if not content:
            content = {"training": _train(plan, training, tell), "rows": {}}
        for row in training.rows:
            if row.name not in content["rows"]:
                content["rows"][row.name] = _measured(plan, training, row)
                write_text(kept, json.dumps(content, indent=2) + "\n")
    except AweighError as error:
        raise type(error)(f"{training}: {error}") from error
    tell(1)
    return {row.name: {**content["training"], **content["rows"][row.name]} for row in training.rows}


def _train(plan: Plan, training: Training, tell: Callable[[float], object]) -> Figures:
    """Train, or go on; the time of a step, and the most memory."""
    folder, console = training.folder, SafeConsole(file=io.StringIO())
    config = plan.config(training.rows[0], training.seed, folder)
    begun = (folder / "config.toml").exists()
    anew = begin_high_water_anew()
    on_gpu = choose_device(config.device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    if isinstance(config, ClassifyConfig):
        resume = folder if begun else None
        train_classifier(config, resume=resume, console=console, progress=lambda done, total: tell(0.99 * done / total))
    else:
        if begun:
            config, _ = resolve(None, {"resume": str(folder), "device": plan.device, "workers": plan.workers})
        train(config, console=console, callbacks=[_Teller(tell)])
    most = torch.cuda.max_memory_allocated() if on_gpu else high_water() if anew else None
    return {**training_figures(folder), **({"memory_gb": most / 1e9} if most else {})}


def _measured(plan: Plan, training: Training, row: Row) -> Figures:
    """The metrics of a row, by the weights of its training."""
    return (
        backbone_figures(training.folder) if plan.study.kind == "backbone" else figures_of(plan, row, training.folder)
    )


class _Teller(Callback):
    """Tells how far a training is."""

    def __init__(self, tell: Callable[[float], object]) -> None:
        self._tell, self._total = tell, 1

    def start(self, beginning: Beginning) -> None:
        self._total = max(1, beginning.total_steps)

    def step(self, row: Mapping[str, Any]) -> None:
        self._tell(0.99 * row["step"] / self._total)  # the rest is its measuring


# --- in a process of a pool -----------------------------------------------------------------------------------------

_told: Any = None


def _listen(told: Any) -> None:
    """At the beginning of such a process: where it tells how far it is. It ends with the one that began it."""
    global _told
    _told = told
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Wait for the end of the process that began this one, which then has nobody to work for: its pool would wait for
    ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _in_a_process(plan: Plan, training: Training, number: int) -> dict[str, Figures]:
    return train_and_measure(plan, training, lambda share: _told.put((number, share)))


def _hear(told: Any, shares: list[float]) -> None:
    """Take over what processes have told."""
    with suppress(Empty):
        while True:
            number, share = told.get_nowait()
            shares[number] = max(share, shares[number])  # it may be heard late
