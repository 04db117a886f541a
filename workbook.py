#!/usr/bin/env python3
"""Make the environment once, then run the workbook in it:  python3 workbook.py COMMAND [arguments]

  demo      every notebook on embedded data, ending with a report to open in a browser
  run       the same chain with --profile, --data, --run, --device; stopped, it goes on where it stopped
  search    only the search of such a run, also under torchrun
  train     only its trainings
  evaluate  only the attacks on what it trained
  nb        one notebook, headless
  lab       JupyterLab on notebooks/
  cost      parameters and multiply-adds of an architecture
  draw      a network of the paper's tables as a picture
  bench     the fast ways beside the plain ones, measured here
  sweep     the rows of a table: ablations, rival methods, published networks; for several seeds
  compare   all runs beside the paper's tables, and its claims tested on them
  report    one run beside the paper's tables
  test      the tests, on all cores; with arguments they go to pytest as they are
  lint      format, lint, types
  check     lint and test

`python3 workbook.py COMMAND --help` says more. The environment is `.venv` beside this file, or where DSARA_VENV points.
"""

# Standard library only, and words that Python 3.6 can read: it must get as far as the sentence about its age.
import difflib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)
LIBRARY = (
    "demo",
    "run",
    "search",
    "train",
    "evaluate",
    "nb",
    "lab",
    "cost",
    "draw",
    "bench",
    "sweep",
    "compare",
    "report",
)  # handed to dsara_lib's command line
OURS = ("test", "lint", "check")
# The whole suite on all cores, but no more than memory allows: a worker takes about 1.5 GB.
SHARED_OUT = ("-n", "logical", "--maxprocesses", "8", "--dist", "worksteal")
LINT = (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"])
# On Linux the packages of torch bring CUDA: 6 GB installed, and as much as 3 GB of downloads on the way.
NEEDED_GB = 9 if sys.platform.startswith("linux") else 3
START = time.monotonic()

NO_SPACE = ("no space left on device", "disk quota exceeded", "os error 28", "not enough space on the disk")
NO_NETWORK = (
    *("failed to establish a new connection", "name resolution", "getaddrinfo failed", "network is unreachable"),
    *("error sending request", "failed to lookup address", "dns error", "timed out", "proxyerror"),
)
DISK_FULL = "the disk filled up while installing; free about {} GB and start again, it goes on where it stopped"


class SetupError(Exception):
    """One sentence that tells the user what to do."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - START:6.1f} s] {text}", file=sys.stderr, flush=True)


def check_python(version) -> None:
    if tuple(version[:2]) < OLDEST:
        found = ".".join(map(str, version[:3]))
        raise SetupError(f"this needs Python 3.11 or newer, and this is {found}; try python3.11 workbook.py")


def check_command(command: str) -> None:
    known = LIBRARY + OURS
    if command not in known:
        near = difflib.get_close_matches(command, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SetupError("unknown command {!r}; {}known: {}".format(command, hint, ", ".join(known)))


# ---------------------------------------------------------------------------------------------- the environment


class Environment:
    """A virtual environment with everything in requirements.lock; its stamp, written last, says that all is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
        self.stamp = folder / "dsara-stamp"
        self.log = folder / "install.log"

    @staticmethod
    def wanted() -> str:
        """What the stamp must say: the locked packages and the Python they were installed for."""
        if not LOCK.is_file():
            raise SetupError(f"{LOCK.name} is missing beside workbook.py; get it back with git")
        return "{} python {}.{}\n".format(hashlib.sha256(LOCK.read_bytes()).hexdigest(), *sys.version_info[:2])

    def is_ready(self) -> bool:
        return self.python.exists() and self.stamp.is_file() and self.stamp.read_text() == self.wanted()

    def prepare(self) -> None:
        """Afterwards everything is installed and `import dsara_lib` finds this checkout from any folder."""
        if not self.is_ready():
            self.install()
        link = self.packages / "dsara_workbook.pth"
        if not link.is_file() or link.read_text(encoding="utf-8") != str(ROOT):
            link.write_text(str(ROOT), encoding="utf-8")

    def install(self) -> None:
        wanted = self.wanted()
        self.check_disk()
        self.stamp.unlink(missing_ok=True)
        self.create()
        install_packages(self)
        self.stamp.write_text(wanted)
        say("the environment is ready")

    def check_disk(self) -> None:
        needed = 1 if (self.packages / "torch").is_dir() else NEEDED_GB
        existing = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        free = shutil.disk_usage(existing).free / 1e9
        if free < needed:
            message = "the installation needs about {} GB in {}, where {:.1f} GB are free; free some, or set DSARA_VENV"
            raise SetupError(message.format(needed, existing, free))

    def create(self) -> None:
        description = self.folder / "pyvenv.cfg"
        is_environment = description.is_file()
        if not is_environment and self.folder.is_dir() and any(self.folder.iterdir()):
            message = "{} is neither empty nor a virtual environment; name another place in DSARA_VENV, or remove it"
            raise SetupError(message.format(self.folder))
        try:
            import ensurepip  # noqa: F401  Debian and Ubuntu keep both in a package of their own
            import venv  # noqa: F401
        except ImportError:
            package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
            hint = f"on Debian or Ubuntu: sudo apt install {package}"
            raise SetupError(f"this Python cannot make virtual environments; {hint}") from None
        # An environment of another Python, or of one that is gone, cannot be repaired.
        same_python = is_environment and "= {}.{}.".format(*sys.version_info[:2]) in description.read_text()
        clear = is_environment and not (same_python and self.python.exists())
        if clear or not is_environment or not any(self.packages.glob("pip-*.dist-info/RECORD")):
            say(f"making {self.folder}")
            command = [sys.executable, "-m", "venv", *(["--clear"] if clear else []), str(self.folder)]
            done = subprocess.run(command, env=child_environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode:
                raise failure("the virtual environment could not be made", done.stdout.decode(errors="replace"))


def install_packages(environment: Environment) -> None:
    """With uv, which fetches and unpacks in parallel; with pip where uv cannot be had or does not manage."""
    python = str(environment.python)
    uv = [python, "-m", "uv"]
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    environment.log.write_bytes(b"")

    def attempt(command) -> "str | None":
        return logged(command, environment.log)

    trouble = None
    if attempt([*uv, "--version"]) is not None:
        trouble = attempt([*pip, "uv"])
        if trouble is not None and is_about(trouble, NO_SPACE + NO_NETWORK):
            raise failure("uv could not be fetched", trouble)
    if trouble is None:
        say("installing with uv; a first time, up to 3 GB are downloaded")
        trouble = attempt([*uv, "pip", "install", "--python", python, "--compile-bytecode", "-r", str(LOCK)])
        if trouble is None:
            return
        if is_about(trouble, NO_SPACE):
            raise failure("uv stopped", trouble)
    say("uv did not manage; installing with pip, which takes longer")
    trouble = attempt([*pip, "-r", str(LOCK)])
    if trouble is not None:
        raise failure(f"the packages could not be installed, see {environment.log}", trouble)
    say("compiling")
    # Some packages carry files for other Pythons, which do not compile: that is no failure.
    attempt([python, "-m", "compileall", "-q", "-j", "2", str(environment.packages)])


def logged(command, log: Path) -> "str | None":
    """Run a command with its output in the log; what it wrote if it failed, else None."""
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(command, env=child_environ(), stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    failed = process.wait(timeout=30)
                    break
                except subprocess.TimeoutExpired:
                    say(f"still installing; details in {log}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return log.read_bytes()[begin:].decode(errors="replace") if failed else None


def is_about(output: str, signs) -> bool:
    return any(sign in output.lower() for sign in signs)


def failure(what: str, output: str) -> SetupError:
    if is_about(output, NO_SPACE):
        return SetupError(DISK_FULL.format(NEEDED_GB))
    if is_about(output, NO_NETWORK):
        return SetupError("the package index cannot be reached; check the network or proxy and start again")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines or ["no output"]
    return SetupError(f"{what}: {errors[-1]}")


def child_environ(**defaults: str) -> "dict[str, str]":
    """The user's variables, which win over the defaults; but bytecode is written, or each start takes 10 s longer."""
    environ = {**defaults, **os.environ}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


# ---------------------------------------------------------------------------------------------- the commands


def hand_over(command, environ) -> int:
    """Become the command; where a process cannot (Windows), run it and pass on its exit status."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(command[0], command, environ)
    return subprocess.call(command, env=environ)


def start(python: str, command: str, arguments) -> int:
    if command in LIBRARY:
        return hand_over([python, "-m", "dsara_lib", command, *arguments], child_environ())
    os.chdir(str(ROOT))
    failed = 0
    if command in ("lint", "check"):
        for tool in LINT:
            say(" ".join(tool))
            failed |= subprocess.call([python, "-m", *tool], env=child_environ()) != 0
        if command == "lint" or failed:
            return failed
    # Two OpenMP threads on a loaded two-core machine are many times slower than one.
    return hand_over([python, "-m", "pytest", *(arguments or SHARED_OUT)], child_environ(OMP_NUM_THREADS="1"))


def main(arguments, version=sys.version_info) -> int:
    try:
        check_python(version)
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(__doc__.strip())
            return 0
        check_command(arguments[0])
        environment = Environment(Path(os.environ.get("DSARA_VENV") or ROOT / ".venv").expanduser().absolute())
        environment.prepare()
        return start(str(environment.python), arguments[0], arguments[1:])
    except KeyboardInterrupt:
        print("stopped; the next start goes on", file=sys.stderr)
        return 130
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        print(f"error: {DISK_FULL.format(NEEDED_GB) if full else error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
