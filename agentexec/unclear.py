"""What models write that is neither clearly code to run nor clearly an answer: it is asked back once, not guessed.

Every pattern here is something that real models write. Each says exactly what to send instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agentexec.markdown import FINAL_ANSWER, Fence, Reply, parse_fences, visible, without_thoughts
from sandboxes.types import CodeBlock

_DIFF = re.compile(r"\s*(?:diff --git |--- \S[^\n]*\n\+\+\+ |@@ -\d|\*\*\* (?:Begin Patch|Update File))")
_TRANSCRIPTS = frozenset({"console", "shell-session", "shellsession", "terminal", "session", "pycon", "ps1con"})
_PROMPT = {"python": re.compile(r">>> "), "bash": re.compile(r"[\w@.:~/-]{0,80}[$%] \S"), "sh": re.compile(r"\$ \S")}
_PLACEHOLDER = re.compile(
    r"\byour[_-]?(?:[a-z]{1,20}[_-]){0,2}(?:key|token|password|secret|username|url|path|name|code|command|file)[_-]here\b"
    r"|\bYOUR_(?:API_)?(?:KEY|TOKEN|PASSWORD|SECRET)\b|<your[ _-][\w ./-]{1,40}>|\bpath/to/(?:your|the)[/_]",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"^[ \t]*(?:#|//)[ \t]*([^\n]{1,200})$", re.MULTILINE)
_ELISION = re.compile(
    r"(?:\.\.\.|…).*\b(?:rest|existing|remaining|same|previous|unchanged|other)\b"
    r"|(?:the )?rest of (?:the|your) (?:code|file|function|class|script|program|methods?)\b"
    r"|.*\b(?:code|methods|functions)\b.*\b(?:remains? (?:the same|unchanged)|stays? the same|as before|omitted)\b"
    r"|(?:add |insert )?your [\w ]{1,30} here[ \t.…]*$",
    re.IGNORECASE,
)
_CALL_IN_TEXT = re.compile(
    r"<\|?(?:tool_calls?|function_calls?|function=|tool_use|invoke|execute(?:_\w+)?|code_interpreter|python_tag)\b"
    r"|\[TOOL_CALLS?\]|<\uff5ctool",
    re.IGNORECASE,
)
_CODE_KEY = re.compile(r"\"(?:code|command|cmd|python|script|source|action_input)\"\s*:\s*\"")
_CODE_LINE = re.compile(
    r"\s*(?:import \w|from [\w.]+ import |def \w+\(|class \w+[(:]|print\(|for \w+ in .+:$|while .+:$|if .+:$|with .+:$"
    r"|return\b|\w[\w.\[\]'\"]* [+-]?= \S|pip install |apt(?:-get)? |cd \S|ls\b|cat \S|echo |python3? \S|\$ \S|#!/)"
)
_ALMOST_DONE = re.compile(r"^\W{0,6}(?:my |the |our )?final[ _-]?answer\b", re.IGNORECASE | re.MULTILINE)

_SEND_CODE = "send it in a fence that names its language at the beginning of a line, such as ```python"
_DIFF_ADVICE = (
    "it is a diff, which nothing here applies; send the whole file in a fence such as ```python filename=app.py, or a "
    "program that makes the change"
)
_PROMPT_ADVICE = f"its lines begin with prompts; {_SEND_CODE}, without prompts and without outputs"
_PLACEHOLDER_ADVICE = (
    "it holds the placeholder `{}`; put in the real value, or do without it. If it is meant so, send the same again"
)
_ELISION_ADVICE = (
    "it leaves out code (`{}`), and what is there would run alone; send the whole of it. If it is meant so, send the "
    "same again"
)


def doubt_about(block: CodeBlock) -> tuple[str, str] | None:
    """Return what a block holds that cannot be meant so, and what to send instead; None if nothing is in doubt.

    Args:
        block: Code that is about to run.
    """
    code = block.code
    if _DIFF.match(code) and _looks_like_a_diff(code):
        return code.strip().split("\n", 1)[0], _DIFF_ADVICE
    first = code.lstrip("\n").split("\n", 1)[0]
    prompt = _PROMPT.get(block.language)
    if prompt is not None and prompt.match(first):
        return first, _PROMPT_ADVICE
    found = _PLACEHOLDER.search(code)
    if found is not None:
        return found[0], _PLACEHOLDER_ADVICE.format(_shown(found[0]))
    for comment in _COMMENT.finditer(code):
        if _ELISION.match(comment[1]):
            return comment[0].strip(), _ELISION_ADVICE.format(_shown(comment[0]))
    return None


def hints(text: str, reply: Reply) -> list[str]:
    """Return what to say about a message that holds neither code to run nor an answer, if there is something to add.

    Args:
        text: The message.
        reply: What was read in it.
    """
    read = without_thoughts(text)
    if read.strip() == "" and text.strip():
        return ["Your message holds only thoughts. Close them, and then write what to do."]
    about = [_about_fence(fence) for fence in parse_fences(read) if not fence.runnable]
    found = [hint for hint in about if hint is not None] or list(_about_text(read))
    if reply.answer is None and _ALMOST_DONE.search(read):
        found.append(
            "If that was your final answer, send it again with the marker exactly so, at the beginning of a line and "
            f"followed by the answer: {FINAL_ANSWER} ..."
        )
    return found


def _about_fence(fence: Fence) -> str | None:
    where = f"The fence in line {fence.lines[0] + 1}"
    language = fence.language.lower()
    if language in ("diff", "patch", "udiff") or (_DIFF.match(fence.code) and _looks_like_a_diff(fence.code)):
        return f"{where} was not run: {_DIFF_ADVICE}."
    if language in _TRANSCRIPTS:
        return (
            f"{where} was not run: a transcript is no program. Send the commands in ```bash (or code in ```python), "
            "without prompts and without outputs."
        )
    if _CODE_KEY.search(fence.code):
        return f"{where} was not run: it holds JSON. Take the code out of it and {_SEND_CODE}."
    if any(map(_CODE_LINE.match, fence.code.split("\n"))):
        named = f"is `{_shown(fence.language)}`, which is not run" if language else "names no language"
        return f"{where} {named}. If it is code to run, {_SEND_CODE}."
    return None


def _about_text(text: str) -> Iterator[str]:
    if _CALL_IN_TEXT.search(text):
        yield f"A tool call that is written as text is not run. Take the code out of it and {_SEND_CODE}."
    elif _CODE_KEY.search(text):
        yield f"JSON is not run. Take the code out of it and {_SEND_CODE}."
    elif any(map(_DIFF.match, re.split(r"\n(?=@@|---|\*\*\*|diff)", text))):
        yield f"Your change was not made: {_DIFF_ADVICE}."
    elif sum(_CODE_LINE.match(line) is not None for line in text.split("\n")) >= 2:
        yield f"Code outside of a fence is not run. If it is meant to run, {_SEND_CODE}."


def _looks_like_a_diff(code: str) -> bool:
    lines = [line for line in code.split("\n") if line]
    marked = sum(line.startswith(("+", "-", "@@", " ", "diff ", "index ", "***")) for line in lines)
    return marked >= len(lines) * 0.9


def _shown(text: str) -> str:
    return visible(text.strip(), keep="").replace("`", "'")[:120]
