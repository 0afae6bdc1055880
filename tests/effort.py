"""How many examples property tests try."""

from __future__ import annotations

import os

_FEWER = "TESTS_TRY_FEWER_EXAMPLES"
_PART = 5


def examples(many: int) -> int:
    """Return so many, and a fifth of them where another Python tries all of them.

    A property that holds on one Python and not on the next fails in its first examples.
    """
    return max(1, many // _PART) if os.environ.get(_FEWER) else many
