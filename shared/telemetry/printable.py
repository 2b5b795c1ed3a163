"""Strangers' text where a person reads it: a newline must not begin a line of its own, nor a control character steer a
terminal. Refuses to know who reads."""


def printable(text: str) -> str:
    """The same text, with everything that does not print written as Python would escape it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
