"""Text from a sandbox or a model as a reader may see it: nothing hidden, nothing that a terminal would obey."""

from __future__ import annotations

import re

# Characters that a reader does not see, or that change what is seen: C0 and C1 controls (terminal escapes),
# bidirectional overrides (CVE-2021-42574), zero-width and other invisible characters, line separators, tags
# and the variation selectors that can carry hidden text, lone surrogates.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SHORT = {"\r": "\\r", "\x08": "\\b", "\x07": "\\a"}


def visible(text: str, *, keep: str = "\n\t") -> str:
    r"""Return a text with control, bidirectional and invisible characters written as `\x1b`, `\u202e`, ….

    Args:
        text: Whatever came out of a sandbox or a model.
        keep: Which of line break and tab stay as they are; the others are escaped as well.
    """
    shown = _INVISIBLE.sub(lambda match: _escape(match[0]), text)
    for character, escape in (("\n", "\\n"), ("\t", "\\t")):
        if character not in keep:
            shown = shown.replace(character, escape)
    return shown


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
