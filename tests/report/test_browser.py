"""The page in a real browser: no error, no request, and its controls do what they say."""

import importlib.util
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uniapl.health import HealthWatch
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
LOAD_SECONDS = 3.0

pytestmark = [
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


@pytest.fixture(scope="module")
def compared(browser: Any, comparison_folder: Path) -> Iterator[Opened]:
    """The page of a comparison of three arms."""
    opened = Opened(browser, build_report([comparison_folder]))
    yield opened
    opened.page.close()


@pytest.mark.slow
def test_two_hundred_runs_and_twenty_thousand_samples_open_in_time(browser, two_hundred_runs):
    opened = Opened(browser, build_report(two_hundred_runs, two_hundred_runs[0].parent / "all"))
    page, seconds = opened.page, []
    for _ in range(5):  # the best of some: other work on the machine is no fault of the page
        seconds.append(
            page.evaluate(
                "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd / 1000"
            )
        )
        if seconds[-1] < LOAD_SECONDS:
            break
        page.reload()
        opened.until("window.Plotly !== undefined")
    assert min(seconds) < LOAD_SECONDS, seconds
    rows = "JSON.parse(document.getElementById('sample-data').textContent).sets"
    assert page.evaluate(f"{rows}.reduce((n, set) => n + set.rows.length, 0)") >= 20_000
    assert page.locator("#story .strip > ul > li").count() == 17  # sixteen arms and the scale
    assert page.locator("#story .strip details li").count() == 185
    page.close()


def draw_all(opened: Opened, folds: str = "details") -> int:
    """Unfold everything and scroll to every chart; return how many there are."""
    page = opened.page
    page.evaluate(f"document.querySelectorAll('{folds}').forEach(fold => {{ fold.open = true; }})")
    figures = page.locator("figure:visible").all()
    for figure in figures:
        figure.scroll_into_view_if_needed()
        figure.locator(".plot[aria-busy=false] .main-svg").first.wait_for()
    return len(figures)


def fold_all(opened: Opened) -> None:
    """Leave the page as it opens."""
    opened.page.evaluate(
        "document.querySelectorAll('details').forEach(fold => { fold.open = false; })"
    )
    opened.page.evaluate("window.scrollTo(0, 0)")


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
    fold_all(one)
    assert one.complaints == []
    assert [url.partition(":")[0] for url in one.requests] == ["file"]
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0


CUT = """() => [...document.querySelectorAll('body *')].filter((element) => {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility({ visibilityProperty: true })) return false;
    // a list shows the beginning of a prompt, a config scrolls, some words are for screen readers,
    // and a wide table scrolls, but not on a phone
    if (element.closest('.hidden, .skip, .sample-list, pre, thead, option, optgroup, noscript')) return false;
    const box = element.getBoundingClientRect();
    if (!box.width) return false;
    const plot = element.closest('.plot');
    if (!plot && element.closest('.scroll') && innerWidth > 640) return false;
    const frame = plot ? plot.getBoundingClientRect() : { left: 0, right: innerWidth };
    const isClipped = !plot && getComputedStyle(element).overflowX === 'hidden'
        && element.scrollWidth > element.clientWidth + 1;
    return isClipped || box.left < frame.left - 1 || box.right > frame.right + 1;
}).map((element) => element.outerHTML.slice(0, 120))"""
"""Elements with text of their own that reach beyond the window, or beyond their chart."""


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_or_needs_sideways_scrolling(one, compared, width):
    for opened in (one, compared):
        opened.page.set_viewport_size({"width": width, "height": 900})
        draw_all(opened, "details.section")
        opened.until(
            "[...document.querySelectorAll('.plot[aria-busy=false]')].every(plot => !plot.checkVisibility() ||"
            " Math.abs(plot.querySelector('.main-svg').clientWidth - plot.clientWidth) < 2)"
        )
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        if width == 390:  # on a phone nothing has a scrollbar of its own either
            wide = "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth + 1)"
            assert opened.page.evaluate(f"{wide}.length") == 0
        assert opened.page.evaluate(CUT) == []
        opened.page.set_viewport_size({"width": 1280, "height": 900})
        fold_all(opened)


CONTRAST = """() => {
    const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (rgb) => [0.2126, 0.7152, 0.0722]
        .reduce((sum, share, i) => sum + share * linear(rgb[i] / 255), 0);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const found = numbers(getComputedStyle(at).backgroundColor);
            if (found.length === 3 || found[3] === 1) return found;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility({ visibilityProperty: true })) continue;
        if (element.closest('.hidden, .skip, script')) continue;
        const style = getComputedStyle(element), isSvg = element.closest('svg');
        const ink = numbers(isSvg ? style.fill : style.color);
        if (ink.length < 3) continue;
        const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
    }
    return found;
}"""
"""Texts whose contrast with their ground is below 4.5 (WCAG 2, level AA)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(one, compared, scheme):
    for opened in (one, compared):
        opened.page.emulate_media(color_scheme=scheme)
        draw_all(opened, "details.section")
        assert opened.page.evaluate(CONTRAST) == []
        fold_all(opened)
        opened.page.emulate_media(color_scheme="light")


def test_headings_labels_and_names(one, compared):
    levels = """[...document.querySelectorAll('h1, h2, h3, h4')].filter(h => h.checkVisibility())
        .map(h => +h.tagName[1])"""
    nameless = """[...document.querySelectorAll('input, select, button, a[href], summary, [role]')]
        .filter(e => !e.closest('svg') && !e.labels?.length && !e.getAttribute('aria-label') && !e.textContent.trim())
        .map(e => e.outerHTML.slice(0, 120))"""
    for opened in (one, compared):
        draw_all(opened, "details.section")
        opened.page.locator("#sample-detail h3").first.wait_for()
        found = opened.page.evaluate(levels)
        assert found[0] == 1
        assert found.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(found))
        assert opened.page.evaluate(nameless) == []
        # what is drawn is said in words beside it, so nothing is an image without a text
        assert opened.page.locator("img, [role=img]").count() == 0
        assert opened.page.locator("figure:not(:has(h3))").count() == 0
        assert opened.page.locator("html[lang]").count() == 1
        ids = "[...document.querySelectorAll('[id]')].filter(e => !e.closest('svg')).map(e => e.id)"
        known = opened.page.evaluate(ids)
        assert len(known) == len(set(known))
        fold_all(opened)


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser, twenty_runs, tmp_path):
    opened = Opened(browser, build_report([twenty_runs[-1]], tmp_path / "page.html"))
    page = opened.page
    page.evaluate("document.getElementById('health').open = true")
    opened.until(
        "[...document.querySelectorAll('[data-charts]')]"
        ".every(box => box.dataset.filled || box.closest('details:not([open])'))"
    )
    wanted = page.evaluate(
        """() => {
            const all = [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex="0"]')];
            const seen = all.filter((e) => e.checkVisibility() && !e.closest('svg'));
            seen.forEach((e, i) => { e.dataset.stop = i; });
            return seen.length;
        }"""
    )
    assert wanted > 30
    reached, unseen = set(), []
    for _ in range(wanted + 20):
        page.keyboard.press("Tab")
        stop, outline, html = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
                const isSeen = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;
                return [e.dataset.stop ?? null, isSeen, e.outerHTML.slice(0, 100)]; }"""
        )
        if stop is not None:
            reached.add(int(stop))
            if not outline:
                unseen.append(html)
    assert reached == set(range(wanted))
    assert unseen == []
    page.locator("#results > summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#results table").is_visible()
    page.locator("nav a[href='#provenance']").focus()
    page.keyboard.press("Enter")
    opened.until("document.getElementById('provenance').open")
    page.close()


def test_paper_is_white_and_unfolded(browser, twenty_runs, tmp_path):
    opened = Opened(browser, build_report([twenty_runs[-1]], tmp_path / "page.html"))
    page = opened.page
    page.emulate_media(color_scheme="dark")
    state = """[getComputedStyle(document.documentElement).getPropertyValue('--ink').trim(),
        document.querySelectorAll('details.section[open]').length]"""
    before = page.evaluate(state)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    ink, unfolded = page.evaluate(state)
    assert ink != before[0]
    assert before[1] == 0
    assert unfolded == 5  # results, health, match, instructions and provenance
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(state) == before
    assert page.pdf().startswith(b"%PDF")
    assert opened.complaints == []
    page.close()


def test_the_story_is_open_and_in_order(one, compared):
    tops = """(ids) => ids.map((id) => { const e = document.getElementById(id);
        return e.checkVisibility() ? e.getBoundingClientRect().top + scrollY : -1; })"""
    for opened, ids in (
        (one, ["story", "completions", "curves", "results", "provenance"]),
        (compared, ["story", "completions", "curves", "differences", "results", "provenance"]),
    ):
        found = opened.page.evaluate(tops, ids)
        assert min(found) >= 0
        assert found == sorted(found)
        titles = opened.page.locator("#curves figure").evaluate_all(
            "all => all.map(one => one.dataset.title)"
        )
        assert titles[:2] == ["Prompts followed, strict", "Length distance to the expert, W1"]
        assert titles.index("Reward of the rollouts") < titles.index("Groups without signal")
        assert titles.index("Groups without signal") < titles.index("Reward against length")
        assert titles.index("Reward against length") < titles.index("Entropy of the policy")
        assert not opened.page.locator("table").first.is_visible()
    assert one.page.locator(".headline .figure").is_visible()
    assert compared.page.locator("#differences .strip").count() == 3
    assert compared.page.locator("#differences .verdict.better").count() == 5
    policy = one.page.locator("#completions .pane").evaluate_all(
        "all => all.slice(0, 2).map(pane => pane.getBoundingClientRect().top)"
    )
    assert policy[0] == policy[1]  # before and after, side by side


def test_health_words_are_on_the_page(one, twenty_runs):
    """The terminal's sentences, read from the same rows, stand on the page."""
    watch = HealthWatch()
    for line in (twenty_runs[-1] / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        watch.warnings(row["step"], row, 0)
    one.page.evaluate("document.getElementById('health').open = true")
    found = one.page.locator("#health .findings li > span:last-child").all_inner_texts()
    assert sorted(found) == sorted(finding.line for finding in watch.findings())
    fold_all(one)


def test_single_steps_are_faint_behind_the_smoothed_line(one):
    traces = "plot => plot.data.map(t => [t.meta || '', t.line.width, t.line.color, t.y])"
    faint, strong = one.chart("Reward of the rollouts").evaluate(traces)
    assert (faint[0], strong[0]) == ("", "main")
    assert faint[1] < strong[1]
    assert faint[2].startswith(strong[2])  # the same colour, let through
    assert len(faint[2]) == len(strong[2]) + 2
    assert faint[3] != strong[3]
    one.page.locator("#smoothing").select_option("0")
    assert len(one.chart("Reward of the rollouts").evaluate(traces)) == 1
    one.page.locator("#smoothing").select_option("0.8")


def test_many_arms_fit_a_narrow_window(many):
    many.page.set_viewport_size({"width": 800, "height": 900})
    assert many.page.evaluate("document.documentElement.scrollWidth") <= 800
    many.page.set_viewport_size({"width": 1280, "height": 900})


def test_an_arm_can_be_switched_off_and_on(many):
    opened, page = many, many.page
    everyone = ["sft", "grpo", "sft-grpo", "mix", "uniapl"]
    assert opened.names("Reward of the rollouts") == everyone
    row = page.locator("#story .strip li[data-arm='1']")
    assert row.is_visible()
    page.get_by_label("grpo 4 seeds", exact=True).focus()
    page.keyboard.press("Space")
    assert opened.names("Reward of the rollouts") == ["sft", "sft-grpo", "mix", "uniapl"]
    assert row.is_hidden()
    page.get_by_role("button", name="none", exact=True).click()
    assert opened.names("Reward of the rollouts") == []
    assert page.locator("#story .strip li[data-arm]:visible").count() == 0
    page.get_by_role("button", name="all", exact=True).click()
    assert opened.names("Reward of the rollouts") == everyone
    assert opened.complaints == []


def test_several_metrics_in_a_chart_are_told_apart(one, many):
    """By colour where there is one arm, else by dashes with a key; sparse values are joined."""
    lines = """plot => plot.data.filter(trace => trace.meta === 'main').map(trace => ({
        name: trace.name, color: trace.line.color, dash: trace.line.dash, gaps: trace.connectgaps }))"""
    title = "Norm of each term's gradient"
    for opened in (one, many):
        opened.page.evaluate("document.getElementById('health').open = true")
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
    figure = many.page.locator(f'figure[data-title="{title}"]').first
    key = figure.locator(".key-line").all_inner_texts()
    assert [text.strip() for text in key] == ["sft", "grpo", "adversarial"]
    many.page.get_by_label("uniapl 4 seeds", exact=True).uncheck()
    assert not [name for name in many.names(title) if name.startswith("uniapl")]
    many.page.get_by_role("button", name="all", exact=True).click()
    for opened in (one, many):
        fold_all(opened)


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
    page.evaluate("document.getElementById('samples').open = true")
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
    dark, dark_line = page.evaluate(ground), opened.chart("Reward of the rollouts").evaluate(line)
    assert page.locator("#theme").inner_text().endswith("Dark")
    page.locator("#theme").press("Enter")
    light, light_line = page.evaluate(ground), opened.chart("Reward of the rollouts").evaluate(line)
    assert page.locator("#theme").inner_text().endswith("Light")
    assert dark != light
    assert all(before != after for before, after in zip(dark_line, light_line, strict=True))


def test_arrow_keys_read_a_chart(one):
    opened = one
    plot = opened.chart("Reward of the rollouts")
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
