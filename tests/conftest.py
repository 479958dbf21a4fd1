"""For all tests: no deadline for examples, and a real browser for the live page."""

import contextlib
import shutil

import pytest
from hypothesis import settings

# Examples may take long on a busy machine, and that is no failure.
settings.register_profile("dpace", deadline=None)
settings.load_profile("dpace")

CHROMIUM = "chromium"


@pytest.fixture(scope="session")
def open_browser():
    """Start a browser: `with open_browser() as browser: ...`.

    While one is open no asynchronous test can run in this thread: close it with the last test that
    needs it.
    """
    return _open_browser


@contextlib.contextmanager
def _open_browser():
    playwright = pytest.importorskip("playwright.sync_api")
    executable = shutil.which(CHROMIUM)
    if executable is None:
        pytest.skip(f"{CHROMIUM} is not installed")
    with playwright.sync_playwright() as driver:
        # Without a sandbox of its own, because a container's root user may make none.
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
