"""A Chromium for the browser tests, and a page opened in it; run as a script, install Debian's if there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Path of a Chromium on this machine."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


def install() -> None:
    """Install Debian's package, where this user may."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(
            "no Chromium found, and it cannot be installed here: the browser tests will fail; install 'chromium' or set $CHROMIUM"
        )
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
    ):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


class Visit:
    """A page opened with everything written down that it says and asks for."""

    def __init__(self, browser: Any, page: Path, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.goto(page.as_uri())
        self.page.wait_for_function(
            "document.querySelectorAll('.chart .main-svg').length >= document.querySelectorAll('.chart').length"
        )


if __name__ == "__main__":
    if find() is None:
        install()
    sys.exit(0)
