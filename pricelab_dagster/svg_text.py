"""Text in SVG pictures: escaped, and fitted by an estimate of its width that is rather too large than too small."""

import re
import unicodedata
from xml.sax import saxutils

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(x: int, y: int, content: str, attributes: str) -> str:
    """Return a text element of a picture."""
    return f'<text x="{x}" y="{y}" {attributes}>{escape(content)}</text>'


def escape(text: str) -> str:
    """Return a text as it may stand in XML."""
    return saxutils.escape(_NOT_XML.sub("\ufffd", text))


def width(text: str, size: float) -> float:
    """Return about how many pixels a text takes, rather too many than too few."""
    narrow, wide = set("iljtfrI.,:;'|!()[] -"), set("mwMW@%—…")
    ems = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            ems += 1.05
        elif character in narrow:
            ems += 0.4
        else:
            ems += 0.98 if character in wide else 0.72 if character.isupper() else 0.64
    return ems * size


def fit(text: str, limit: float, size: float) -> str:
    """Return a text that fits into `limit` pixels, its end cut where it must be."""
    if width(text, size) <= limit:
        return text
    while text and width(f"{text}…", size) > limit:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrap(text: str, limit: float, size: float, *, max_lines: int = 2) -> list[str]:
    """Return a text in lines of up to `limit` pixels; what is beyond `max_lines` is cut."""
    lines: list[str] = []
    for word in text.split():
        if lines and (width(f"{lines[-1]} {word}", size) <= limit or len(lines) == max_lines):
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return [fit(line, limit, size) for line in lines]
