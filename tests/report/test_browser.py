"""The page in a real browser: no error, no request, and its controls do what they say."""

import importlib.util
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uniapl.report import build_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LOAD_SECONDS = 2.0

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None,
        reason="no driver for Chromium; pip install playwright",
    ),
]


class Opened:
    """A page with everything it asked for and complained about."""

    def __init__(self, browser: Any, path: Path):
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
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
        figure = self.page.locator("figure", has=self.page.get_by_text(title, exact=True)).first
        figure.scroll_into_view_if_needed()
        figure.locator(".plot[aria-busy=false] .main-svg").first.wait_for()
        return figure.locator(".plot")

    def names(self, title: str) -> list[str]:
        """Return the names of the lines of a chart."""
        return self.chart(title).evaluate(
            "plot => plot.data.filter(trace => trace.meta === 'main').map(trace => trace.name)"
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


# The tests share two open pages: opening one is most of their time. Each leaves it as it was.
@pytest.fixture(scope="module")
def one(
    browser: Any, twenty_runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    opened = Opened(browser, build_report([twenty_runs[-1]], tmp_path_factory.mktemp("one")))
    yield opened
    opened.page.close()


@pytest.fixture(scope="module")
def many(
    browser: Any, twenty_runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    opened = Opened(browser, build_report(twenty_runs, tmp_path_factory.mktemp("many")))
    yield opened
    opened.page.close()


def test_twenty_runs_open_in_time(many):
    seconds = []
    for _ in range(5):  # the best of some: other work on the machine is no fault of the page
        seconds.append(
            many.page.evaluate(
                "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd / 1000"
            )
        )
        if seconds[-1] < LOAD_SECONDS:
            break
        many.page.reload()
        many.until("window.Plotly !== undefined")
    assert min(seconds) < LOAD_SECONDS, seconds


def draw_all(opened: Opened) -> int:
    """Unfold everything and scroll to every chart; return how many there are."""
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    figures = page.locator("figure").all()
    for figure in figures:
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
    return len(figures)


def test_whole_page_draws_without_complaint_or_request(one):
    page = one.page
    assert draw_all(one) > 30
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        one.until(
            "[...document.querySelectorAll('.plot')].every(plot =>"
            " Math.abs(plot.querySelector('.main-svg').clientWidth - plot.clientWidth) < 2)"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1280, "height": 900})
    assert one.complaints == []
    assert [url.partition(":")[0] for url in one.requests] == ["file"]
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0


def test_many_arms_fit_a_narrow_window(many):
    many.page.set_viewport_size({"width": 800, "height": 900})
    assert many.page.evaluate("document.documentElement.scrollWidth") <= 800
    many.page.set_viewport_size({"width": 1280, "height": 900})


def test_an_arm_can_be_switched_off_and_on(many):
    opened, page = many, many.page
    everyone = ["sft", "grpo", "sft-grpo", "mix", "uniapl"]
    assert opened.names("reward/mean") == everyone
    assert page.locator("tr[data-arm='1']").is_visible()
    page.get_by_label("grpo 4 seeds", exact=True).focus()
    page.keyboard.press("Space")
    assert opened.names("reward/mean") == ["sft", "sft-grpo", "mix", "uniapl"]
    assert page.locator("tr[data-arm='1']").is_hidden()
    for box in page.locator("#arms input").all():
        box.uncheck()
    assert opened.names("reward/mean") == []
    assert opened.names("Fluency") == []
    page.get_by_role("button", name="all", exact=True).click()
    assert opened.names("reward/mean") == everyone
    assert opened.complaints == []


def test_several_metrics_in_a_chart_are_told_apart(one, many):
    """By colour where there is one arm, else by dashes with a key; sparse values are joined."""
    lines = """plot => plot.data.filter(trace => trace.meta === 'main').map(trace => ({
        name: trace.name, color: trace.line.color, dash: trace.line.dash, gaps: trace.connectgaps }))"""
    title = "Norm of each term's gradient"
    single = one.chart(title).evaluate(lines)
    assert [line["name"] for line in single] == [
        f"uniapl, {t}" for t in ("sft", "grpo", "adversarial")
    ]
    assert len({line["color"] for line in single}) == 3
    assert {line["dash"] for line in single} == {"solid"}
    assert all(line["gaps"] for line in single)

    found = {line["name"]: line for line in many.chart(title).evaluate(lines)}
    assert "grpo, sft" not in found
    for term, dash in (("sft", "solid"), ("grpo", "dash"), ("adversarial", "dot")):
        assert found[f"uniapl, {term}"]["dash"] == dash
    assert found["uniapl, sft"]["color"] == found["uniapl, grpo"]["color"]
    assert found["uniapl, sft"]["color"] != found["mix, sft"]["color"]
    figure = many.page.locator("figure", has=many.page.get_by_text(title, exact=True)).first
    key = figure.locator(".key-line").all_inner_texts()
    assert [text.strip() for text in key] == ["sft", "grpo", "adversarial"]
    many.page.get_by_label("uniapl 4 seeds", exact=True).uncheck()
    assert not [name for name in many.names(title) if name.startswith("uniapl")]
    many.page.get_by_role("button", name="all", exact=True).click()


def test_filters_and_keys_of_the_completions(one):
    opened, page = one, one.page
    rows, count = page.locator("#sample-list button"), page.locator("#sample-count")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "sample-text"
    assert rows.count() == 60
    page.keyboard.type("old clocks")
    assert count.inner_text().startswith("10 of 60")  # every sixth task is about old clocks
    assert page.locator("mark").first.inner_text() == "old clocks"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert rows.nth(1).get_attribute("aria-current") == "true"
    page.keyboard.press("k")
    assert rows.nth(0).get_attribute("aria-current") == "true"
    page.locator("#sample-outcome").select_option("failed")
    assert 0 < rows.count() < 10
    assert page.locator("#sample-detail .checks .no").count() > 0
    page.locator("#sample-outcome").select_option("")
    page.locator("#sample-text").fill("")
    page.locator("#sample-instruction").select_option("punctuation:no_comma")
    assert 0 < rows.count() < 60
    assert "punctuation:no_comma" in page.locator("#sample-detail .checks").first.inner_text()
    page.locator("#sample-set").select_option(label="rollouts during training")
    page.locator("#sample-instruction").select_option("")
    page.locator("#sample-step").select_option("1")
    assert rows.count() == 4
    page.locator("#sample-text").fill("no such text anywhere")
    assert rows.count() == 0
    assert "Nothing matches" in page.locator("#sample-detail").inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.locator("#sample-text").fill("")
    page.locator("#sample-set").select_option("0")
    assert rows.count() == 60
    assert opened.complaints == []


def test_expert_and_policy_stand_side_by_side(one):
    page = one.page
    page.locator("#samples").scroll_into_view_if_needed()
    page.locator("#sample-detail .pane.expert").wait_for()
    policy = page.locator("#sample-detail .pane.policy").bounding_box()
    expert = page.locator("#sample-detail .pane.expert").bounding_box()
    assert abs(policy["y"] - expert["y"]) < 1
    assert expert["x"] > policy["x"] + policy["width"] - 1
    assert "before training" in page.locator("#sample-detail").inner_text()


def test_theme_follows_the_system_and_the_button(one):
    opened, page = one, one.page
    page.emulate_media(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    line = "plot => [plot.data[0].line.color, plot.layout.font.color]"
    dark, dark_line = page.evaluate(ground), opened.chart("reward/mean").evaluate(line)
    assert page.locator("#theme").inner_text().endswith("Dark")
    page.locator("#theme").press("Enter")
    light, light_line = page.evaluate(ground), opened.chart("reward/mean").evaluate(line)
    assert page.locator("#theme").inner_text().endswith("Light")
    assert dark != light
    assert all(before != after for before, after in zip(dark_line, light_line, strict=True))


def test_arrow_keys_read_a_chart(one):
    opened = one
    plot = opened.chart("reward/mean")
    plot.focus()
    opened.page.keyboard.press("ArrowRight")
    plot.locator(".hoverlayer .legend, .hoverlayer .hovertext").first.wait_for()
    assert opened.complaints == []


def test_markup_in_a_run_does_nothing(browser, poisoned_run):
    opened = Opened(browser, build_report([poisoned_run]))
    page = opened.page
    page.keyboard.press("/")
    page.locator("#sample-detail .pane.expert").wait_for()
    draw_all(opened)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert "<img src=x" in page.locator("#sample-detail").inner_text()
    assert opened.complaints == []
    page.close()
