"""The report's page in a real browser, from file:// and without a network: what a person does with it works."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from conformance.report_files import write_report
from conformance.verdicts import Outcome
from tests.unit.conformance.samples import GREEN, make_report, piece, proof, record, run

LIMIT_MS = 20_000
HOSTILE = "</script><script>document.title = 'taken over'</script><img src=x onerror=alert(1)>"
PHONE = {"width": 375, "height": 812}
LAPTOP = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with three hosts, a verdict of most kinds, and a payload that wants to be HTML."""
    directory = tmp_path_factory.mktemp("report")
    evidence = (piece(stderr=HOSTILE, kernel=["a line of the kernel"], denials=1, stdout="x" * 400),)
    failed = record("AB-001", Outcome.FAILED, Outcome.PASSED, message=HOSTILE, evidence=evidence)
    runs = (
        run(*GREEN, profile="local"),
        run(failed, *GREEN[1:], profile="debian12-with-a-long-name", errors=(HOSTILE,)),
        run(*GREEN, profile="debian13", after=(proof(proven=False),)),
    )
    write_report(directory, make_report(*runs))
    return directory / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The system's Chromium; no browser is fetched."""
    program = shutil.which("chromium")
    assert program, "chromium is missing (Debian: chromium); ci/nox -s tests installs it"
    with sync_playwright() as driver:
        # Without its sandbox: these tests run as root, on a page of our own.
        started = driver.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            env={**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))},
        )
        yield started
        started.close()


@pytest.fixture
def view(browser: Browser, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, at a laptop's size or at the one that the test's parameter says; it must not complain or fetch."""
    size: Any = getattr(request, "param", LAPTOP)
    context = browser.new_context(viewport=size)
    context.set_default_timeout(LIMIT_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(("file://", "data:")) else complaints.append(asked.url),
    )
    page.goto(page_file.as_uri())
    yield page
    title = page.title()
    context.close()
    assert complaints == []
    assert title.startswith("Not green: conformance of locald-")


def rows(page: Page) -> Any:
    """Return the rows that are shown."""
    return page.locator(".row:visible")


def test_the_filter_by_text_and_verdict(view: Page) -> None:
    """Words narrow the rows, verdicts too, together both; what is shown is said aloud; it can be undone."""
    expect(view.get_by_role("status")).to_have_text("3 of 3 clauses")
    view.get_by_label("Find").fill("ab 002")
    expect(rows(view)).to_have_count(1)
    expect(view.get_by_role("status")).to_have_text("1 of 3 clauses")

    view.get_by_label("Find").fill("")
    flaky = view.get_by_role("button", name="FLAKY 1", exact=False).first
    flaky.click()
    expect(flaky).to_have_attribute("aria-pressed", "true")
    expect(rows(view)).to_have_count(1)
    expect(rows(view)).to_contain_text("AB-001")

    view.get_by_label("Find").fill("nothing like this")
    expect(rows(view)).to_have_count(0)
    view.get_by_role("button", name="Show all").click()
    expect(rows(view)).to_have_count(3)

    view.get_by_role("button", name="not green", exact=True).click()
    expect(rows(view)).to_have_count(3)  # one host is INVALID, so every clause has something
    expect(view.locator(".cell.faded")).to_have_count(3)


def test_evidence_is_one_click_away(view: Page) -> None:
    """Command, exit code, streams, log lines, odds and the command that judges it again; a payload stays text."""
    view.get_by_role("button", name="AB-001 on debian12-with-a-long-name: FLAKY; open the evidence").click()
    dialog = view.get_by_role("dialog")
    expect(dialog).to_contain_text("AB-001 on debian12-with-a-long-name: FLAKY")
    expect(dialog).to_contain_text("passed 1 of 2")
    expect(dialog).to_contain_text("$ /opt/locald/bin/locald-shim bundle run --bundle '/srv/it'\\''s here'")
    expect(dialog).to_contain_text("as plain, exit code 0, 0.4 s, 1 denials")
    expect(dialog).to_contain_text(HOSTILE)
    expect(dialog).to_contain_text("a line of the kernel")
    expect(dialog).to_contain_text(
        "ci/nox -s conformance -- --profile debian12-with-a-long-name --clause AB-001"
    )
    assert view.evaluate("document.images.length") == 0


def test_it_is_used_with_the_keyboard(view: Page) -> None:
    """A slash finds, Tab and Enter open, Escape closes and brings the focus back."""
    view.keyboard.press("/")
    view.keyboard.type("AB-002")
    expect(rows(view)).to_have_count(1)
    cell = rows(view).get_by_role("button").first
    cell.focus()
    view.keyboard.press("Enter")
    expect(view.get_by_role("dialog")).to_be_visible()
    expect(view.get_by_role("heading", name="AB-002 on")).to_be_focused()
    view.keyboard.press("Escape")
    expect(view.get_by_role("dialog")).to_have_count(0)
    expect(cell).to_be_focused()


def test_a_place_in_the_page_has_an_address(browser: Browser, page_file: Path) -> None:
    """The link of an evidence opens it again."""
    page = browser.new_page()
    page.set_default_timeout(LIMIT_MS)
    page.goto(f"{page_file.as_uri()}#AB-001/local")
    expect(page.get_by_role("dialog")).to_contain_text("AB-001 on local: PASS")
    page.close()


def test_a_host_shows_what_was_proven_of_it(view: Page) -> None:
    """Before and after, with command and answer; what was not proven and what went wrong stand out."""
    view.locator(".host-name", has_text="debian13").click()
    host = view.locator("details.host[open]")
    expect(host).to_contain_text("fact, after them: NOT proven")
    host.get_by_text("fact, before the clauses").click()
    expect(host).to_contain_text("$ /bin/is so")
    view.locator(".host-name", has_text="long-name").click()
    expect(view.locator("details.host[open]").filter(has_text="Errors of the run")).to_contain_text(HOSTILE)


@pytest.mark.parametrize("view", [PHONE], indirect=True)
def test_a_phone_needs_no_sideways_scrolling(view: Page) -> None:
    """Neither the page nor the evidence is wider than 375 pixels, with everything unfolded."""
    wide = (
        "[document.documentElement, document.querySelector('dialog')].map(e => e.scrollWidth - e.clientWidth)"
    )
    view.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert view.evaluate(wide) == [0, 0]
    view.get_by_role("button", name="AB-001 on debian12-with-a-long-name").click()
    expect(view.get_by_role("dialog")).to_contain_text("x" * 400)
    view.evaluate("document.querySelectorAll('dialog details').forEach(part => part.open = true)")
    assert view.evaluate(wide) == [0, 0]
    view.keyboard.press("Escape")
    cell = rows(view).first.get_by_role("button").first
    box = cell.bounding_box()
    assert box is not None
    assert box["height"] >= 32  # a finger hits it


def test_everything_has_a_name_that_can_be_read_aloud(view: Page) -> None:
    """Buttons and fields have names, the matrix has a caption and headers, the language is said."""
    nameless = (
        "[...document.querySelectorAll('button, input')]"
        ".filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).length"
    )
    assert view.evaluate(nameless) == 0
    assert view.evaluate("document.documentElement.lang") == "en"
    expect(view.locator("table.matrix caption")).to_have_count(1)
    expect(view.locator("table.matrix .row th[scope=row]")).to_have_count(3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_dark(browser: Browser, page_file: Path, scheme: Any) -> None:
    """Each verdict against its ground has the contrast that WCAG AA asks of text: 4.5."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(page_file.as_uri())
    pairs = json.loads(page.evaluate(CONTRASTS))
    context.close()
    assert pairs
    assert {name: ratio for name, ratio in pairs.items() if ratio < 4.5} == {}


CONTRASTS = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.slice(0, 3).map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (e) => { const c = parse(getComputedStyle(e).backgroundColor);
    return c.length === 4 && c[3] === 0 ? (e.parentElement ? ground(e.parentElement) : [255, 255, 255]) : c; };
  const found = {};
  const words = ".cell, .chip, .badge, .state, .count, .host-line, .facts dt, .statement";
  for (const e of document.querySelectorAll(words)) {
    const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
    found[e.className + e.textContent.trim()] = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }
  return JSON.stringify(found);
})()"""
