"""Find a Chromium for the browser tests; as a script, install one where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW_TO = "The browser tests need Chromium: install your system's package or run `playwright install chromium`."


def find_chromium() -> str | None:
    """Return the path of an installed Chromium: the system's, else Playwright's own, else None."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        bundled = playwright.chromium.executable_path
    return bundled if Path(bundled).exists() else None


def install_chromium() -> None:
    """Install Chromium from the system's packages where this user may, else Playwright's build."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        installed = subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], check=False
        )
        if installed.returncode == 0:
            return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


def main() -> None:
    """Make sure that there is a Chromium, or say in one line how to get one."""
    if find_chromium() is None:
        install_chromium()
    if find_chromium() is None:
        sys.exit(HOW_TO)


if __name__ == "__main__":
    main()
