"""The dashboard as it is started by its command, seen by a real browser."""

import shutil
import sys
from pathlib import Path

import pytest

from search.events import TrialStarted
from search.folder import RunFolder
from tests.dashboard.browser import child, chromium, free_port, wait_until_open
from tests.dashboard.logs import COMPLETE, reported, started, trial, write

PROGRAMS = ("chromium", "chromedriver")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
# The table is drawn on a canvas; for screen readers it is also there as cells; the second is the trial.
LEADERS = """
return [...document.querySelectorAll('[data-testid=stDataFrame]')[0]?.querySelectorAll('tbody tr') ?? []]
    .map(row => row.querySelectorAll('td')[1].textContent)
"""
LINES = "return document.querySelectorAll('.js-plotly-plot .scatterlayer path.js-line').length"


@pytest.mark.browser
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_browser_sees_a_run_go_on(tmp_path: Path) -> None:
    runs, port = tmp_path / "runs", free_port()
    folder = RunFolder(runs / "pets")
    write(runs, "pets", started(), *trial(1, 0.5, 0.6125), TrialStarted(trial=2, params={"units": 1}))
    command = [sys.executable, "-m", "search", "dashboard", "--runs", str(runs), "--port", str(port)]
    with child(command), chromium(tmp_path / "profile") as browser:
        wait_until_open(port)
        with folder.lock():
            browser.open(f"http://127.0.0.1:{port}/?run=pets")
            browser.wait_for("running", "best macro_f1", "0.6125")
            browser.wait_until(LEADERS, lambda leaders: leaders == ["1"], "trial 1 leads")
            write(runs, "pets", reported(2, 1, 0.7375), reported(2, 2, 0.8475))
            browser.wait_for("0.8475")  # by itself: nobody loads the page again
            browser.wait_until(LEADERS, lambda leaders: leaders == ["2", "1"], "trial 2 leads")
            browser.wait_until(LINES, lambda lines: lines == 2, "each trial has a curve")
            write(runs, "pets", COMPLETE)
        browser.wait_for("complete, ")
        assert browser.run("return document.querySelectorAll('[data-testid=stException]').length") == 0
