"""Markdown in and out: the code that a message fences, and untrusted text quoted so that it stays data.

Fences are found by a CommonMark parser, with these settled points:

- What is fenced is what runs, byte for byte. A fence whose opening line ends in CRLF has its CRLFs turned
  into LF, since there they are the message's line ending; anywhere else CRLF, a lone CR and NUL stay.
- HTML is not special: a fence right after `<details>` or `<think>` is a fence.
- A fence without a closing line runs to the end of the text, as CommonMark has it, unless the reply was cut
  off there. One that is ended by its list item or quotation, with text after it, is a mistake and not run.
- A runnable fence that holds nothing but white space is not code.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from agentexec.visible import visible as visible
from sandboxes.languages import find_language, is_runnable
from sandboxes.types import CodeBlock

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

FINAL_ANSWER = "FINAL ANSWER:"

QUOTE_CHARS = 8_000
"""Characters of one stream of one block that go into a message: 2,000 to 4,000 tokens."""

EndedBy = Literal["fence", "text", "container"]


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced part of a text.

    Attributes:
        language: First word of the info string, as written; empty if there is none.
        code: What is between the fences.
        filename: From the info string (`filename=…`) or a first line `# filename: …`.
        lines: First line and the line after the last, fences included, counting from 0.
        ended_by: Its closing `fence`, the end of the `text`, or the end of its `container` (a list item or
            a quotation) with text after it.
    """

    language: str
    code: str
    filename: str | None
    lines: tuple[int, int]
    ended_by: EndedBy = "fence"

    @property
    def runnable(self) -> bool:
        """Whether it holds code to run, in a language that can be."""
        return is_runnable(self.language) and not self.code.isspace() and self.code != ""

    def block(self) -> CodeBlock:
        """Return it as code to run, with the language's canonical name."""
        return CodeBlock(self.code, find_language(self.language).name, self.filename)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a coder's message asks for.

    Attributes:
        blocks: Code to run, in order.
        unfinished: Runnable fences that are not run, since their end is missing.
        answer: The final answer. None if there is none, or if it came together with code.
        claimed: Whether the message holds a final answer, even one that does not count.
        unrun_files: Names that fences with a language that is not run asked for.
    """

    blocks: tuple[CodeBlock, ...] = ()
    unfinished: tuple[Fence, ...] = ()
    answer: str | None = None
    claimed: bool = False
    unrun_files: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether it holds neither code to run nor an answer."""
        return not self.blocks and self.answer is None


# A model's thoughts, where a server leaves them in the text: at the beginning, from the tag to its end; or, where the
# opening tag is part of the prompt, up to a closing tag that ends a line.
_THOUGHTS = re.compile(
    r"\s*<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)|(?:(?!^[ \t]*(?:`{3}|~{3})).)*?</think(?:ing)?>[ \t]*$",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)


def without_thoughts(text: str) -> str:
    """Return a text with a leading `<think>…</think>` blanked out, line by line, so that lines keep their numbers."""
    match = _THOUGHTS.match(text) if "think" in text or "<reasoning>" in text or "<thought>" in text else None
    return text if match is None else "\n" * match[0].count("\n") + text[match.end() :]


# The same message is read by the turn order, the stop conditions and the executor: parse it once.
@functools.lru_cache(maxsize=64)
def read_reply(text: str, *, cut: bool = False) -> Reply:
    """Read a coder's message.

    Args:
        text: The message.
        cut: Whether the model was cut off at its length limit; then a fence without end is not run.
    """
    text = without_thoughts(text)
    fences = parse_fences(text)
    runnable = [fence for fence in fences if fence.runnable]
    finished = [fence for fence in runnable if is_finished(fence, cut=cut)]
    answer = _final_answer(text, fences)
    return Reply(
        blocks=tuple(fence.block() for fence in finished),
        unfinished=tuple(fence for fence in runnable if fence not in finished),
        answer=None if runnable else answer,
        claimed=answer is not None,
        unrun_files=tuple(f.filename for f in fences if f.filename and not is_runnable(f.language)),
    )


def is_finished(fence: Fence, *, cut: bool = False) -> bool:
    """Whether a fence of a message ends where its author meant it to; `cut` as in `read_reply`."""
    return fence.ended_by == "fence" or (fence.ended_by == "text" and not cut)


def parse_fences(text: str) -> list[Fence]:
    """Return all fences of a text in order, also those in lists and quotations; nested ones are content."""
    if "```" not in text and "~~~" not in text:
        return []
    source = text.split("\n")
    normal = text.replace("\r\n", "\n")
    # With a final line break, every line of a fence ends in one, and lines can be counted.
    normal += "" if normal.endswith("\n") else "\n"
    found = _flat_fences(normal)
    if found is None:
        found = _parsed_fences(normal)
    return [_fence(each, source) for each in found]


class _Found(NamedTuple):
    """Where a fence is (its first line, and the line after its last), and what is in it."""

    first: int
    end: int
    content: str
    info: str


_OPENING = re.compile(r"^(?:(`{3,})([^`\n]*)|(~{3,})(.*))$", re.MULTILINE)
_NESTED = re.compile(r"^[ \t]*(?:>|(?:[-+*]|\d{1,9}[.)])(?:[ \t]|$))|^[ \t]+(?:`{3}|~{3})", re.MULTILINE)


def _flat_fences(text: str) -> list[_Found] | None:
    """Find the fences of a text where nothing else has a say in it: no list, no quotation, no indented fence.

    That is most of what models write, and there the parser would find the same a hundred times slower.

    Returns:
        None if the text needs the parser.
    """
    found: list[_Found] = []
    at = line = 0
    while (opening := _OPENING.search(text, at)) is not None:
        if _NESTED.search(text, at, opening.start()):
            return None
        mark, begin = opening[1] or opening[3], opening.end() + 1
        closing = re.compile(rf"^ {{0,3}}{mark[0]}{{{len(mark)},}}[ \t]*$", re.MULTILINE).search(text, begin)
        end = len(text) if closing is None else closing.start()
        first = line + text.count("\n", at, begin) - 1
        line = first + 1 + text.count("\n", begin, end) + (closing is not None)
        found.append(_Found(first, line, text[begin:end], opening[2] or opening[4] or ""))
        at = end if closing is None else closing.end() + 1
    return None if _NESTED.search(text, at) else found


@functools.cache
def _parser() -> MarkdownIt:
    # Imported at first use: it costs a good part of what `import agentexec` may take.
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["block"])  # `normalize` would change NUL and lone CR in code
    return parser.disable("html_block")


def _parsed_fences(text: str) -> list[_Found]:
    found: list[_Found] = []
    for token in _parser().parse(text):
        if token.type == "fence":
            assert token.map is not None
            found.append(_Found(token.map[0], token.map[1], token.content, token.info))
    return found


def _fence(found: _Found, source: list[str]) -> Fence:
    first, end, content, info = found
    lines = content.split("\n")[:-1]
    # Lines between the fences: one less than the token's if it is unclosed, two less if it is closed.
    closed = len(lines) == end - first - 2
    last_line = len(source) - (2 if source[-1] == "" else 1)
    ended_by: EndedBy = "fence" if closed else "text" if end > last_line else "container"
    if not source[first].endswith("\r"):
        lines = [line + "\r" if source[first + 1 + i].endswith("\r") else line for i, line in enumerate(lines)]
    code = "".join(line + "\n" for line in lines)
    info = _unescaped(info.strip())
    language = _LANGUAGE.match(info)
    word = language[1] if language else ""
    return Fence(word, code, _filename(info, word, code), (first, end), ended_by)


def _unescaped(info: str) -> str:
    if "\\" not in info and "&" not in info:
        return info
    from markdown_it.common.utils import unescapeAll

    return unescapeAll(info)


# `python`, `python {.numberLines}`, `{.python}`, `{python}`, `python{1,3}`, `python:app.py`
_LANGUAGE = re.compile(r"\{?\s*\.?([^\s{},:=]+)(?![^\s{},:]*=)")
_NAME = r"""(?:"([^"]*)"|'([^']*)'|(%s))"""
_ATTRIBUTE = re.compile(r"(?:^|[\s{,])filename\s*[=:]\s*" + _NAME % r"[^\s\"',}][^\s,}]*")
# One word, or quoted: a comment such as `# filename: is read from argv` is prose.
_COMMENT = {
    marker: re.compile(re.escape(marker) + r"[ \t]*filename:[ \t]*" + _NAME % r"\S+" + r"\s*") for marker in ("#", "//")
}


def _filename(info: str, language: str, code: str) -> str | None:
    found = _ATTRIBUTE.search(info)
    if found is None:
        javascript = is_runnable(language) and find_language(language).name == "javascript"
        first_line = code.partition("\n")[0]
        found = _COMMENT["//" if javascript else "#"].fullmatch(first_line)
    return None if found is None else next(group for group in found.groups() if group is not None)


# `FINAL ANSWER: 42`, `**FINAL ANSWER:** 42`, `**FINAL ANSWER**: 42`, `**FINAL ANSWER: 42**`, `## FINAL ANSWER: 42`
_ANSWER_LINE = re.compile(
    r" {0,3}(?:#{1,6} +)?(\*\*|__)?" + re.escape(FINAL_ANSWER[:-1]) + r"(\*\*|__)?:(\*\*|__)?(.*)", re.DOTALL
)


def before_answer(text: str) -> str:
    """Return what a message says before its final answer; all of it where it holds none."""
    found = _find_answer(text, parse_fences(text))
    return text if found is None else "\n".join(text.replace("\r\n", "\n").split("\n")[: found[0]]).strip()


def _final_answer(text: str, fences: list[Fence]) -> str | None:
    found = _find_answer(text, fences)
    return None if found is None else found[1]


def _find_answer(text: str, fences: list[Fence]) -> tuple[int, str] | None:
    """Return the number of the answer's first line, and the answer."""
    if FINAL_ANSWER[:-1] not in text:
        return None
    lines = text.replace("\r\n", "\n").split("\n")
    fenced = {number for fence in fences for number in range(*fence.lines)}
    for number, line in enumerate(lines):
        match = None if number in fenced else _ANSWER_LINE.fullmatch(line)
        if match is not None:
            opened, closed, rest = match[1], match[2] or match[3], match[4].rstrip()
            if opened and not closed:  # `**FINAL ANSWER: 42**`
                rest = rest.removesuffix(opened)
            answer = "\n".join([rest, *lines[number + 1 :]]).strip()
            return (number, answer) if answer else None
    return None


_HANDOFF = re.compile(r"^[ *_`#>-]*HANDOFF:[ *_`]*([\w-]+)", re.MULTILINE)


def handed_to(text: str) -> str | None:
    """Return the name in the last line `HANDOFF: name` outside of fences and thoughts, or None."""
    if "HANDOFF:" not in text:
        return None
    lines = without_thoughts(text).split("\n")
    for fence in parse_fences("\n".join(lines)):
        lines[slice(*fence.lines)] = [""] * (fence.lines[1] - fence.lines[0])
    names = _HANDOFF.findall("\n".join(lines))
    return names[-1] if names else None


def quote(text: str, *, budget: int = QUOTE_CHARS, info: str = "text") -> str:
    """Return untrusted text as a fence that nothing inside can close.

    Args:
        text: Whatever came out of a sandbox.
        budget: Characters shown, escapes included; of a longer text the head and the tail are shown, with a
            note of what was left out.
        info: The fence's info string.
    """
    body = _shorten(text, budget)
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{info}\n{body}{'' if body.endswith(chr(10)) or not body else chr(10)}{fence}"


def _shorten(text: str, budget: int) -> str:
    if len(text) <= budget:
        shown = visible(text)
        if len(shown) <= budget:
            return shown
    room = budget // 2
    head = list(_fitting(text[:room], room))
    # The head may have taken more of a text than half, and nothing is shown twice.
    rest = text[len(head) :]
    tail = list(_fitting(reversed(rest[-room:] if room else ""), room))[::-1]
    left_out = len(rest) - len(tail)
    return f"{''.join(head)}\n[... {left_out:,} characters left out ...]\n{''.join(tail)}"


def _fitting(characters: Iterable[str], room: int) -> Iterator[str]:
    """Yield characters, escaped, while they fit."""
    for character in characters:
        shown = visible(character)
        room -= len(shown)
        if room < 0:
            return
        yield shown
