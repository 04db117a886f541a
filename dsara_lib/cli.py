"""The command line behind workbook.py. Each command is a few calls.

torch is imported only where a command computes in this process, so that the first line appears at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import Everywhere, Stopped, WorkbookError, unknown
from .places import FOLDER, portable, split_paths
from .processes import ROOT, python_path

if TYPE_CHECKING:
    from .architecture import AnyBlueprint

CHAIN = ("01", "02", "03", "04", "05", "06", "09")
TRANSFER = ("07", "04", "05", "09")  # where the architecture comes from elsewhere
SECONDS_BETWEEN_LINES = 10.0
RUN = ("--run", "--run-name")  # torchrun would take --run for the beginning of an option of its own
PROFILES = "demo, cpu, short, paper, gpu or published-code"
FULL = ("01", "02", "07")  # notebooks that take all settings of a run; the others read them from its folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 2 and one sentence on wrong input."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        with _terminated_as_interrupted():
            return int(given.command(given) or 0)
    except (WorkbookError, FileNotFoundError) as error:
        if _speaks() or not isinstance(error, Everywhere):
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        if _speaks():
            print("stopped; the same command goes on from there", file=sys.stderr)
        return 128 + getattr(stopped, "number", signal.SIGINT)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM does what Ctrl-C does."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workbook.py", description="DSARA workbook")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="the whole chain on embedded data, in minutes")
    demo.set_defaults(command=run, profile="demo", data="digits", limit=None, seed=0, set="", variant="", device="cpu", processes=1)
    demo.set_defaults(jobs=1, data_root="data", source="", size=None, skip_unreadable=False)
    demo.add_argument("--run", default="demo", help="name of the run folder (demo)")
    demo.add_argument("--results", default="results", help="folder of all runs (results)")

    chain = commands.add_parser("run", help="the whole chain at any profile, on any data")
    chain.set_defaults(command=run)
    chain.add_argument("--processes", type=int, default=1, help="that share the batches of search and training, one a GPU (1)")
    chain.add_argument(
        "--jobs", type=int, default=1, help="search, trainings and attacks at once, each in a process of its own (1)"
    )
    found = commands.add_parser("search", help="only the search, without its notebook: in this process, or under torchrun")
    found.set_defaults(command=run_search)
    for each in (chain, found):
        each.add_argument("--profile", default="demo", help=PROFILES)
        each.add_argument("--data", default="digits", help="digits, cifar10, cifar100, svhn, tiny-imagenet or folder:PATH")
        _add_reading(each)
        each.add_argument("--variant", default="", help="a named change of the method, such as advrush or table5-3 (none)")
        each.add_argument(*RUN, help="name of the run folder (<profile>-<data>, and the variant)")
        each.add_argument("--seed", type=int, default=0)
        each.add_argument("--set", default="", help='settings that differ, as "search.channels=8 training.epochs=3"')
    chain.add_argument(
        "--from", dest="source", default="", metavar="SOURCE", help="retrain this one elsewhere: a run, a name, a file"
    )

    training = commands.add_parser("train", help="only the trainings of a run, without their notebook: as search")
    training.set_defaults(command=run_training)
    training.add_argument(*RUN, default="demo", help="name of the run folder (demo)")
    training.add_argument("--networks", default="", metavar="NAME,NAME", help="only these, such as found or AdvRush (all)")
    attacking = commands.add_parser("evaluate", help="only the attacks on what a run has trained, without their notebooks")
    attacking.set_defaults(command=run_evaluation)
    attacking.add_argument(*RUN, default="demo", help="name of the run folder (demo)")
    attacking.add_argument("--networks", default="", metavar="NAME,NAME", help="only these, white-box (all, and black-box)")
    attacking.add_argument("--black-box", metavar="ATTACK,ATTACK", help="only these attacks, of all networks on each other")
    for each in (chain, found, training, attacking):
        each.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
        each.add_argument("--results", default="results", help="folder of all runs (results)")
        each.add_argument("--data-root", default="data", help="folder of data sets, official files or image files (data)")
    for each in (chain, found, training):
        each.add_argument(
            "--sync-batch-norm", action="store_true", help="with several processes: batch norm over the whole batch, not each share"
        )

    notebook = commands.add_parser("nb", help="one notebook, headlessly: nb 02 -p PROFILE demo")
    notebook.set_defaults(command=nb)
    notebook.add_argument("notebook", help="number or name, such as 02 or 02_search")
    notebook.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters")
    notebook.add_argument("--results", default="results", help="folder of all runs (results)")

    lab = commands.add_parser("lab", help="JupyterLab on the notebooks; further arguments go to it")
    lab.set_defaults(command=open_lab)
    lab.add_argument("arguments", nargs=argparse.REMAINDER)

    cost = commands.add_parser("cost", help="parameters, multiply-adds and FLOPs of an architecture")
    cost.set_defaults(command=show_cost)
    cost.add_argument("name", help="a network of the paper's tables, such as DSARA or ResNet-18, or a genotype file")
    cost.add_argument("--json", action="store_true", help="one line of JSON")
    cost.add_argument("--num-cells", type=int, help="cells (as published; 20 for a file)")
    cost.add_argument("--channels", type=int, help="initial channels (as published; 64 for a file)")
    cost.add_argument("--classes", type=int, default=10)
    cost.add_argument("--image-size", type=int, default=32)

    draw = commands.add_parser("draw", help="a picture of an architecture, or of one of its cells")
    draw.set_defaults(command=draw_architecture)
    draw.add_argument("name", help="a network of the paper's tables, such as DSARA or ResNet-18, or a genotype file")
    which = draw.add_mutually_exclusive_group()
    which.add_argument("--kind", help="only the cell of that kind: accurate, robust or reduction")
    which.add_argument("--cell", type=int, metavar="K", help="only the cell at that place of the stack, from 1")
    draw.add_argument("--out", help="file that ends in .svg, .png or .pdf (<name>.svg)")
    draw.add_argument("--num-cells", type=int, help="cells (as published; 20 for a file)")
    draw.add_argument("--channels", type=int, help="initial channels (as published; 64 for a file)")
    draw.add_argument("--image-size", type=int, default=32)

    bench = commands.add_parser("bench", help="the fast ways beside the plain ones: times, operations, memory")
    bench.set_defaults(command=run_bench)
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    bench.add_argument("--only", default="", metavar="NAME,NAME", help="measure these anew and leave the others as they are")
    bench.add_argument("--count", action="store_true", help="only what is counted, which takes no timing, with a GPU's limits")
    bench.add_argument("--batch", type=int, nargs="+", default=[], help="batch sizes (8 and 16, on a GPU 64; 8 or 32 for networks)")
    bench.add_argument("--rounds", type=int, default=0, help="rounds of which the median is taken (3, on a GPU 10)")
    bench.add_argument("--quick", action="store_true", help="tiny sizes for a first look, in a file of their own")
    bench.add_argument("--results", default="results", help="folder of all runs (results)")

    sweep = commands.add_parser("sweep", help="the rows of a table, searched, trained and attacked: sweep table5 --seeds 0,1,2")
    sweep.set_defaults(command=run_sweep)
    sweep.add_argument("grid", help="table4, table4-matched (all of one size), table5, methods (rivals) or zoo (Tables 1 to 3)")
    sweep.add_argument("--profile", default="demo", help=PROFILES)
    sweep.add_argument("--data", action="append", help="digits (default), cifar10, ... or folder:PATH; may be given several times")
    _add_reading(sweep)
    sweep.add_argument("--name", help="beginning of the run folders' names (<grid>-<profile>-<data>)")
    sweep.add_argument("--seeds", default="0", help="one or more, as 0,1,2")
    sweep.add_argument("--rows", default="", metavar="ROW,ROW", help="only these rows")
    sweep.add_argument("--set", default="", help='settings that differ, as "search.channels=8 training.epochs=3"')
    sweep.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    sweep.add_argument("--results", default="results", help="folder of all runs (results); on a cluster one that all nodes share")
    sweep.add_argument("--dry", action="store_true", help="only say what is done and what is to be done")
    sweep.add_argument(
        "--engine", default="sequential", help="sequential (default), or ray: several jobs at once, here or on a cluster"
    )
    sweep.add_argument("--address", help="with ray: a cluster to join, as HOST:PORT or auto (a Ray of our own, on this machine)")
    sweep.add_argument("--gpus-per-job", type=float, help="with ray: a part of one GPU, or several (1 where there are any)")
    sweep.add_argument("--cpus-per-job", type=float, help="with ray: CPU cores (1)")
    sweep.add_argument("--retries", type=int, help="with ray: how often a job whose worker died goes on (3)")

    compare = commands.add_parser("compare", help="all runs beside Tables 1 to 5, and the paper's claims tested on them")
    compare.set_defaults(command=write_comparison)
    compare.add_argument("--runs", default="", metavar="NAME,NAME", help="only these (all)")
    compare.add_argument("--results", default="results", help="folder of all runs (results)")

    report = commands.add_parser("report", help="write a run's HTML report and its networks' model cards anew")
    report.set_defaults(command=write_report)
    report.add_argument("--run", default="demo")
    report.add_argument("--readme", action="store_true", help="also the project's README and its figures, where it shows this run")
    report.add_argument("--results", default="results")
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """What of a data set's images is read, and how."""
    parser.add_argument("--limit", type=int, help="images per class")
    parser.add_argument("--size", type=int, help="width and height that pictures are brought to, 8 to 224 (all have one)")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out files that are no whole image (an error)")


def _reading(given: argparse.Namespace) -> dict[str, Any]:
    """What was given of it, as `open_experiment` takes it."""
    return {"limit": given.limit, "size": given.size, "skip_unreadable": given.skip_unreadable}


def _written(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line has them; what was not given is left out."""
    told = {
        "--" + name.replace("_", "-"): value for name, value in options.items() if value is not False and value not in (None, "")
    }
    return [name if value is True else f"{name}={value}" for name, value in told.items()]


def run(given: argparse.Namespace) -> None:
    """Every notebook of the chain in turn, in one kernel; what is done already is only read."""
    name, results = _run_name(given), Path(given.results).resolve()
    started = time.monotonic()
    print(f"run {name!r}: profile {given.profile}, data {given.data}; stop with Ctrl-C, go on with the same command", flush=True)
    if given.variant and given.source:
        raise WorkbookError("--variant changes a search, and --from takes an architecture that has been found; give one of them")
    if given.variant:
        from .presets import make_preset

        make_preset(given.profile, given.set, given.variant)  # raises before a folder of that name is made
    from . import notebooks

    if given.jobs > 1:
        _side_by_side(given, name)
    elif given.source and given.processes > 1:
        _open(given, name)  # for `train`, which goes on with a run that is there
    places = {
        "RESULTS": os.path.relpath(results, notebooks.FOLDER),
        "DATA_ROOT": os.path.relpath(given.data_root, notebooks.FOLDER),
    }
    common = {"RUN": name, "DEVICE": given.device, **places}
    full = common | {
        "PROFILE": given.profile,
        "DATA": _from_notebooks(given.data),
        "LIMIT": given.limit or 0,
        "SIZE": given.size or 0,
        "SKIP_UNREADABLE": given.skip_unreadable,
        "SEED": given.seed,
        "CHANGES": given.set,
        **({"FROM": _source_from_notebooks(given.source)} if given.source else {"VARIANT": given.variant}),
    }
    with _environment(), notebooks.one_kernel() as kernel:
        for number in TRANSFER if given.source else CHAIN:
            path = notebooks.find(number)
            if given.processes > 1 and number in BEFORE:
                BEFORE[number](given, name)
            print(f"[{time.monotonic() - started:5.0f} s] {path.stem}", flush=True)
            target = results / name / "notebooks" / path.name
            notebooks.execute(path, target, full if number in FULL else common, kernel)
    where = results / name / "report.html"
    print(f"[{time.monotonic() - started:5.0f} s] done; the report: {where}")


def _run_name(given: argparse.Namespace) -> str:
    source = f"from-{_plain(Path(given.source).stem)}" if getattr(given, "source", "") else ""
    return given.run or "-".join(filter(None, [given.profile, _plain(given.data), given.variant, source]))


def run_search(given: argparse.Namespace) -> None:
    """The search of a run, by this process or by the group that it belongs to."""
    from .steps import search

    experiment = search(_run_name(given), **_chosen(given), **_places(given), sync_batch_norm=given.sync_batch_norm)
    if _speaks():
        print(f"done; what was found: {experiment.search_folder / 'genotype.json'}")


def run_training(given: argparse.Namespace) -> None:
    """The trainings of a run, by this process or by the group that it belongs to."""
    from .steps import train

    names = [name for name in given.networks.split(",") if name]
    experiment = train(given.run, networks=names, **_places(given), sync_batch_norm=given.sync_batch_norm)
    if _speaks():
        print(f"done; the networks: {experiment.run.path('networks')}")


def run_evaluation(given: argparse.Namespace) -> None:
    """The attacks on the networks of a run."""
    from .steps import evaluate

    names, attacks = (
        None if text is None else [name for name in text.split(",") if name] for text in (given.networks, given.black_box)
    )
    experiment = evaluate(given.run, networks=names or (), black_box=attacks, **_places(given))
    print(f"done; notebooks 04 and 05 make tables of it: {experiment.run.path('evaluation')}")


def _side_by_side(given: argparse.Namespace, name: str) -> None:
    """Search, trainings and attacks of a run, several at once."""
    from .experiment import network_names
    from .side_by_side import commands, run_commands

    if given.processes > 1:
        raise WorkbookError("a run is shared out in one way: give --jobs or --processes")
    experiment = _open(given, name)  # before several open it at once
    preset = experiment.preset
    if experiment.source is not None:
        from .presets import decided_by

        print(f"the architecture {experiment.source.about}, on {experiment.data.name}:")
        print("\n".join(f"  {what:<26}{here}" for what, (here, _) in decided_by(experiment.data, preset).items()), flush=True)
    searching = [] if given.source else _opening(given)
    run_commands(commands(network_names(preset), preset, searching, _alike(given, name)), given.jobs)


def _open(given: argparse.Namespace, name: str) -> Any:
    """The run of these arguments, made or gone on with."""
    from .experiment import open_experiment

    return open_experiment(name, **_chosen(given), **_places(given), source=given.source)


def _chosen(given: argparse.Namespace) -> dict[str, Any]:
    """What decides a run, as `open_experiment` takes it."""
    settings = {"profile": given.profile, "data": given.data, "seed": given.seed, "changes": given.set, "variant": given.variant}
    return settings | _reading(given)


def _places(given: argparse.Namespace) -> dict[str, Any]:
    """Where it is computed and kept, and where its data lie."""
    return {"device": given.device, "results": given.results, "data_root": given.data_root}


def _opening(given: argparse.Namespace) -> list[str]:
    """The options of `search` that make the run."""
    chosen = _chosen(given)
    return _written({"set": chosen.pop("changes"), **chosen})


def _speaks() -> bool:
    """Of the processes that torchrun has started, the first says what all would say."""
    return os.environ.get("RANK", "0") == "0"


def _search_in_processes(given: argparse.Namespace, name: str) -> None:
    from .steps import in_processes

    in_processes(given.processes, ["search", *_alike(given, name), *_opening(given)])


def _train_in_processes(given: argparse.Namespace, name: str) -> None:
    from .steps import in_processes

    in_processes(given.processes, ["train", *_alike(given, name)])


def _alike(given: argparse.Namespace, name: str) -> list[str]:
    return _written({"run_name": name, **_places(given), "sync_batch_norm": given.sync_batch_norm})


BEFORE = {
    "01": _search_in_processes,
    "03": _train_in_processes,
    "07": _train_in_processes,
}  # the notebooks then read what these leave


def nb(given: argparse.Namespace) -> None:
    """One notebook; its executed copy goes to the run's folder."""
    from . import notebooks

    path = notebooks.find(given.notebook)
    parameters: dict[str, Any] = notebooks.typed(path, dict(given.parameters))
    results = Path(given.results).resolve()
    if "RESULTS" in notebooks.parameters_of(path):
        parameters.setdefault("RESULTS", os.path.relpath(results, notebooks.FOLDER))
    if "DATA" in parameters:
        parameters["DATA"] = _from_notebooks(parameters["DATA"])
    if "FROM" in parameters:
        parameters["FROM"] = _source_from_notebooks(parameters["FROM"])
    default = notebooks.parameters_of(path).get("RUN", ("str", "'demo'", ""))[1].strip("'\"")
    target = results / parameters.get("RUN", default) / "notebooks" / path.name
    with _environment(), notebooks.one_kernel() as kernel:
        notebooks.execute(path, target, parameters, kernel)
    print(f"done; the executed notebook: {target}")


def open_lab(given: argparse.Namespace) -> int:
    """JupyterLab on the notebooks' folder."""
    from . import notebooks

    with _environment():
        return subprocess.call([sys.executable, "-m", "jupyterlab", f"--notebook-dir={notebooks.FOLDER}", *given.arguments])


def show_cost(given: argparse.Namespace) -> None:
    """What an architecture costs, as a line of text or JSON."""
    from .architecture import blueprint_cost, zoo

    name = zoo.full_name(given.name)
    if name in zoo.paper_only():
        return _show_printed(name, zoo.paper_only()[name], given.json)
    blueprint, note = _blueprint(given, given.classes)
    counted = blueprint_cost(blueprint, given.image_size)
    if given.json:
        fields = {"parameters": counted.parameters, "multiply_adds": counted.multiply_adds}
        noted = {"note": note} if note else {}
        print(json.dumps({"name": blueprint.name, **fields, "table1_flops": counted.table1_flops, **noted}))
        return
    print(
        f"{blueprint.name}: {counted.parameters / 1e6:.1f}M parameters, "
        f"{counted.multiply_adds / 1e6:.2f}M multiply-adds, {counted.table1_flops / 1e6:.2f}M FLOPs in the convention of Table 1 "
        f"({blueprint.size}, {given.image_size}x{given.image_size})"
    )
    if note:
        print(note)


def _blueprint(given: argparse.Namespace, num_classes: int = 10) -> tuple[AnyBlueprint, str]:
    """The network of a name or a genotype file at the size that is asked for, and what is to be noted about it."""
    from .architecture import Blueprint, Genotype, zoo

    size = {k: v for k, v in (("num_cells", given.num_cells), ("channels", given.channels)) if v is not None}
    if given.name.endswith(".json") or Path(given.name).is_file():
        from .presets import space_of

        genotype = Genotype.load(given.name)
        size = {"num_cells": 20, "channels": 64} | size
        return Blueprint(genotype=genotype, space=space_of(genotype), num_classes=num_classes, **size), ""
    entry = zoo.load(zoo.full_name(given.name))
    return entry.blueprint(num_classes, **size), entry.note


def draw_architecture(given: argparse.Namespace) -> None:
    """The stack of a network, or one of its cells, as a file."""
    from .drawing import cell_name, draw_cell, draw_network
    from .runs import write_atomically

    blueprint, _ = _blueprint(given)
    name = f"{given.kind} cell" if given.kind else None if given.cell is None else cell_name(blueprint, given.cell)
    plain = "-".join(filter(None, (_plain(blueprint.name).lower(), name and name.replace(" ", "-"))))
    out = Path(given.out or f"{plain}.svg")
    format = out.suffix.removeprefix(".").lower()
    if name is None:
        picture = draw_network(blueprint, image_size=given.image_size, format=format)
    else:
        picture = draw_cell(blueprint, name, format=format)
    write_atomically(out, picture)
    print(f"written: {out}")


def _show_printed(name: str, note: str, as_json: bool) -> None:
    """What Table 1 prints of a network that cannot be built."""
    from .paper import table1

    (row,) = (each for each in table1() if each["model"] == name)
    if as_json:
        counted = dict.fromkeys(("parameters", "multiply_adds", "table1_flops"))
        print(json.dumps({"name": name, **counted, "printed": {k: row[k] for k in ("params", "flops")}, "note": note}))
    else:
        print(f"{name}: {row['params']} parameters and {row['flops']} FLOPs as Table 1 prints them, not counted here\n{note}")


def run_bench(given: argparse.Namespace) -> int:
    """Measure, write each entry as it is done, and show all there are. What a stop leaves is kept."""
    from . import bench

    only = ",".join(bench.COUNTS) if given.count and not given.only else given.only
    options = {"device": given.device, "only": only, "batches": given.batch, "rounds": given.rounds, "quick": given.quick}
    todo, stopped = bench.make_bench(Path(given.results), **options), False
    try:
        for _ in todo.run(lambda words: print(words, flush=True)):
            pass
    except KeyboardInterrupt:
        print("stopped; what was measured is kept, and --only names what is still to be measured", file=sys.stderr)
        stopped = True
    print(bench.table(bench.read(todo.path), with_targets=not given.quick))
    for path in (todo.path, *bench.draw(todo.path)):
        print(f"written: {path}")
    return 130 if stopped else 0


def run_sweep(given: argparse.Namespace) -> int:
    """Every row at every seed that is not done yet, then the tables; each is written anew when one of its rows is done."""
    from .sweep import Job, Table, make_engine

    options = {key: getattr(given, key) for key in ("address", "gpus_per_job", "cpus_per_job", "retries")}
    engine = make_engine(given.engine, **{key: value for key, value in options.items() if value is not None})
    rows = [row for row in given.rows.split(",") if row]
    tables = {sweep.name: Table(sweep=sweep) for sweep in _sweeps(given)}
    jobs = [Job(sweep=table.sweep, task=task) for table in tables.values() for task in table.sweep.tasks(rows)]
    if given.dry:
        for job in jobs:
            print(f"{job.state():5}  {job.task.run}: {job.task.row.about}")
        return 0
    for table in tables.values():
        table.sweep.check()
    failed = _follow_jobs(engine(jobs), len(jobs), tables)
    for table in tables.values():
        print(f"{table.text()}\nwritten: {table.write()}")
    if failed:
        why = "; ".join(f"{run} ({sentence})" for run, sentence in failed.items())
        print(f"error: {len(failed)} of {len(jobs)} runs failed, the same command tries them again: {why}", file=sys.stderr)
    return 1 if failed else 0


def _sweeps(given: argparse.Namespace) -> list[Any]:
    """A sweep for each data set. Raises WorkbookError."""
    from .sweep import Sweep, grids

    known, sets = grids(), given.data or ["digits"]
    if given.grid not in known:
        raise unknown("grid", given.grid, known)
    names = [f"{given.grid}-{given.profile}-{_plain(data)}" for data in sets]
    if given.name:
        names = [given.name] if len(sets) == 1 else [f"{given.name}-{_plain(data)}" for data in sets]
    if len(set(names)) < len(names):
        raise WorkbookError(f"several data sets need names that differ; got {', '.join(names)}")
    common = {"profile": given.profile, **_reading(given), "changes": given.set, "device": given.device}
    return [
        Sweep(
            name=name,
            grid=known[given.grid],
            seeds=_whole_numbers(given.seeds),
            results=Path(given.results),
            settings={**common, "data": data},
        )
        for name, data in zip(names, sets, strict=True)
    ]


def _follow_jobs(progress: Generator[Any], num_jobs: int, tables: Mapping[str, Any]) -> dict[str, str]:
    """Say what happens to jobs, and write their tables; the sentence of each that failed, by run."""
    from .notebooks import line

    states: dict[str, str] = {}
    failed: dict[str, str] = {}
    spoken = time.monotonic()
    with closing(progress):  # a stop in here also ends what is under way elsewhere
        for told in progress:
            run = told.job.task.run
            if told.kind == "event":
                event = told.event
                for warning in event.warnings:
                    print(f"{run}: warning: {warning}")
                partial = event.kind in ("step", "measuring") or "done" in event.metrics
                if not partial or time.monotonic() - spoken > SECONDS_BETWEEN_LINES:
                    print(f"{run}: {line(event)}", flush=True)
                    spoken = time.monotonic()
                continue
            states[run] = told.kind
            counts = [list(states.values()).count(kind) for kind in ("done", "started", "failed")]
            words = {"started": f"begun again (attempt {told.attempt})" if told.attempt > 1 else told.job.task.row.about}
            counted = f"[{counts[0]} done, {counts[1]} running, {counts[2]} failed of {num_jobs}]"
            print(f"{counted} {run}: {words.get(told.kind, told.kind)}", flush=True)
            if told.kind == "failed":
                failed[run] = told.why
                print(told.details or told.why, file=sys.stderr)
            elif told.kind == "done":
                tables[told.job.sweep.name].write()
    return failed


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise WorkbookError(f"seeds are whole numbers, as 0,1,2; got {text!r}") from None


def write_comparison(given: argparse.Namespace) -> None:
    """The page that holds every run beside the paper, and the claims in plain lines."""
    from .report import all_findings, collect, write_comparison

    results = Path(given.results)
    if not results.is_dir():
        raise FileNotFoundError(f"no folder {results}; the runs to compare lie in --results")
    runs = [run for run in given.runs.split(",") if run] or None
    for finding in all_findings(collect(results, runs)):
        print(f"{finding.claim}: {finding.sentence}")
    print(f"the comparison: {write_comparison(results, runs)}")


def write_report(given: argparse.Namespace) -> None:
    """The report of an existing run and its model cards; of the run that the README shows, its part there and the figures."""
    from .report import write_model_cards, write_readme
    from .report import write_report as write
    from .runs import RunStore

    folder = RunStore(Path(given.results)).find(given.run).folder
    written = [*write_model_cards(folder), *(write_readme(folder, ROOT / "README.md", ROOT / "docs") if given.readme else [])]
    print(f"the report: {write(folder)}")
    for path in written:
        print(f"written: {path}")


def _plain(data: str) -> str:
    """A data set's name as part of a run's name."""
    last = Path(split_paths(data.removeprefix(FOLDER))[0]).name
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in last).strip("-") or "data"


def _from_notebooks(data: str) -> str:
    """`folder:` paths are given from where the command was started; notebooks run in their own folder."""
    from . import notebooks

    return portable(data, notebooks.FOLDER)


def _source_from_notebooks(source: str) -> str:
    """A genotype file as notebooks find it; runs and published architectures have names."""
    from . import notebooks

    return os.path.relpath(source, notebooks.FOLDER) if source.endswith(".json") else source


class _environment:
    """Kernels find the library wherever the command was started."""

    def __enter__(self) -> None:
        self.before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = python_path()

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = self.before
