"""A JupyterLab of its own on copies of notebooks, driven in a headless Chromium as a person would."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
# What JupyterLab itself complains of, whatever is shown in it.
NOT_OURS = re.compile(
    r"favicon|\.map\b|404 \(Not Found\)|the server responded with a status of 404|ResizeObserver|user-gesture|api/me|beforeunload"
)
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}


def copied(number: str, folder: Path, parameters: Mapping[str, Any], cells: tuple[str, ...] = ()) -> Path:
    """A notebook with these parameters and further cells at its end, in the folder."""
    path = next((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    source = "".join(cell["source"])
    for name, value in parameters.items():
        source, count = re.subn(rf"(?m)^({name}: \w+) = .*$", lambda match, v=value: f"{match[1]} = {v!r}", source)
        assert count == 1, name
    cell["source"] = source
    for number_, code in enumerate(cells):
        added = {"cell_type": "code", "id": f"added-{number_}", "metadata": {}, "outputs": [], "execution_count": None}
        notebook["cells"].append(added | {"source": code})
    copy = folder / path.name
    copy.write_text(json.dumps(notebook), encoding="utf-8")
    return copy


@contextmanager
def served(notebooks: Path, home: Path, theme: str = "JupyterLab Light") -> Iterator[str]:
    """The address of a JupyterLab on the notebooks, with its settings in `home`."""
    for name, value in (SETTINGS | {"@jupyterlab/apputils-extension/themes": {"theme": theme}}).items():
        path = home / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {"JUPYTERLAB_SETTINGS_DIR": home / "settings", "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces"}
    folders |= {"JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_DATA_DIR": home / "data", "IPYTHONDIR": home / "ipython"}
    environment = {**os.environ, **{name: str(path) for name, path in folders.items()}, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", f"--notebook-dir={notebooks}"]
    command += ["--IdentityProvider.token=", "--ServerApp.password="]
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("JupyterLab did not start")


class Reader:
    """Someone who has opened a notebook in a browser."""

    def __init__(self, page: Any, address: str, notebook: str):
        self.page, self.complaints = page, list[str]()
        page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._note(str(error)))
        page.goto(f"{address}/lab/tree/{notebook}")
        self.wait_until_idle()

    def _note(self, words: str) -> None:
        if not NOT_OURS.search(words):
            self.complaints.append(words)

    def wait_until_idle(self) -> None:
        """Until the status bar says that the kernel waits."""
        self.page.locator("text=/Python 3.*\\| Idle/").first.wait_for(timeout=60_000)

    def menu(self, *words: str) -> None:
        """Choose from the menu bar."""
        first, *others = words
        self.page.locator(f".lm-MenuBar-itemLabel >> text={first}").first.click()
        for each in others:
            self.page.locator(f".lm-Menu-itemLabel >> text=/^{each}/").first.click()

    def run_all(self) -> None:
        """Every cell from above; chosen again where JupyterLab, still starting, has let the choice pass."""
        begun = self.page.locator(".jp-CodeCell .jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
        for _ in range(3):
            self.menu("Run", "Run All Cells")
            try:
                begun.first.wait_for(timeout=20_000)
                return
            except Exception:  # playwright's own TimeoutError, which this module need not have
                self.page.keyboard.press("Escape")
        raise RuntimeError("no cell began to run")

    def run_last_cell(self) -> None:
        """As by Shift-Enter in it."""
        self.page.locator(".jp-Notebook .jp-CodeCell .cm-content").last.click()
        self.page.keyboard.press("Control+Enter")

    def save(self) -> None:
        """By the menu, which works wherever the focus is; until the tab no longer says that something is unsaved."""
        self.menu("File", "Save Notebook")
        self.page.locator(".jp-mod-dirty").first.wait_for(state="detached", timeout=30_000)
        self.page.wait_for_timeout(300)

    def reload(self) -> None:
        """Save, then load the page anew."""
        self.save()
        self.page.reload()
        self.page.locator(".jp-Notebook").wait_for(timeout=60_000)

    def drawing(self, caption: str) -> str:
        """The first picture whose caption has these words."""
        figure = self.page.locator(".dsara figure", has_text=caption).first
        return figure.inner_html()

    def look_back(self) -> None:
        """Move the slider to the first epoch, by the keyboard."""
        handle = self.page.locator(".widget-slider .noUi-handle").first
        handle.focus()
        handle.press("Home")

    def status(self) -> str:
        """What the panel says it does."""
        return self.page.locator(".dsara .where").first.inner_text(timeout=30_000)

    def wait_for_status(self, words: str, seconds: float = 60) -> str:
        """Until the panel's line matches."""
        self.page.locator(".dsara .where", has_text=re.compile(words)).first.wait_for(timeout=1000 * seconds)
        return self.status()

    def press(self, name: str) -> None:
        """Press one of the panel's buttons."""
        button = self.page.locator(f"button.jupyter-button:has-text('{name}')").first
        button.scroll_into_view_if_needed()
        button.click(timeout=30_000)
