"""Run folders and open pages that the tests of the report share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_pages import ARGUMENTS, CHROMIUM, Opened
from report_runs import HOSTILE, poison, write_comparison, write_run

from uniapl.report import build_report


@pytest.fixture(scope="session")
def hostile() -> str:
    """Return text that would act if it were taken for markup."""
    return HOSTILE


@pytest.fixture
def poisoned_run(tmp_path: Path) -> Path:
    """A run that carries markup wherever it can carry text."""
    folder = write_run(tmp_path / "poisoned", steps=20, n=10, model={"path": HOSTILE}, note=HOSTILE)
    poison(folder)
    return folder


@pytest.fixture(scope="session")
def twenty_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five arms of four seeds."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / f"{method}-{seed}", method=method, seed=seed, steps=150, n=60)
        for method in ("sft", "grpo", "sft-grpo", "mix", "uniapl")
        for seed in range(4)
    ]


@pytest.fixture(scope="session")
def two_hundred_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two hundred arms of one run each, with 20,000 completions of evaluations in all."""
    folder = tmp_path_factory.mktemp("many")
    return [write_run(folder / f"run-{k}", steps=40, n=50, note=k) for k in range(200)]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a run folder under `tmp_path` by name."""

    def make(name: str = "run", **keywords: object) -> Path:
        return write_run(tmp_path / name, **keywords)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def finished_run(make_run: Callable[..., Path]) -> Path:
    return make_run()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Not for the session: while Playwright is open, no other test can run an event loop.
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
def compared_page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The page of a comparison of three arms."""
    opened = Opened(browser, build_report([write_comparison(tmp_path_factory.mktemp("compared"))]))
    yield opened
    opened.page.close()
