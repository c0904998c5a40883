"""The links of an HTML page. Alone imports selectolax.

Followed: `a` and `area`, `link` with `rel=next` or `rel=prev`, `iframe` and `frame`; `<base href>` holds for
all of them. `rel=nofollow` on a link is followed: it tells search engines whom the author vouches for, not
where a crawler may go, which is what robots.txt is for. `<meta name="robots" content="nofollow">` is obeyed:
it asks this of crawlers.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser

from sessionpool.cli._urls import resolve

_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
_LINKS: Final = "a[href], area[href], link[rel][href], iframe[src], frame[src]"
_CHARSET: Final = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9._:-]+)""", re.IGNORECASE)


def is_page(content_type: str | None) -> bool:
    """Whether a body of this `Content-Type` is parsed for links."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() in _TYPES


def links(body: bytes, url: str, content_type: str | None = None) -> list[str]:
    """The http and https URLs a page links to, normalised, each once, in the order of the page.

    Args:
        body: The page. What cannot be decoded or parsed is passed over, as browsers do.
        url: Where it is, normalised.
        content_type: The header it came with, for its charset.
    """
    tree = LexborHTMLParser(_decoded(body, content_type))
    for meta in tree.css("meta[name][content]"):
        rules = (meta.attributes["content"] or "").lower().replace(",", " ").split()
        if (meta.attributes["name"] or "").strip().lower() == "robots" and {"nofollow", "none"} & set(rules):
            return []
    base = url
    if (element := tree.css_first("base[href]")) is not None:
        base = _resolved(element.attributes["href"] or "", url) or url
    references: dict[str, None] = {}
    for element in tree.css(_LINKS):
        relations = (element.attributes.get("rel") or "").lower().split()
        if element.tag == "link" and not {"next", "prev"} & set(relations):
            continue
        value = element.attributes["src" if element.tag in {"iframe", "frame"} else "href"]
        # Most references of a long page differ in their fragment only; resolving one costs more than all the
        # rest.
        references[(value or "").partition("#")[0].strip()] = None
    return list(dict.fromkeys(found for text in references if (found := _resolved(text, base)) is not None))


def _resolved(reference: str, base: str) -> str | None:
    try:
        return resolve(reference, base=base)
    except ValueError:  # mailto:, javascript:, or a slip of the author's: nothing to fetch
        return None


def _decoded(body: bytes, content_type: str | None) -> str:
    """The page as text: by byte order mark, the header's charset, or what its first 1024 bytes name."""
    if body.startswith(codecs.BOM_UTF8):
        return body.decode("utf-8-sig", "replace")
    match = _CHARSET.search((content_type or "").encode("latin-1", "replace")) or _CHARSET.search(body[:1024])
    try:
        return body.decode(match[1].decode("ascii") if match else "utf-8", "replace")
    except LookupError:
        return body.decode("utf-8", "replace")
