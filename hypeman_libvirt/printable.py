"""Text from elsewhere, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Escape control characters and what changes the direction of writing: ``\\x1b`` as its name.

    A name or a message that a server sends must not move the cursor or set the window's title.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
