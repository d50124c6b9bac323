"""
The page in real Chromium: what people see and press, beside a real agent and a real endpoint.

Whatever the page does, it asks nobody but the device, breaks no rule of its policy and
meets no error: each test ends with that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import balanced, eventually

from heap_agent import Agent, Pairing
from heap_agent._config import load
from heap_agent._tools.onlooker import Onlooker
from heap_agent._view.visualizer import Visualizer
from heap_agent.testing import Collector

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

#: Milliseconds that the page has; only what is broken takes this long.
PATIENCE = 20_000

#: Where pictures for the documents go; else they are only looked at by the test.
PICTURES = os.environ.get("HEAP_AGENT_SCREENSHOTS")

HOSTILE = [
    "<script>window.broken=1</script>",
    '"><img src=x onerror="window.broken=1">',
    "<svg onload=window.broken=1>",
    "javascript:window.broken=1",
    "{{7*7}}${7*7}",
    "\u202egnp.exe\u2066",
    "</script><script>window.broken=1</script>",
    "&lt;b&gt;",
]


@pytest.fixture(name="browser", scope="module")
def _browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        # A container has neither a sandbox for root nor much shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Tab:
    """One page of one browser profile."""

    def __init__(self, browser: Browser, pairing: Pairing, **options: Any) -> None:
        self.pairing = pairing
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._asked)

    def _told(self, message: Any) -> None:
        # What a device answers with a status is told here, too, and is no fault of the page.
        answered = "Failed to load resource" in message.text
        if message.type in ("error", "warning") and not answered:
            self.faults.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.pairing.url, "data:")):
            self.elsewhere.append(request.url)

    def open(self) -> Tab:
        """Go to the page."""
        self.page.goto(self.pairing.url)
        return self

    def enter(self) -> Tab:
        """Go to the page, and give the code."""
        self.open()
        self.at("code-input").fill(self.pairing.code)
        self.at("list").wait_for(state="visible")
        return self

    def at(self, testid: str) -> Locator:
        """What has a name for tests."""
        return self.page.get_by_test_id(testid)

    def rows(self, text: str = "") -> Locator:
        """Rows in sight that have a text."""
        return self.page.locator('[data-testid="row"]:visible', has_text=text)

    def row(self, text: str) -> Locator:
        """The one row with a text."""
        row = self.rows(text)
        row.first.wait_for(state="visible")
        assert row.count() == 1
        return row

    def stands(self, text: str, place: str) -> None:
        """Wait until the row with a text stands there."""
        sync_api.expect(self.row(text)).to_have_attribute("data-place", place, timeout=PATIENCE)

    def names(self) -> list[str]:
        """The names in sight, from above."""
        return self.page.locator('[data-testid="row"]:visible .name').all_inner_texts()

    def broken(self) -> Any:
        """What a script in the data would have set."""
        return self.page.evaluate("window.broken")


@pytest.fixture(name="tabs")
def _tabs(browser: Browser) -> Iterator[Callable[..., Tab]]:
    opened: list[Tab] = []

    def make(pairing: Pairing, **options: Any) -> Tab:
        opened.append(Tab(browser, pairing, **options))
        return opened[-1]

    yield make
    for tab in opened:
        broken = tab.broken()
        tab.context.close()
        assert (tab.faults, tab.elsewhere, broken) == ([], [], None)


@pytest.fixture(name="tab")
def _tab(agent: Agent, tabs: Callable[..., Tab]) -> Tab:
    """A browser that was let in."""
    return tabs(agent.start_ev_pairing(), viewport={"width": 1280, "height": 800}).enter()


def expect(locator: Locator) -> Any:
    """What has to become true."""
    return sync_api.expect(locator)


# -- pairing -------------------------------------------------------------------------


def test_the_code_lets_in(agent: Agent, tabs: Callable[..., Tab]) -> None:
    """Typed digit by digit; the fourth is enough."""
    tab = tabs(agent.start_ev_pairing()).open()
    expect(tab.at("code-input")).to_be_focused()
    tab.page.keyboard.type(tab.pairing.code)
    tab.at("list").wait_for(state="visible")
    expect(tab.at("code-input")).to_be_hidden()


def test_a_wrong_code_is_told(agent: Agent, tabs: Callable[..., Tab]) -> None:
    """How many are left; the right one opens afterwards."""
    tab = tabs(agent.start_ev_pairing()).open()
    wrong = f"{(int(tab.pairing.code) + 1) % 10_000:04d}"
    tab.at("code-input").fill(wrong)
    expect(tab.at("code-message")).to_contain_text("4 attempts left")
    tab.at("code-input").fill(tab.pairing.code)
    tab.at("list").wait_for(state="visible")


def test_five_wrong_codes_end_it(agent: Agent, tabs: Callable[..., Tab]) -> None:
    """And the page says so."""
    tab = tabs(agent.start_ev_pairing()).open()
    wrong = f"{(int(tab.pairing.code) + 1) % 10_000:04d}"
    for left in (4, 3, 2, 1):
        tab.at("code-input").fill(wrong)
        expect(tab.at("code-message")).to_contain_text(f"{left} attempt")
    tab.at("code-input").fill(wrong)
    expect(tab.page.get_by_text("Too many wrong codes")).to_be_visible()
    eventually(lambda: agent._pairings and not agent._pairings._visualizer.running)


def test_a_second_browser_is_refused(tab: Tab, tabs: Callable[..., Tab]) -> None:
    """Though it knows the code."""
    second = tabs(tab.pairing).open()
    second.at("code-input").fill(tab.pairing.code)
    expect(second.page.get_by_text("Another browser is paired")).to_be_visible()
    expect(tab.at("list")).to_be_visible()


def test_a_reload_stays_paired(agent: Agent, tab: Tab) -> None:
    """Nobody is asked for the code again, and the events are there."""
    agent.track("Before")
    tab.row("Before")
    tab.page.reload()
    tab.row("Before")
    expect(tab.at("code-input")).to_be_hidden()


def test_the_button_ends_it(agent: Agent, tab: Tab) -> None:
    """The page shows nothing any more, and the device listens no more."""
    agent.track("Secret")
    tab.row("Secret")
    tab.at("end").click()
    expect(tab.page.get_by_text("You have ended the pairing")).to_be_visible()
    assert tab.rows().count() == 0
    eventually(lambda: agent._pairings and not agent._pairings._visualizer.running)


def test_the_program_ends_it(agent: Agent, tab: Tab) -> None:
    """The page says so."""
    agent.stop_ev_pairing()
    expect(tab.page.get_by_text("has ended the pairing")).to_be_visible()


def test_time_ends_it(agent: Agent, tabs: Callable[..., Tab]) -> None:
    """The page says so."""
    tab = tabs(agent.start_ev_pairing(timeout=4)).enter()
    expect(tab.page.get_by_text("pairing has expired")).to_be_visible()


# -- events --------------------------------------------------------------------------


def test_an_event_arrives_within_a_second(agent: Agent, tab: Tab) -> None:
    """Of ten one at least, and each without anybody's doing; a machine may be busy."""
    times = []
    for number in range(10):
        began = time.monotonic()
        agent.track(f"Event {number}.")
        tab.row(f"Event {number}.")
        times.append(time.monotonic() - began)
    assert min(times) < 1.0
    assert tab.names() == [f"Event {number}." for number in reversed(range(10))]


def test_a_row_says_what_happened(agent: Agent, tab: Tab) -> None:
    """Name, who, session, properties, repairs, and where it stands."""
    agent.identify("alice")
    agent.track("Buy", {"dollars": 50, "item": "Furby", "weight": float("nan")})
    row = tab.row("Buy")
    for text in ("alice", "dollars 50", "item Furby", str(agent.session_id)):
        expect(row).to_contain_text(text)
    expect(row.get_by_role("img", name=re.compile("mended"))).to_be_visible()
    expect(row).to_have_attribute("data-place", re.compile("journal|queue"))
    expect(tab.at("people")).to_contain_text("identified as alice")


def test_where_it_stands_follows(agent: Agent, tab: Tab, collector: Collector) -> None:
    """Journal, then sent, with the answer in the detail."""
    agent.track("Buy")
    tab.stands("Buy", "journal")
    assert agent.flush(timeout=30)
    tab.stands("Buy", "sent")
    tab.row("Buy").click()
    expect(tab.at("detail")).to_contain_text("HTTP 200")


def test_the_detail_has_the_json_of_the_wire(agent: Agent, tab: Tab, collector: Collector) -> None:
    """What is shown exactly is what Heap gets, byte for byte."""
    agent.track("Buy", {"dollars": 5.50, "item": 'é \\ " <b>', "big": 2**53 - 1})
    tab.row("Buy").click()
    shown = tab.at("detail-json")
    expect(shown).to_contain_text("idempotency_key")
    pretty = shown.inner_text()
    tab.page.locator("#json-exact").click()
    expect(shown).not_to_have_text(pretty)
    exact = shown.text_content()
    assert agent.flush(timeout=30)
    raw = collector.events()[0].raw.decode()
    assert exact == raw
    assert json.loads(pretty) == json.loads(raw)


def test_search_and_filters(agent: Agent, tab: Tab) -> None:
    """By any text, by name, by place, by property; and back."""
    agent.track("Buy", {"item": "Furby", "dollars": 5})
    agent.track("Buy", {"item": "Ball", "dollars": 7})
    agent.track("Look", {"page": "Furby's"})
    tab.row("Look")
    tab.at("search").fill("FURBY")
    expect(tab.rows()).to_have_count(2)
    tab.at("search").fill("")
    tab.at("filter-name").select_option("Buy")
    expect(tab.rows()).to_have_count(2)
    tab.at("filter-property").fill("item=ball")
    expect(tab.rows()).to_have_count(1)
    tab.at("filter-property").fill("dollars")
    expect(tab.rows()).to_have_count(2)
    tab.at("filter-place").select_option("dead")
    expect(tab.rows()).to_have_count(0)
    expect(tab.page.get_by_text("No event matches")).to_be_visible()
    # What comes meanwhile is sifted, too.
    agent.track("Look", {"dollars": 1})
    tab.at("filter-place").select_option("")
    expect(tab.rows()).to_have_count(2)
    tab.at("filter-name").select_option("")
    expect(tab.rows()).to_have_count(3)


def test_a_pause_holds_the_list_still(agent: Agent, tab: Tab) -> None:
    """News are counted, and come when it goes on."""
    agent.track("First")
    tab.row("First")
    tab.at("pause").click()
    for number in range(3):
        agent.track(f"News {number}")
    expect(tab.at("pause")).to_contain_text("3 new")
    assert tab.names() == ["First"]
    tab.at("pause").click()
    expect(tab.rows()).to_have_count(4)


def test_a_dead_letter_is_retried(agent: Agent, tab: Tab, collector: Collector) -> None:
    """Its refusal is shown; the button brings it back, and it is delivered."""
    collector.reply(400, 400, 400, 400)
    agent.track("Bad", {"why": "unknown"})
    agent.flush()
    tab.stands("Bad", "dead")
    collector.normal()
    tab.row("Bad").click()
    expect(tab.at("detail")).to_contain_text("HTTP 400")
    tab.at("retry").click()
    tab.stands("Bad", "sent")
    assert [event.event for event in collector.events()] == ["Bad"]


def test_all_dead_letters_are_retried(agent: Agent, tab: Tab, collector: Collector) -> None:
    """With one button, which is there only while there are any."""
    expect(tab.at("retry-all")).to_be_hidden()
    collector.reject_if(lambda item: "no good")
    for number in range(3):
        agent.track(f"Bad {number}")
    agent.flush(timeout=5)
    eventually(lambda: agent.status().dead == 3 or agent.flush(timeout=5) or agent.status().dead)
    dead = agent.status().dead
    expect(tab.at("retry-all")).to_contain_text(f"Retry {dead} dead letter")
    collector.reject_if(None)
    tab.at("retry-all").click()
    expect(tab.at("retry-all")).to_be_hidden()
    assert agent.flush(timeout=30)
    assert len(collector.events()) == 3


def test_copying_as_a_test(agent: Agent, tab: Tab, collector: Collector) -> None:
    """What is in the clipboard is a test that passes when the program has delivered."""
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    agent.track("Buy", {"dollars": 5})
    tab.row("Buy").click()
    expect(tab.at("detail-json")).to_contain_text("idempotency_key")
    tab.at("copy-test").click()
    source = ""

    def copied() -> bool:
        nonlocal source
        source = tab.page.evaluate("navigator.clipboard.readText()")
        return "def test_" in source

    eventually(copied)
    assert agent.flush(timeout=30)
    space: dict[str, Any] = {}
    exec(compile(source, "copied", "exec"), space)
    space["test_tracks_buy"](agent, collector)
    tab.at("copy-json").click()
    eventually(lambda: "idempotency_key" in tab.page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("text", HOSTILE)
def test_data_is_only_ever_text(agent: Agent, tab: Tab, text: str) -> None:
    """As name, key, value, identity and event property; in the list, the detail, everywhere."""
    agent.identify(f"{text} who")
    agent.add_event_properties({f"{text} held": text})
    agent.track(f"Name {text}", {f"{text} key": text})
    shown = re.sub("[\u202e\u2066]", lambda found: f"\\u{ord(found[0]):04x}", text)
    tab.row("Name").click()
    expect(tab.row("Name")).to_contain_text(shown)
    for testid in ("detail", "in-force", "people"):
        expect(tab.at(testid)).to_contain_text(shown)
    expect(tab.at("detail-json")).to_contain_text("idempotency_key")
    assert tab.page.locator("script").count() == 1
    assert tab.page.locator("img, iframe, object, embed, a[href]").count() == 0


def _sum(word: str, tab: Tab) -> int:
    """What the chart's description says of each minute, added up."""
    told = tab.at("chart-recorded").locator("desc").text_content() or ""
    return sum(int(number.replace(",", "")) for number in re.findall(rf"([\d,]+) {word}", told))


# -- how things stand ----------------------------------------------------------------


def test_an_outage_as_it_happens(agent: Agent, tab: Tab, collector: Collector) -> None:
    """The banner tells that it fails, why, what waits; and that it is over."""
    agent.track("Before")
    assert agent.flush(timeout=30)
    expect(tab.at("banner")).to_contain_text("All delivered")
    collector.stop()
    agent.track("Meanwhile")
    agent.flush()
    expect(tab.at("banner")).to_contain_text("Heap cannot be reached since")
    expect(tab.at("banner")).to_contain_text("1 event waits on disk")
    tab.stands("Meanwhile", "queue")
    expect(tab.at("chart-failures")).to_contain_text(re.compile(r"[1-9]\d* failed"))
    collector.start()
    assert agent.flush(timeout=30)
    expect(tab.at("banner")).to_contain_text("All delivered")
    tab.stands("Meanwhile", "sent")
    # Of the whole hour: it may be another minute by now.
    eventually(lambda: _sum("recorded", tab) == _sum("delivered", tab) == 2)


def test_the_books(agent: Agent, tab: Tab, collector: Collector) -> None:
    """As `status` has them."""
    for _ in range(3):
        agent.track("Buy")
    assert agent.flush(timeout=30)
    agent.track("Late")
    for book, number in (("recorded", 4), ("queued", 1), ("delivered", 3), ("dead", 0)):
        expect(tab.page.locator(f"#book-{book}")).to_have_text(str(number))
    expect(tab.at("books")).to_contain_text("in balance")


def test_people_and_visits(agent: Agent, tab: Tab) -> None:
    """Who was there, one after the other; choosing a visit shows its events alone."""
    agent.track("Anonymous")
    agent.identify("alice")
    agent.track("Alice's")
    agent.reset_identity()
    agent.track("Next")
    tab.row("Next")
    people = tab.at("people")
    expect(people).to_contain_text("identified as alice")
    people.get_by_role("button", name=re.compile("alice")).click()
    expect(tab.rows()).to_have_count(1)
    assert tab.names() == ["Alice's"]


def test_what_is_in_force(agent: Agent, tab: Tab) -> None:
    """Event properties as they come and go."""
    agent.add_event_properties({"site": "Lyon 3", "floor": 2})
    expect(tab.at("in-force")).to_contain_text("Lyon 3")
    agent.remove_event_property("site")
    expect(tab.at("in-force")).not_to_contain_text("Lyon 3")
    expect(tab.at("in-force")).to_contain_text("floor")


def test_whoever_opts_out_disappears(agent: Agent, tab: Tab) -> None:
    """From the list, the visits, the detail; the banner says why."""
    agent.identify("alice")
    agent.track("Secret")
    tab.row("Secret").click()
    expect(tab.at("detail-json")).to_contain_text("alice")
    agent.opt_out()
    expect(tab.at("banner")).to_contain_text("Opted out")
    expect(tab.rows()).to_have_count(0)
    expect(tab.page.locator("body")).not_to_contain_text("alice")


def test_more_than_can_be_shown(agent: Agent, tab: Tab) -> None:
    """A flood leaves the page usable, and tells how much it left out."""
    agent.track("First")
    tab.row("First")
    for number in range(20_000):
        agent.track("Flood", {"n": number})
    agent.track("Last")
    tab.row("Last")
    expect(tab.at("left-out")).to_be_visible()
    assert tab.page.locator('[data-testid="row"]').count() <= 1_000
    tab.at("search").fill("last")
    expect(tab.rows()).to_have_count(1)
    expect(tab.page.locator("#book-recorded")).to_have_text("20,002")


def test_a_directory_alone(make_agent: Any, tmp_path: Path, tabs: Callable[..., Tab]) -> None:
    """Nothing can be sent again from there."""
    agent = make_agent(shutdown_timeout=0)
    agent.track("Bad")
    agent.shutdown()
    loaded = load({"directory": agent._config.directory, "app_id": "11"})
    visualizer = Visualizer(Onlooker(tmp_path / "state", loaded.config, ()))
    tab = tabs(visualizer.start("127.0.0.1", 0, 60.0)).enter()
    try:
        tab.stands("Bad", "journal")
        expect(tab.at("retry-all")).to_be_hidden()
        expect(tab.page.locator("body")).to_contain_text("answers are not seen here")
    finally:
        visualizer.stop()
    expect(tab.page.get_by_text("has ended the pairing")).to_be_visible()


# -- without a mouse, on other screens -------------------------------------------------


def test_keys_alone(agent: Agent, tab: Tab) -> None:
    """Search, move, open, close, pause, help."""
    for name in ("One", "Two", "Three"):
        agent.track(name)
    tab.row("Three")
    press = tab.page.keyboard.press
    press("?")
    expect(tab.at("help")).to_be_visible()
    press("Escape")
    expect(tab.at("help")).to_be_hidden()
    press("j")
    press("j")
    press("k")
    press("j")
    press("Enter")
    expect(tab.at("detail")).to_contain_text("Two")
    press("j")
    expect(tab.at("detail")).to_contain_text("One")
    press("Escape")
    expect(tab.at("detail")).to_be_hidden()
    press("/")
    expect(tab.at("search")).to_be_focused()
    tab.page.keyboard.type("thr")
    expect(tab.rows()).to_have_count(1)
    press("Escape")
    press("p")
    expect(tab.at("pause")).to_have_attribute("aria-pressed", "true")


def luminance(colour: str) -> float:
    """Of a colour as a browser computes it (WCAG 2)."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


CONTRASTS = """() => [...document.querySelectorAll('body *')].flatMap((element) => {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility({ visibilityProperty: true })) return [];
  let ground = 'rgba(0, 0, 0, 0)', at = element;
  while (at && ground === 'rgba(0, 0, 0, 0)') {
    ground = getComputedStyle(at).backgroundColor;
    at = at.parentElement;
  }
  return [[element.textContent.trim().slice(0, 30), getComputedStyle(element).color, ground]];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(agent: Agent, tabs: Callable[..., Tab], scheme: Any) -> None:
    """Each text has the contrast of WCAG AA, and the grounds are light or dark."""
    tab = tabs(agent.start_ev_pairing(), color_scheme=scheme).enter()
    agent.track("Buy", {"item": "Furby", "weight": float("nan")})
    tab.row("Buy").click()
    expect(tab.at("detail-json")).to_contain_text("idempotency_key")
    ground = tab.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (luminance(ground) > 0.5) is (scheme == "light")
    tab.page.wait_for_timeout(2_000)  # what is new stands out for a moment
    poor = []
    for text, colour, behind in tab.page.evaluate(CONTRASTS):
        if "rgb(" not in colour or "rgb(" not in behind:
            continue  # a mixture: nothing that this reckoning can tell
        bright, dark = sorted((luminance(colour), luminance(behind)), reverse=True)
        if (bright + 0.05) / (dark + 0.05) < 4.5:
            poor.append((text, colour, behind))
    assert poor == []


@pytest.mark.parametrize("width", [360, 390, 768, 1280, 2560])
def test_any_width(agent: Agent, tabs: Callable[..., Tab], width: int) -> None:
    """Nothing has to be scrolled sideways, and an event can be read."""
    tab = tabs(agent.start_ev_pairing(), viewport={"width": width, "height": 800}).enter()
    agent.track("Buy " + "long " * 40, {f"key{number}": "x" * 300 for number in range(20)})
    tab.row("Buy").click()
    expect(tab.at("detail-json")).to_contain_text("idempotency_key")
    across = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert tab.page.evaluate(across) <= 0
    tab.page.keyboard.press("Escape")
    expect(tab.at("detail")).to_be_hidden()
    assert tab.page.evaluate(across) <= 0


def test_every_control_has_a_name(agent: Agent, tab: Tab) -> None:
    """For whoever does not see it."""
    agent.track("Buy")
    tab.row("Buy").click()
    nameless = tab.page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, [tabindex="0"]')]
            .filter((element) => element.checkVisibility({ visibilityProperty: true }))
            .filter((element) => !(element.textContent.trim() || element.ariaLabel
                || element.labels?.length || element.getAttribute('aria-labelledby')))
            .map((element) => element.outerHTML.slice(0, 100))"""
    )
    assert nameless == []
    assert tab.page.locator("h1:visible").count() == 1


# -- pictures ------------------------------------------------------------------------


def test_pictures(
    make_agent: Any, tabs: Callable[..., Tab], tmp_path: Path, collector: Collector
) -> None:
    """The pictures in the documents come from here."""
    folder = Path(PICTURES) if PICTURES else tmp_path
    agent = make_agent(
        endpoint=collector.url, device_properties={"model": "kiosk-2", "firmware": "4.1.7"}
    )
    pairing = agent.start_ev_pairing()
    tab = tabs(pairing, viewport={"width": 1280, "height": 800}, color_scheme="light")
    tab.page.route("**/feed*", lambda route: elsewhere(route, str(tmp_path / "state")))
    tab.enter()
    a_day_at_the_kiosk(agent, collector)
    tab.row("Receipt Printed")
    take(tab, folder / "visualizer-live.png")
    tab.row("Coupon Scanned").click()
    expect(tab.at("detail-json")).to_contain_text("idempotency_key")
    take(tab, folder / "visualizer-detail.png")
    tab.page.keyboard.press("Escape")
    collector.stop()
    agent.track("Payment Started", {"method": "card"})
    agent.flush()
    expect(tab.at("banner")).to_contain_text("cannot be reached")
    take(tab, folder / "visualizer-outage.png")
    collector.start()
    tab.page.emulate_media(color_scheme="dark")
    take(tab, folder / "visualizer-dark.png")
    tab.page.emulate_media(color_scheme="light")
    tab.page.set_viewport_size({"width": 390, "height": 844})
    take(tab, folder / "visualizer-phone.png")
    agent.stop_ev_pairing()
    assert agent.flush(timeout=30)
    balanced(agent)


def a_day_at_the_kiosk(agent: Agent, collector: Collector) -> None:
    """What a program in a shop records; one event is refused."""
    agent.add_event_properties({"site": "Lyon 3", "till": 2})
    agent.track("Screen Opened", {"screen": "welcome"})
    agent.track("Product Viewed", {"item": "Furby", "price": 49.9})
    agent.identify("alice@example.com")
    agent.track("Product Viewed", {"item": "Puzzle", "price": 12})
    agent.track("Order Placed", {"items": 2, "total": 61.9, "currency": "EUR"})
    assert agent.flush(timeout=30)
    collector.reject_if(lambda item: "coupon is not known" if "Coupon" in str(item) else None)
    agent.track("Coupon Scanned", {"code": "WELCOME-10"})
    agent.flush(timeout=10)
    collector.reject_if(None)
    agent.reset_identity()
    agent.track("Screen Opened", {"screen": "welcome"})
    agent.track("Temperature", {"celsius": float("nan"), "sensor": "case"})
    agent.track("Receipt Printed", {"pages": 1})


def elsewhere(route: Any, directory: str) -> None:
    """Where a test happens to run is nothing for a picture."""
    answer = route.fetch()
    route.fulfill(
        response=answer, body=answer.text().replace(directory, "/var/lib/kiosk/heap_agent")
    )


def take(tab: Tab, path: Path) -> None:
    """Take a picture when everything that moves has come to rest."""
    tab.page.wait_for_timeout(2_000)
    tab.page.screenshot(path=path, animations="disabled")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
