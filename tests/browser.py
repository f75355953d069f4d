"""Find or install Chromium for the browser tests, and record what a page does in it.

Run this file as a script to install Debian's Chromium if there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Return the path of Chromium on this machine, or ``None``."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


def install_chromium() -> None:
    """Install Debian's package if this user may; otherwise print what to do."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(
            "no Chromium was found and it cannot be installed here, so the browser tests will fail; "
            "install 'chromium' or set $CHROMIUM to its path"
        )
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
    ):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


class Visit:
    """Open a page, and record its messages and requests.

    Attributes:
        page: the page of Playwright.
        messages: console messages, errors and dialogs.
        requests: the URLs that the page requested.
    """

    def __init__(self, browser: Any, page: Path, **options: Any) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: (self.messages.append("dialog"), dialog.dismiss()))
        self.page.goto(page.as_uri())
        self.page.wait_for_function(
            "document.querySelectorAll('.chart .main-svg').length >= document.querySelectorAll('.chart').length"
        )


if __name__ == "__main__":
    if find_chromium() is None:
        install_chromium()
    sys.exit(0)
