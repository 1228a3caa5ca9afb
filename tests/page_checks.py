"""What a page must satisfy in a real browser: no horizontal overflow, contrast, text alternatives, order of headings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

MIN_CONTRAST, MIN_CONTRAST_LARGE = 4.5, 3.0  # WCAG 2.2 AA

# the text nodes whose contrast with the background behind them is too low, as "ratio: text"
LOW_CONTRAST = """([normal, large]) => {
  const parse = text => { const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a ?? 1] };
  const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const background = element => {
    if (!element) return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, background(element.parentElement));
  };
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (nodes.nextNode()) {
    const element = nodes.currentNode.parentElement, text = nodes.currentNode.textContent.trim();
    if (!text || !element.checkVisibility({visibilityProperty: true}) || ['SCRIPT', 'STYLE'].includes(element.tagName)) continue;
    const style = getComputedStyle(element), behind = background(element);
    const [one, two] = [luminance(over(parse(style.color), behind)), luminance(behind)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < (isLarge ? large : normal)) found.push(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return found;
}"""
WITHOUT_ALT = "[...document.querySelectorAll('img, svg[role=img]')].filter(one => !(one.alt ?? '').trim()).length"
HEADINGS = "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(one => Number(one.tagName[1]))"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def page_problems(page: Page) -> list[str]:
    """Return what is wrong with the page that is open, as one line per problem."""
    problems = [f"contrast {one}" for one in page.evaluate(LOW_CONTRAST, [MIN_CONTRAST, MIN_CONTRAST_LARGE])]
    width = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    if width[0] > width[1]:
        problems.append(f"{width[0]} pixels wide in a window of {width[1]}")
    if without := page.evaluate(WITHOUT_ALT):
        problems.append(f"{without} images without a text alternative")
    levels = page.evaluate(HEADINGS)
    if levels[:1] != [1] or levels.count(1) != 1:
        problems.append(f"not exactly one h1, first: {levels}")
    return problems + [f"h{low} is followed by h{high}" for low, high in pairwise(levels) if high > low + 1]
