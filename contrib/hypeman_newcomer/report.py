"""The table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A step, and whether it held.

    Attributes:
        story: That it belongs to.
        what: Somebody does.
        problem: What did not hold; empty if it did.
        seconds: It took.
    """

    story: str
    what: str
    problem: str
    seconds: float

    @property
    def held(self) -> bool:
        """Whether it held."""
        return not self.problem


def table(rows: Sequence[Row]) -> str:
    """Return a line for each step, with the reason where it did not hold."""
    widths = [max(len(getattr(row, key)) for row in rows) for key in ("story", "what")]
    return "\n".join(
        f"{row.story:<{widths[0]}}  {row.what:<{widths[1]}}  {row.seconds:>5.0f} s  "
        + (row.problem.splitlines()[0] if row.problem else "held")
        for row in rows
    )
