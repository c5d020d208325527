"""A report's page in a real browser, with what it asked for and complained about."""

import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

needs_browser = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="no driver for Chromium; pip install playwright",
    ),
]


class Opened:
    """A page with everything it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, width: int = 1280):
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        self.until("window.Plotly !== undefined")

    def until(self, expression: str, seconds: float = 30.0) -> None:
        """Wait until an expression is true; Playwright's own way needs eval, which the page forbids."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(50)

    def chart(self, title: str) -> Any:
        """Return the chart of that title, drawn as its controls say."""
        figure = self.page.locator(f'figure[data-title="{title}"]').first
        figure.scroll_into_view_if_needed()
        figure.locator(".plot[aria-busy=false] .main-svg").first.wait_for()
        return figure.locator(".plot")

    def names(self, title: str) -> list[str]:
        """Return the names of the lines of a chart."""
        return self.chart(title).evaluate(
            "plot => plot.data.filter(trace => trace.meta === 'main').map(trace => trace.name)"
        )


def draw_all(opened: Opened, folds: str = "details") -> int:
    """Unfold everything and scroll until every chart is drawn; return how many there are."""
    page = opened.page
    page.evaluate(f"document.querySelectorAll('{folds}').forEach(fold => {{ fold.open = true; }})")
    # what a change of width, theme or folds asks for is known after a frame
    page.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
    )
    drawn = ".plot[aria-busy=false] .main-svg"
    waiting = page.locator(f"figure:visible:not(:has({drawn}))")
    while figures := waiting.element_handles():
        figures[0].scroll_into_view_if_needed()  # the charts around it are drawn too
        figures[0].wait_for_selector(drawn)
    return page.locator("figure:visible").count()


def fold_all(opened: Opened) -> None:
    """Leave the page as it opens."""
    opened.page.evaluate(
        "document.querySelectorAll('details').forEach(fold => { fold.open = false; })"
    )
    opened.page.evaluate("window.scrollTo(0, 0)")
