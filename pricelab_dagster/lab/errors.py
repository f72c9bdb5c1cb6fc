"""The one-line error of everything a user writes in a lab folder."""

import datetime as dt
import json
from enum import Enum

SHOWN_CHARACTERS = 70


class Found(Enum):
    """What stands at a key when there is no value that could be printed."""

    MISSING = "is missing"
    UNKNOWN = "is unknown"
    HIDDEN = "has a value that is not shown"


class LabError(Exception):
    """A wrong file, key or value in a lab, as one line: where, what was found, what is allowed, what to do.

    Parameters
    ----------
    file : str
        Path of the file relative to the lab folder.
    key : str or None
        Dotted path such as ``design.phases``; ``None`` when the fault is not at one key.
    found : object
        The value at `key`, a `Found`, or without a key the fault in words.
    allowed : str
        Ends the sentence "must be ...".
    remedy : str
        The next step, a full sentence.

    Examples
    --------
    >>> print(LabError("experiments/milk.yaml", "design.phases", 3, "an even number of at least 2", "Give 2 or 4."))
    experiments/milk.yaml: design.phases == 3, must be an even number of at least 2. Give 2 or 4.
    """

    def __init__(self, file: str, key: str | None, found: object, allowed: str, remedy: str) -> None:
        super().__init__(file, key, found, allowed, remedy)
        self.file = file
        self.key = key
        self.found = found
        self.allowed = allowed
        self.remedy = remedy

    def __str__(self) -> str:
        if self.key is None:
            subject = str(self.found)
        elif isinstance(self.found, Found):
            subject = f"{self.key} {self.found.value}"
        else:
            subject = f"{self.key} == {show(self.found)}"
        return one_line(f"{self.file}: {subject}, must be {self.allowed}. {self.remedy}")


class Rule(ValueError):
    """A broken rule, before the file and the full key are known; becomes a `LabError`.

    `key` is relative to where the rule is checked, and `found` is the value there: ``None`` in both means the
    checked value itself.
    """

    def __init__(self, allowed: str, remedy: str, key: str | None = None, found: object = None) -> None:
        super().__init__(allowed, remedy, key, found)
        self.allowed = allowed
        self.remedy = remedy
        self.key = key
        self.found = found

    def at(self, file: str, key: str, found: object = None) -> LabError:
        """The error with its place; `found` stands in when the rule names no value of its own."""
        return LabError(file, key, found if self.found is None else self.found, self.allowed, self.remedy)


def one_line(text: str) -> str:
    r"""`text` on one printable line.

    Examples
    --------
    >>> one_line("a\n  b\x07")
    'a b'
    """
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def show(value: object) -> str:
    """`value` as it is written in a lab file, cut to a readable length.

    Examples
    --------
    >>> show("milk"), show(None), show([1, 2]), show(0.95)
    ("'milk'", 'null', '[1, 2]', '0.95')
    """
    if isinstance(value, str):
        text = f"'{value}'"
    elif isinstance(value, dt.date):
        text = value.isoformat()
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    text = one_line(text)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
