"""The report's page in a real browser, from file:// and without a network: what a person does with it works."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from conformance.report_files import write_report
from conformance.verdicts import Outcome
from tests.unit.conformance.samples import GREEN, make_report, piece, proof, record, run

LIMIT_MS = 20_000
HOSTILE = "</script><script>document.title = 'taken over'</script><img src=x onerror=alert(1)>"
PHONE: ViewportSize = {"width": 375, "height": 812}
LAPTOP: ViewportSize = {"width": 1280, "height": 800}
A4: ViewportSize = {"width": 794, "height": 1123}
# As the hosts of a release are called.
NAMES = (
    "debian11-refusal",
    "debian12-hardened",
    "debian12-selinux",
    "debian12-userns-clone0",
    "debian12-userns-max0",
    "debian13-apparmor",
    "local",
)
UNREADABLE = "This evidence cannot be unpacked here; the same is in report.json."
WIDE = "[document.documentElement, document.querySelector('dialog')].map(e => e.scrollWidth - e.clientWidth)"


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
def release_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with the hosts of a release, all green; the first has one clause only."""
    directory = tmp_path_factory.mktemp("release")
    report = make_report(*(run(*GREEN, profile=name) for name in NAMES))
    # Names of clauses take as much room as a real one's.
    report = json.loads(json.dumps(report).replace("AB-00", "BUNDLE-00"))
    del report["profiles"][0]["clauses"][1:]
    write_report(directory, report)
    return directory / "index.html"


@pytest.fixture(scope="module")
def peer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about another runtime: one clause failed, one passed, one does not apply."""
    directory = tmp_path_factory.mktemp("peer")
    report = make_report(run(runtime="crun"))
    for clause, verdict in zip(report["profiles"][0]["clauses"], ("FAIL", "PASS"), strict=False):
        clause["verdict"] = verdict
    write_report(directory, report)
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


@pytest.fixture
def empty(browser: Browser) -> Iterator[Page]:
    """A page that shows nothing yet, for tests that say what is opened and how."""
    context = browser.new_context(viewport=LAPTOP)
    context.set_default_timeout(LIMIT_MS)
    yield context.new_page()
    context.close()


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
    expect(dialog.get_by_text("as plain, exit code 0, 0.4 s, 1 denial", exact=True).first).to_be_visible()
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


def test_a_place_in_the_page_has_an_address(empty: Page, page_file: Path) -> None:
    """The link of an evidence opens it again; to close it does not leave the page for the one before."""
    empty.goto("about:blank")
    empty.goto(f"{page_file.as_uri()}#AB-001/local")
    dialog = empty.get_by_role("dialog")
    expect(dialog).to_contain_text("AB-001 on local: PASS")
    empty.get_by_role("button", name="Close the evidence").click()
    expect(dialog).to_have_count(0)
    expect(empty).to_have_url(f"{page_file.as_uri()}#matrix")

    empty.goto(f"{page_file.as_uri()}#AB-002/local")
    expect(dialog).to_contain_text("AB-002 on local: PASS")
    empty.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(empty).to_have_url(f"{page_file.as_uri()}#matrix")


def test_back_closes_the_evidence(empty: Page, page_file: Path) -> None:
    """On a phone it is the button at hand; forward opens it again, and what was closed is no step to go back."""
    address = page_file.as_uri()
    empty.goto("about:blank")
    empty.goto(address)
    dialog = empty.get_by_role("dialog")
    cell = empty.get_by_role("button", name="AB-001 on local: PASS")
    cell.click()
    expect(empty).to_have_url(f"{address}#AB-001/local")
    empty.go_back()
    expect(dialog).to_have_count(0)
    expect(empty).to_have_url(address)
    empty.go_forward()
    expect(dialog).to_contain_text("AB-001 on local: PASS")
    empty.reload()
    expect(dialog).to_contain_text("AB-001 on local: PASS")

    closing: tuple[Callable[[], None], ...] = (
        lambda: empty.get_by_role("button", name="Close the evidence").click(),
        lambda: empty.keyboard.press("Escape"),
        lambda: empty.mouse.click(2, 2),  # beside it
    )
    for close in closing:
        close()
        expect(dialog).to_have_count(0)
        expect(empty).to_have_url(address)
        cell.click()
        expect(dialog).to_be_visible()
    empty.go_back()
    empty.go_back()
    expect(empty).to_have_url("about:blank")


def test_evidence_stands_under_its_own_heading(empty: Page, page_file: Path) -> None:
    """What is unpacked when somebody has long opened something else is not shown there."""
    empty.add_init_script(
        "window.held = []; const json = Response.prototype.json;"
        "Response.prototype.json = function () {"
        " return new Promise(done => window.held.push(() => done(json.call(this)))); };"
    )
    empty.goto(page_file.as_uri())
    dialog = empty.get_by_role("dialog")
    empty.get_by_role("button", name="AB-001 on debian12-with-a-long-name").click()
    empty.get_by_role("button", name="Close the evidence").click()
    expect(dialog).to_have_count(0)
    empty.get_by_role("button", name="AB-002 on local").click()
    empty.evaluate("window.held[1]()")
    expect(dialog).to_contain_text("AB-002 holds.")
    empty.evaluate("window.held[0]()")
    empty.wait_for_timeout(200)  # for what must not happen there is nothing to wait for
    expect(dialog).to_contain_text("AB-002 on local: PASS")
    expect(dialog).to_contain_text("AB-002 holds.")
    expect(dialog).not_to_contain_text("AB-001")


@pytest.mark.parametrize("fault", ["delete window.DecompressionStream", "text = 'H4sIAAAA'", "text = '%'"])
def test_evidence_that_cannot_be_unpacked_says_so(empty: Page, page_file: Path, fault: str) -> None:
    """A browser that is too old, a damaged file: not a word that waits for ever."""
    script = fault.replace("text", "document.getElementById('packed-0').textContent")
    empty.goto(page_file.as_uri())
    empty.evaluate(script)
    empty.locator(".cell[data-profile='0']").first.click()
    expect(empty.get_by_role("dialog")).to_contain_text(UNREADABLE)


def test_a_host_shows_what_was_proven_of_it(view: Page) -> None:
    """Before and after, with command and answer; one that is not green is open, and says why when it is closed."""
    host = view.locator("details.host[open]").filter(has_text="debian13")
    expect(host).to_contain_text("fact, after them: NOT proven")
    host.get_by_text("fact, before the clauses").click()
    expect(host).to_contain_text("$ /bin/is so")
    expect(view.locator("details.host[open]").filter(has_text="Errors of the run")).to_contain_text(HOSTILE)
    expect(view.locator("details.host:not([open])")).to_contain_text("local")

    view.locator(".host-name", has_text="debian13").click()
    expect(view.locator("details.host:not([open])")).to_have_count(2)
    expect(view.get_by_text("not proven after the clauses: fact: so it is")).to_be_visible()


def test_what_does_not_apply_is_not_red(empty: Page, peer_file: Path) -> None:
    """Of another runtime most clauses say nothing; `not green` leaves them out."""
    empty.goto(peer_file.as_uri())
    empty.get_by_role("button", name="not green", exact=True).click()
    expect(rows(empty)).to_have_count(1)
    expect(rows(empty)).to_contain_text("AB-001")
    expect(empty.locator(".chip[aria-pressed=true]")).to_contain_text(["FAIL", "not green"])


@pytest.mark.parametrize("height", [300, 500])
def test_the_hosts_names_stay_in_sight(empty: Page, release_file: Path, height: int) -> None:
    """However far down the matrix, they stand right below the filters, on ground of their own."""
    empty.set_viewport_size({"width": 1280, "height": height})
    empty.goto(release_file.as_uri())
    # As long as a real one.
    empty.evaluate("document.querySelectorAll('.row th').forEach(cell => { cell.style.height = '40rem'; })")
    empty.evaluate("document.querySelectorAll('.row')[1].scrollIntoView()")
    bar, head = (
        empty.locator(name).bounding_box() for name in (".filters", ".matrix thead .profile >> nth=0")
    )
    assert bar is not None
    assert head is not None
    assert bar["y"] == 0
    assert abs(bar["height"] - head["y"]) < 2
    # What is drawn at their place is the name, and not the row that goes by below.
    hit = "([x, y]) => document.elementFromPoint(x, y).textContent"
    assert empty.evaluate(hit, [head["x"] + 20, head["y"] + head["height"] / 2]) == NAMES[0]
    ground = "getComputedStyle(document.querySelector('.matrix thead th')).backgroundColor"
    assert empty.evaluate(ground) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("width", [1280, 1024, 961, 960, 844, 843, 800, 737, 736, 375])
def test_no_window_needs_sideways_scrolling(empty: Page, release_file: Path, width: int) -> None:
    """A row of the hosts of a release, or a card a clause where that is too wide."""
    empty.set_viewport_size({"width": width, "height": 800})
    empty.goto(release_file.as_uri())
    assert empty.evaluate(WIDE) == [0, 0]


def test_paper_cuts_nothing(empty: Page, release_file: Path) -> None:
    """A4 has the matrix as a table, within its width."""
    empty.set_viewport_size(A4)
    empty.emulate_media(media="print")
    empty.goto(release_file.as_uri())
    assert empty.evaluate(WIDE)[0] == 0
    assert empty.evaluate("getComputedStyle(document.querySelector('.matrix .row')).display") == "table-row"
    right = "Math.max(...[...document.querySelectorAll('.cell')].map(e => e.getBoundingClientRect().right))"
    assert empty.evaluate(right) <= A4["width"]


def test_a_phone_folds_what_passed_everywhere(empty: Page, release_file: Path) -> None:
    """A line in place of one a host, which opens; no line for a host that a clause says nothing of."""
    empty.goto(release_file.as_uri())
    expect(empty.get_by_text("PASS on 7 hosts")).to_be_hidden()  # a laptop has the row
    empty.set_viewport_size(PHONE)
    folded = rows(empty).nth(1)
    expect(folded.get_by_text("PASS on 6 hosts")).to_be_visible()
    expect(folded.locator(".cell:visible")).to_have_count(0)
    folded.get_by_text("PASS on 6 hosts").click()
    expect(folded.locator(".cell:visible")).to_have_count(6)
    expect(folded.locator("td.none")).to_be_hidden()
    folded.get_by_role("button", name="BUNDLE-002 on local: PASS").click()
    expect(empty.get_by_role("dialog")).to_contain_text("BUNDLE-002 on local: PASS")
    empty.keyboard.press("Escape")
    # Not a PASS everywhere: each host has its line.
    expect(rows(empty).nth(2).locator(".cell:visible")).to_have_count(6)


@pytest.mark.parametrize("view", [PHONE], indirect=True)
def test_a_phone_needs_no_sideways_scrolling(view: Page) -> None:
    """Neither the page nor the evidence is wider than 375 pixels, with everything unfolded."""
    view.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert view.evaluate(WIDE) == [0, 0]
    view.get_by_role("button", name="AB-001 on debian12-with-a-long-name").click()
    expect(view.get_by_role("dialog")).to_contain_text("x" * 400)
    view.evaluate("document.querySelectorAll('dialog details').forEach(part => part.open = true)")
    assert view.evaluate(WIDE) == [0, 0]
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
@pytest.mark.parametrize("name", ["page_file", "peer_file"])
def test_words_stand_out_in_light_and_dark(
    browser: Browser, request: pytest.FixtureRequest, name: str, scheme: Any
) -> None:
    """Each verdict against its ground has the contrast that WCAG AA asks of text: 4.5; also where others are wanted."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(request.getfixturevalue(name).as_uri())
    pairs = json.loads(page.evaluate(CONTRASTS))
    page.locator(".chip[data-verdict=PASS]").click()
    expect(page.locator(".cell.faded").first).to_be_attached()
    faded = json.loads(page.evaluate(CONTRASTS))
    context.close()
    assert any("faded" in name for name in faded)
    assert {name: ratio for name, ratio in (pairs | faded).items() if ratio < 4.5} == {}


def test_each_verdict_has_a_colour(empty: Page, peer_file: Path) -> None:
    """What does not apply does not look like ordinary text."""
    empty.goto(peer_file.as_uri())
    colour = "name => getComputedStyle(document.querySelector(name)).color"
    colours = [empty.evaluate(colour, f".cell.v-{name}") for name in ("PASS", "FAIL", "NOT-APPLICABLE")]
    assert len({empty.evaluate(colour, "body"), *colours}) == 4


CONTRASTS = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.slice(0, 3).map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (e) => { const c = parse(getComputedStyle(e).backgroundColor);
    return c.length === 4 && c[3] === 0 ? (e.parentElement ? ground(e.parentElement) : [255, 255, 255]) : c; };
  const opacity = (e) => e ? Number(getComputedStyle(e).opacity) * opacity(e.parentElement) : 1;
  const shown = (e) => { const below = ground(e), part = opacity(e);
    return parse(getComputedStyle(e).color).slice(0, 3).map((v, i) => v * part + below[i] * (1 - part)); };
  const found = {};
  const words = ".cell, .chip, .badge, .state, .count, .host-line, .facts dt, .statement, .cause";
  for (const e of document.querySelectorAll(words)) {
    const a = light(shown(e)), b = light(ground(e));
    found[e.className + e.textContent.trim()] = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }
  return JSON.stringify(found);
})()"""
