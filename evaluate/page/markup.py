"""HTML and SVG as text, escaped where it comes from outside."""

import html
from collections.abc import Iterable, Mapping

# Elements of HTML that have no end tag.
VOID = frozenset({"br", "col", "img", "input", "link", "meta"})

Attributes = Mapping[str, object]


def text(value: object) -> str:
    """A value as text of an element.

    >>> text("a < b")
    'a &lt; b'
    """
    return html.escape(str(value), quote=False)


def tag(name: str, attributes: Attributes | None = None, *inside: str) -> str:
    """An element. Attributes that are ``None`` are left out, and so are their values if empty.

    Args:
        name: Of the element.
        attributes: Values are escaped; numbers are rounded to what a screen can show.
        inside: Markup, not escaped: :func:`text` does that.

    >>> tag("p", {"class": "note", "hidden": None}, "yes")
    '<p class="note">yes</p>'
    """
    parts = [name]
    for key, value in (attributes or {}).items():
        if value is not None:
            parts.append(f'{key}="{html.escape(_plain(value))}"' if value != "" else key)
    opened = " ".join(parts)
    return f"<{opened}>" if name in VOID else f"<{opened}>{''.join(inside)}</{name}>"


def percent(share: float) -> str:
    """A share of a width as a length that follows the width.

    >>> percent(0.12345)
    '12.345%'
    """
    return f"{round(100 * share, 3):g}%"


def lines(parts: Iterable[str]) -> str:
    """Parts on lines of their own, so that the source can be read."""
    return "\n".join(parts)


def _plain(value: object) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) else str(value)
