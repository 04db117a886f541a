"""What the numbered notebooks share: their parameters, following a job, showing a figure, and running them headlessly.

A notebook's `parameters` cell annotates each parameter with its type. `begin(globals())` checks what came against it, so
that a misspelt name or a value of another type ends in a sentence and not, as with papermill alone, in a wrong run.
"""

from __future__ import annotations

import builtins
import json
import os
import re
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .errors import WorkbookError, unknown
from .processes import ROOT, SECONDS_TO_STOP
from .runs import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .architecture import Genotype
    from .distributed import Group
    from .engine import Event
    from .experiment import Experiment

FOLDER = ROOT / "notebooks"
PARAMETER = re.compile(r"^([A-Z][A-Z0-9_]*)\s*:\s*([^=#]+?)\s*=\s*(.+?)(?:\s{2,}#\s*(.*))?$", re.MULTILINE)
SECONDS_BETWEEN_LINES = 10.0
BEGUN = "_begun"  # in a notebook's namespace: its parameters have been checked


# -- in a notebook -----------------------------------------------------------------------------------------------------


def begin(names: dict[str, Any], changes: str = "") -> Experiment:
    """Check the notebook's parameters and open its run: `experiment = begin(globals())`.

    With PROFILE among the parameters the run is made or gone on with; without, it must exist. `changes` are the notebook's own;
    those among its parameters come after them. Raises WorkbookError.
    """
    from .capture import compute_as_asked
    from .experiment import find_experiment, open_experiment

    compute_as_asked()
    given = checked_parameters(names, only_declared=BEGUN not in names)
    names[BEGUN] = True
    places: dict[str, Any] = {
        "results": from_here(given.get("RESULTS", "../results")),
        "data_root": from_here(given.get("DATA_ROOT", "../data")),
    }
    if "PROFILE" in given:
        experiment = open_experiment(
            given["RUN"],
            profile=given["PROFILE"],
            data=given["DATA"],
            limit=given["LIMIT"] or None,
            size=given.get("SIZE") or None,
            skip_unreadable=given.get("SKIP_UNREADABLE", False),
            seed=given.get("SEED", 0),
            changes=" ".join(filter(None, [changes, given["CHANGES"]])),
            variant=given.get("VARIANT", ""),
            source=given.get("FROM", ""),
            device=given["DEVICE"],
            **places,
        )
    else:
        experiment = find_experiment(given["RUN"], device=given["DEVICE"], **places)
    experiment.use_its_threads()
    for words in experiment.warnings():
        print("warning:", words)
    return experiment


def from_here(path: str) -> Path:
    """A folder given relative to the notebooks' own, wherever the kernel was started (papermill starts it where it was called)."""
    return Path(os.path.normpath(FOLDER / path))


def checked_parameters(names: Mapping[str, Any], only_declared: bool = True) -> dict[str, Any]:
    """The annotated upper-case names with their values. Raises WorkbookError for an unknown one and for another type.

    Later in a notebook, when `begin` runs a second time, other names in capitals are the reader's own: not `only_declared`.
    """
    declared = {name: kind for name, kind in names.get("__annotations__", {}).items() if name.isupper()}
    for name, value in names.items():
        if only_declared and name.isupper() and not name.startswith("_") and name not in declared and is_plain(value):
            raise unknown("notebook parameter", name, declared)
    for name, kind in declared.items():
        kind = getattr(builtins, kind, None) if isinstance(kind, str) else kind
        value = names[name]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise WorkbookError(f"notebook parameter {name} is a {kind.__name__}; got {value!r}")
    return {name: names[name] for name in declared}


def is_plain(value: Any) -> bool:
    """True for what papermill can inject."""
    return value is None or isinstance(value, bool | int | float | str | list | dict | tuple)


def follow(events: Generator[Event, None, None], group: Group | None = None) -> dict[str, Any]:
    """Draw all events of a job, with a plain line for each epoch (and now and then within a long one); the last metrics.

    Interrupted (Ctrl-C, the notebook's stop button, SIGTERM), it ends after the step under way, which is kept. Of a group of
    processes the first one speaks.
    """
    from .distributed import ALONE
    from .engine import until_stopped

    group = ALONE if group is None else group

    last: dict[str, Any] = {}
    spoken = time.monotonic()
    for event in until_stopped(events, group):
        if not group.is_first:
            continue
        for warning in event.warnings:
            print("warning:", warning)
        if event.kind == "epoch":
            last = event.metrics
            if "warning" in event.metrics:
                print("warning:", event.metrics["warning"])
        # A step, a batch that is measured, or one of a row of an evaluation.
        partial = event.kind in ("step", "measuring") or "done" in event.metrics
        if not partial or time.monotonic() - spoken > SECONDS_BETWEEN_LINES:
            print(line(event), flush=True)
            spoken = time.monotonic()
    return last


def line(event: Event) -> str:
    """One readable line: what happened, and the losses and accuracies."""
    parts = [f"{event.kind} {event.epoch}/{event.num_epochs}"]
    if event.num_steps:
        parts = [f"epoch {event.epoch + 1}/{event.num_epochs}, step {event.step}/{event.num_steps}"]
    for key, value in event.metrics.items():
        if key in ("row", "stage"):
            parts.append(f"{key} {value}")
        elif key == "done":
            parts.append(str(value))
        elif isinstance(value, float) and ("accuracy" in key or key.endswith("_loss") or key == "gamma"):
            parts.append(f"{key} {value:.3f}")
    if "seconds" in event.metrics:
        parts.append(f"{event.metrics['seconds']:.1f} s")
    return " · ".join(parts)


def show(experiment: Experiment, figure: Figure, name: str) -> None:
    """Save a figure in the run as SVG and PNG and display it."""
    from IPython.display import Image, display

    from .plots import save

    paths = save(figure, experiment.run.path("figures"), name)
    png = next(path for path in paths if path.suffix == ".png")
    display(Image(data=png.read_bytes(), width=min(1000, int(figure.get_figwidth() * 110))))


def show_cells(experiment: Experiment, *genotypes: Genotype, kinds: Iterable[str] | None = None) -> None:
    """Save cell graphs as SVG and PNG and display them, kind by kind, those of the genotypes below each other.

    The found genotype's go to the run's figures, others to a folder of their own there.
    """
    from IPython.display import display

    from .drawing import save_cells

    shown = tuple(dict.fromkeys(kind for each in genotypes for kind in each.cells)) if kinds is None else tuple(kinds)
    figures = experiment.run.path("figures")
    folders = {each.name: figures if each.name == "found" else figures / plain(each.name) for each in genotypes}
    for genotype in genotypes:
        save_cells(genotype, folders[genotype.name])
    for kind in shown:
        for name in (each.name for each in genotypes if kind in each.cells):
            svg, png = (folders[name] / f"cell_{kind}.{format}" for format in ("svg", "png"))
            # Readers that do not trust a notebook leave SVG out; they show the PNG.
            pixels = png.read_bytes()
            picture = {"image/svg+xml": svg.read_text("utf-8"), "image/png": b64encode(pixels).decode()}
            width = int.from_bytes(pixels[16:20], "big") // 2  # of the file's header; two pixels to one on the page
            display({**picture, "text/plain": f"{name}: {kind} cell"}, metadata={"image/png": {"width": width}}, raw=True)


def plain(name: str) -> str:
    """A name as that of a folder: a genotype's is free text, and may come from a stranger."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:100] or "-"


# -- headless ----------------------------------------------------------------------------------------------------------


def find(name: str) -> Path:
    """A notebook by number, name or path. Raises WorkbookError with the known ones."""
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    known = sorted(path for path in FOLDER.glob("[0-9]*.ipynb"))
    for path in known:
        if name in (path.stem, path.name, path.stem.split("_")[0], path.stem.split("_")[0].lstrip("0")):
            return path
    raise unknown("notebook", name, [path.stem for path in known])


def parameters_of(path: Path) -> dict[str, tuple[str, Any, str]]:
    """Name: (type, default, help) of each line of the notebook's parameters cell. Raises WorkbookError where it is no notebook."""
    try:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if "parameters" in cell.get("metadata", {}).get("tags", []):
                found = PARAMETER.findall("".join(cell["source"]))
                return {name: (kind.strip(), default, help_) for name, kind, default, help_ in found}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WorkbookError(f"{path} is not a whole notebook ({type(error).__name__}: {error})") from error
    return {}


def typed(path: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Parameters given as text, brought to the types that the notebook declares. Raises WorkbookError."""
    declared = parameters_of(path)
    readers: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": _truth}
    result: dict[str, Any] = {}
    for name, text in given.items():
        if name not in declared:
            raise unknown(f"parameter of {path.stem}", name, declared)
        kind = declared[name][0]
        try:
            result[name] = readers.get(kind, str)(text)
        except ValueError:
            raise WorkbookError(f"parameter {name} of {path.stem} is a {kind}; got {text!r}") from None
    return result


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(text)
    return text.lower() in ("true", "1", "yes")


@contextmanager
def one_kernel() -> Iterator[Any]:
    """A Python kernel for several notebooks one after another: torch is imported once."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    # Without the argument the kernel warns that it listens on this machine, before each first notebook.
    manager.start_kernel(cwd=str(FOLDER), extra_arguments=["--IPKernelApp.log_level=40"])
    try:
        yield manager
    except KeyboardInterrupt:
        _on_a_thread(_let_it_stop, manager)
        raise
    finally:
        _on_a_thread(manager.shutdown_kernel, True)


def _on_a_thread(function: Callable[[Any], Any], given: Any) -> None:
    """Call it there, whatever it raises: this thread's loop still waits for what papermill was waiting for when interrupted."""

    def call() -> None:
        with suppress(Exception):
            function(given)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join()


def _let_it_stop(manager: Any) -> None:
    """Interrupt the cell under way and wait until it has kept what it can; no longer where it takes too long, or is dead."""
    manager.interrupt_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SECONDS_TO_STOP)
    finally:
        client.stop_channels()


def execute(path: Path, output: Path, parameters: Mapping[str, Any], manager: Any) -> None:
    """Run a notebook with papermill in that kernel, from a clean namespace, and write the executed copy.

    Raises WorkbookError with the sentence that a cell ended in; the copy then shows how far it came.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    _forget(manager)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(path),
            str(output),
            parameters=({"INTERACTIVE": False} if "INTERACTIVE" in parameters_of(path) else {}) | dict(parameters),
            km=manager,
            cwd=str(FOLDER),
            stdout_file=Below(sys.stdout),
            stderr_file=Below(sys.stderr),
            progress_bar=False,
            request_save_on_cell_execute=True,
        )
    except PapermillExecutionError as error:
        _without_folders(output)
        raise WorkbookError(f"{path.stem}, cell {error.cell_index + 1}: {error.evalue} (see {output.name})") from error
    _without_folders(output)


class Below:
    """A stream for what the cells of a notebook say, set in below the notebook's name."""

    def __init__(self, stream: TextIO):
        self.stream, self._begins = stream, True

    def write(self, text: str) -> None:
        """Text may come in parts of lines."""
        for part in text.splitlines(keepends=True):
            self.stream.write("    " * (self._begins and part != "\n") + part)
            self._begins = part.endswith("\n")

    def flush(self) -> None:
        self.stream.flush()


def _without_folders(executed: Path) -> None:
    """Papermill notes where the notebooks lay on this machine: an executed copy is shown to others, and keeps their names alone."""
    import nbformat

    notebook = nbformat.read(executed, as_version=4)
    noted = notebook.metadata.get("papermill", {})
    noted |= {key: Path(noted[key]).name for key in ("input_path", "output_path") if noted.get(key)}
    write_atomically(executed, nbformat.writes(notebook).encode())


def _forget(manager: Any) -> None:
    """Clear the names of the notebook before; modules stay imported."""
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        client.execute_interactive(
            f"%reset -f\n[globals().pop(name, None) for name in ('__annotations__', {BEGUN!r})];", silent=True, timeout=60
        )
    finally:
        client.stop_channels()
