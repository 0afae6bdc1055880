"""The page as its users see it: what tests do with it, in their words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

PATIENT: Final = 60_000
"""Milliseconds; a busy machine takes its time, and nothing here is about time."""
_NOTE_VIOLATIONS: Final = (
    "window.violations = []; document.addEventListener('securitypolicyviolation',"
    " (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));"
)


class HostPage:
    """One browser window with the page in it."""

    def __init__(self, page: Page, url: str) -> None:
        """Watch what goes wrong in the window."""
        self.page = page
        self.url = url
        self._errors: list[str] = []
        page.set_default_timeout(PATIENT)
        page.add_init_script(_NOTE_VIOLATIONS)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.on("request", lambda request: self._note_request(request.url))

    @property
    def broken(self) -> list[str]:
        """Errors nobody caught, requests to others, and what the policy forbade."""
        violations: list[str] = self.page.evaluate("window.violations || []")
        return [*self._errors, *violations]

    def open(self) -> None:
        """Go to the page."""
        self.page.goto(f"{self.url}/ui/")
        self.page.wait_for_selector("main, header")

    def sign_in(self, token: str, *, keep: bool = False) -> None:
        """Sign in with a token."""
        self.page.get_by_role("textbox", name="Token").fill(token)
        if keep:
            self.page.get_by_label("Stay signed in").check()
        self.page.get_by_role("button", name="Sign in").click()

    def wait_for_picture(self) -> None:
        """Wait until the host is drawn and events come."""
        self.page.wait_for_selector(".card, .port")
        expect(self.page.locator(".contact")).to_contain_text("live", timeout=PATIENT)

    def card(self, key: str) -> Locator:
        """Return what is drawn of a function."""
        return self.page.locator(f'[data-key="{key}"]')

    def choose(self, key: str) -> None:
        """Open a function's details, and wait for its preflight."""
        self.card(key).click()
        self.page.wait_for_selector(".details .fine")

    def action(self, name: str) -> Locator:
        """Return the button of an action in the details."""
        return self.page.locator(f'[data-action="{name}"]')

    def act(self, action: str, /, confirm: str | None = None, **values: str | bool) -> None:
        """Do an action: fill its form in, confirm it where it is dangerous, and wait for its end.

        Args:
            action: Its name.
            confirm: The device's name, where it is asked for.
            values: Of the form.
        """
        self.fill(action, confirm, **values)
        self.submit()
        self.page.wait_for_selector("dialog", state="detached")
        expect(self.page.locator('.job[data-state="runs"]')).to_have_count(0, timeout=PATIENT)

    def fill(self, action: str, /, confirm: str | None = None, **values: str | bool) -> None:
        """Open the form of an action and fill it in."""
        self.action(action).click()
        for field, value in values.items():
            control = self.page.locator(f'dialog [name="{field}"]')
            if isinstance(value, bool):
                control.set_checked(value)
            elif control.evaluate("each => each.tagName") == "SELECT":
                control.select_option(label=value)
            else:
                control.fill(value)
        if confirm is not None:
            self.page.locator('dialog [name="confirm"]').fill(confirm)

    def submit(self) -> None:
        """Send the form, once nothing is missing."""
        button = self.page.locator('dialog button[type="submit"]')
        expect(button).to_have_attribute("aria-disabled", "false", timeout=PATIENT)
        button.click()

    def last_job(self) -> Locator:
        """Return what came of the last action."""
        return self.page.locator(".job").last

    def see(self, key: str, text: str) -> None:
        """Wait until a function's card says something."""
        expect(self.card(key)).to_contain_text(text, timeout=PATIENT)

    def run_script(self, script: str) -> Any:  # noqa: ANN401  # whatever the script returns
        """Run a script in the page."""
        return self.page.evaluate(script)

    def complaints(self, node_modules: Path) -> list[str]:
        """Return what axe finds."""
        self.page.evaluate((node_modules / "axe-core" / "axe.min.js").read_text())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]

    def _note_request(self, url: str) -> None:
        if not url.startswith(self.url + "/"):
            self._errors.append(f"a request to {url}")
