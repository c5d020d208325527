"""The page for everyone: phone and paper, keyboard alone, dark, contrast, headings and names."""

import itertools

import pytest
from report_pages import Opened, draw_all, fold_all, needs_browser

from uniapl.report import build_report

pytestmark = needs_browser


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
def test_nothing_is_cut_or_needs_sideways_scrolling(one, compared_page, width):
    for opened in (one, compared_page):
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
def test_every_text_stands_out_from_its_ground(one, compared_page, scheme):
    for opened in (one, compared_page):
        opened.page.emulate_media(color_scheme=scheme)
        draw_all(opened, "details.section")
        assert opened.page.evaluate(CONTRAST) == []
        fold_all(opened)
        opened.page.emulate_media(color_scheme="light")


def test_headings_labels_and_names(one, compared_page):
    levels = """[...document.querySelectorAll('h1, h2, h3, h4')].filter(h => h.checkVisibility())
        .map(h => +h.tagName[1])"""
    nameless = """[...document.querySelectorAll('input, select, button, a[href], summary, [role]')]
        .filter(e => !e.closest('svg') && !e.labels?.length && !e.getAttribute('aria-label') && !e.textContent.trim())
        .map(e => e.outerHTML.slice(0, 120))"""
    for opened in (one, compared_page):
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
