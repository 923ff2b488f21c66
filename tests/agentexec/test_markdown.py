"""Fences in, quotations out."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from agentexec import markdown
from agentexec.markdown import (
    QUOTE_CHARS,
    parse_fences,
    quote,
    read_reply,
    visible,
)
from sandboxes.types import CodeBlock

TICKS = "```"
# Everything but lone surrogates, with a taste for what matters to Markdown.
TEXT = st.one_of(
    st.text(),
    st.text(alphabet="`~ \t\n\r\0#>-*1.ab{}<!&\\\x1b\u2028\ufeff"),
    st.lists(
        st.sampled_from(["```", "````", "~~~", "```python", "    ```", "> ", "- ", "<!--", "\r\n", "\n", "x", "\0"])
    ).map("".join),
)
LINES = TEXT.map(lambda text: text if text.endswith("\n") else text + "\n").filter(lambda text: text.strip())


def longer_than_any(character: str, text: str) -> str:
    length = 3
    while character * length in text:
        length += 1
    return character * length


def code_blocks(text: str) -> list[CodeBlock]:
    return list(read_reply(text).blocks)


def codes(text: str) -> list[str]:
    return [block.code for block in code_blocks(text)]


class TestWhatIsFencedIsWhatRuns:
    @given(
        code=LINES,
        character=st.sampled_from("`~"),
        before=st.sampled_from(["", "Text.\n", "# Head\n\n", "1. a\n\n"]),
    )
    @example(code='"""\n    ```\n"""\n', character="`", before="")
    @example(code="a\r\nb\rc\0d\n", character="`", before="")
    @example(code="\tif x:\n\t\ty\n", character="~", before="")
    def test_byte_for_byte(self, code: str, character: str, before: str) -> None:
        fence = longer_than_any(character, code)
        assert codes(f"{before}{fence}python\n{code}{fence}\nText after.") == [code]

    @given(code=LINES.filter(lambda code: "\r" not in code), after=TEXT)
    def test_whatever_text_follows(self, code: str, after: str) -> None:
        fence = longer_than_any("`", code)
        assert codes(f"{fence}python\n{code}{fence}\n{after}")[0] == code

    @given(code=LINES.filter(lambda code: "\r" not in code))
    def test_a_message_in_crlf_runs_with_lf(self, code: str) -> None:
        fence = longer_than_any("`", code)
        text = f"Text.\n{fence}python\n{code}{fence}\n"
        assert codes(text.replace("\n", "\r\n")) == [code]

    @given(
        lines=st.lists(st.text(alphabet="ab`~ #>-", max_size=8).map(str.rstrip), min_size=1).filter(any),
        marker=st.sampled_from(["- ", "1. ", "* ", "10) "]),
    )
    def test_in_a_list_item_the_indentation_of_the_item_is_taken_off(self, lines: list[str], marker: str) -> None:
        code = "".join(line + "\n" for line in lines)
        fence, indent = longer_than_any("`", code), " " * len(marker)
        body = "".join(f"{indent}{line}\n" for line in [*lines, fence])
        assert codes(f"{marker}{fence}python\n{body}") == [code]

    @given(TEXT)
    def test_any_text_can_be_read(self, text: str) -> None:
        reply = read_reply(text)
        assert all(block.code.strip() for block in reply.blocks)
        assert reply.answer is None or not reply.blocks

    def test_in_a_quotation(self) -> None:
        assert codes("> ```python\n> a\n>   b\n> ```\n") == ["a\n  b\n"]

    def test_indented_up_to_three_spaces(self) -> None:
        assert codes("   ```python\n   if x:\n       y\n   ```") == ["if x:\n    y\n"]

    def test_a_fence_inside_a_longer_one_is_content(self) -> None:
        inner = "```python\nprint(1)\n```\n"
        assert codes(f"````python\n{inner}````") == [inner]
        assert codes(f"````markdown\n{inner}````") == []

    def test_tildes_hold_backticks_and_the_other_way_round(self) -> None:
        assert codes("~~~python\n```\n~~~\n\n```python\n~~~\n```") == ["```\n", "~~~\n"]

    def test_an_indented_fence_in_a_docstring_does_not_end_the_block(self) -> None:
        code = 'def f():\n    """\n    ```\n    x\n    ```\n    """\n'
        assert codes(f"```python\n{code}```") == [code]

    @pytest.mark.parametrize("before", ["<details>\n", "<think>\nlet me see\n</think>\n", "<!-- a -->\n"])
    def test_html_does_not_swallow_a_fence(self, before: str) -> None:
        assert codes(f"{before}```python\nprint(1)\n```\n") == ["print(1)\n"]

    def test_several_in_order(self) -> None:
        text = "First:\n```bash\npip list\n```\nthen\n```py\nprint(1)\n```"
        assert code_blocks(text) == [CodeBlock("pip list\n", "bash"), CodeBlock("print(1)\n", "python")]

    def test_long_and_deep_text_is_read_in_time(self) -> None:
        for text in ["> " * 50_000, "- " * 50_000, ("`" * 3 + "\n") * 30_000, "*" * 100_000, "[" * 100_000]:
            parse_fences(text + "```")


class TestWhatRuns:
    @pytest.mark.parametrize("info", ["", "json", "text", "output", "python-repl", "pycon", "pythonic", "diff"])
    def test_a_fence_that_is_not_runnable_does_not(self, info: str) -> None:
        assert codes(f"```{info}\nprint(1)\n```") == []

    @pytest.mark.parametrize(
        ("info", "language"),
        [
            ("python", "python"), (" Python ", "python"), ("py", "python"), ("PYTHON3", "python"),
            ("python title=x", "python"), ("{python}", "python"), ("{.python .numberLines}", "python"),
            ("python {linenos=true}", "python"), ("python{1,3}", "python"), ("python,ignore", "python"),
            ("python:app.py", "python"), ("shell", "bash"), ("sh", "sh"), ("js", "javascript"),
        ],
    )  # fmt: skip
    def test_language_is_the_first_word(self, info: str, language: str) -> None:
        assert [block.language for block in code_blocks(f"~~~{info}\nx\n~~~")] == [language]

    @pytest.mark.parametrize("code", ["", "\n", "  \n\t\n"])
    def test_an_empty_fence_does_not(self, code: str) -> None:
        assert codes(f"```python\n{code}```") == []

    def test_indented_code_and_inline_code_do_not(self) -> None:
        assert codes("    print(1)\n\n`python print(1)` and ```python x```") == []


class TestFilename:
    @pytest.mark.parametrize(
        ("info", "name"),
        [
            ("python filename=app/main.py", "app/main.py"),
            ('python filename="my app.py"', "my app.py"),
            ("python filename='my app.py' other=1", "my app.py"),
            ("python filename: app.py", "app.py"),
            ("python {filename=app.py, linenos=true}", "app.py"),
            ("{.python filename=app.py}", "app.py"),
            ("python,filename=app.py", "app.py"),
            ("python filename=it's.py", "it's.py"),
            ("python filename=../../x", "../../x"),
            ('python filename=""', ""),
            ("python notfilename=app.py", None),
            ("python filename", None),
            ("python", None),
        ],
    )
    def test_in_the_info_string(self, info: str, name: str | None) -> None:
        assert [block.filename for block in code_blocks(f"```{info}\nx = 1\n```")] == [name]

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("# filename: app/main.py", "app/main.py"),
            ("#filename:app.py", "app.py"),
            ('# filename: "my app.py"', "my app.py"),
            ("# filename: ../../x", "../../x"),
            ("# filename: /etc/passwd", "/etc/passwd"),
            ("# filename: a\0b", "a\0b"),
            ("# filename: is read from the command line", None),
            ("# The filename: app.py", None),
            ("# app/main.py", None),
            ("# file: app.py", None),
            ("# This script reads the data", None),
            ("#!/usr/bin/env python", None),
            ("filename: app.py", None),
            ("// filename: app.py", None),
        ],
    )
    def test_in_the_first_line(self, line: str, name: str | None) -> None:
        [block] = code_blocks(f"```python\n{line}\nx = 1\n```")
        assert block.filename == name
        assert block.code == f"{line}\nx = 1\n"  # it stays in the code

    def test_in_the_second_line_is_a_comment(self) -> None:
        assert code_blocks("```python\n\n# filename: a.py\n```")[0].filename is None

    def test_in_javascript_the_comment_is_a_javascript_one(self) -> None:
        assert code_blocks("```js\n// filename: a.js\n```")[0].filename == "a.js"
        assert code_blocks("```js\n# filename: a.js\n```")[0].filename is None

    def test_info_string_goes_first(self) -> None:
        assert code_blocks("```python filename=a.py\n# filename: b.py\n```")[0].filename == "a.py"

    def test_of_a_fence_that_does_not_run_is_remembered(self) -> None:
        assert read_reply('```json filename=conf.json\n{"a": 1}\n```').unrun_files == ("conf.json",)


class TestUnclosedFence:
    def test_runs_to_the_end_if_the_reply_is_complete(self) -> None:
        assert codes("```python\nprint(1)") == ["print(1)\n"]

    @given(code=LINES)
    def test_does_not_run_if_the_reply_was_cut_off(self, code: str) -> None:
        fence = longer_than_any("`", code)
        reply = read_reply(f"```python\nwhole\n```\n{fence}python\n{code}", cut=True)
        assert [block.code for block in reply.blocks] == ["whole\n"]
        assert [unfinished.ended_by for unfinished in reply.unfinished] == ["text"]

    @pytest.mark.parametrize("end", ["```", "```\n", "```\n\n", "``` \n", "```\r\n", "```\nbye"])
    def test_a_closed_one_runs_also_if_cut(self, end: str) -> None:
        assert len(read_reply(f"```python\nx\n{end}", cut=True).blocks) == 1

    def test_ended_by_its_list_item_is_a_mistake(self) -> None:
        reply = read_reply("- run:\n  ```python\n  x = 1\nprint(x)\n  ```\n")
        assert reply.blocks == ()
        assert [fence.ended_by for fence in reply.unfinished] == ["container"]

    def test_its_final_answer_does_not_count(self) -> None:
        reply = read_reply("FINAL ANSWER: 1\n```python\nx", cut=True)
        assert (reply.answer, reply.claimed, reply.idle) == (None, True, True)


class TestFinalAnswer:
    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("FINAL ANSWER: 42", "42"),
            ("It works.\n\nFINAL ANSWER: 42\nand more\n", "42\nand more"),
            ("FINAL ANSWER:\n42", "42"),
            ("FINAL ANSWER: a\r\nb", "a\nb"),
            ("**FINAL ANSWER:** 42", "42"),
            ("**FINAL ANSWER: 42**", "42"),
            ("FINAL ANSWER: **42**", "**42**"),
            ("FINAL ANSWER: 1\nFINAL ANSWER: 2", "1\nFINAL ANSWER: 2"),
            ("FINAL ANSWER: see\n```text\ncode\n```", "see\n```text\ncode\n```"),
            ("FINAL ANSWER:   \n", None),
            ("The FINAL ANSWER: 42", None),
            ("final answer: 42", None),
            ("FINAL ANSWER 42", None),
            ("> FINAL ANSWER: 42", None),
            ("    FINAL ANSWER: 42", None),
            ("```text\nFINAL ANSWER: 42\n```", None),
            ("~~~\n```\nFINAL ANSWER: 42\n```\n~~~", None),
            ("```\nFINAL ANSWER: 42", None),
        ],
    )
    def test_is_what_follows_the_marker_outside_fences(self, text: str, answer: str | None) -> None:
        assert read_reply(text).answer == answer

    def test_does_not_count_beside_code(self) -> None:
        reply = read_reply("```python\nx\n```\nFINAL ANSWER: 42")
        assert (reply.answer, reply.claimed, len(reply.blocks)) == (None, True, 1)

    @given(TEXT)
    def test_is_never_read_from_a_quotation(self, output: str) -> None:
        assert read_reply(quote(output + "\nFINAL ANSWER: 1\n" + output)).answer is None


class TestQuote:
    @given(text=TEXT, budget=st.integers(0, 40) | st.just(QUOTE_CHARS))
    def test_nothing_inside_closes_the_fence(self, text: str, budget: int) -> None:
        quoted = f"Before\n\n{quote(text, budget=budget)}\n\nAfter"
        tokens = MarkdownIt("commonmark").parse(quoted)
        assert [token.type for token in tokens if token.level == 0 and token.nesting >= 0] == [
            "paragraph_open", "fence", "paragraph_open",
        ]  # fmt: skip

    @given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n"), max_size=500))
    def test_plain_text_is_shown_as_it_is(self, text: str) -> None:
        [fence] = parse_fences(quote(text))
        assert fence.code.removesuffix("\n") == text.removesuffix("\n")
        assert fence.language == "text"

    @given(text=TEXT, budget=st.integers(2, 40))
    def test_keeps_to_its_budget(self, text: str, budget: int) -> None:
        body = parse_fences(quote(text, budget=budget))[0].code
        shown = "".join(line for line in body.splitlines(True) if "characters left out" not in line)
        assert len(shown) <= budget + 2

    def test_shows_head_and_tail_and_says_how_much_is_missing(self) -> None:
        quoted = quote("a" * 50 + "b" * 1_000_000 + "c" * 50, budget=100)
        assert quoted == f"```text\n{'a' * 50}\n[... 1,000,000 characters left out ...]\n{'c' * 50}\n```"

    def test_counts_escapes_against_the_budget(self) -> None:
        quoted = quote("\x1b" * 1000, budget=80)
        assert quoted.count("\\x1b") == 20
        assert "[... 980 characters left out ...]" in quoted

    def test_a_text_that_only_its_escapes_make_too_long_is_cut_without_a_gap_or_an_overlap(self) -> None:
        assert "[... 4 characters left out ...]" in quote("a\x1b" * 4, budget=10)

    def test_empty(self) -> None:
        assert quote("") == "```text\n```"


class TestVisible:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\a"),
            ("a\rb\x08", r"a\rb\b"),
            ("\x9b2J\x7f\0", r"\x9b2J\x7f\x00"),
            ("a\u202eb\u2066\u200b\ufeff", r"a\u202eb\u2066\u200b\ufeff"),
            ("\u2028\U000e0041", r"\u2028\U000e0041"),
            ("tab\tline\nä 中 🎉", "tab\tline\nä 中 🎉"),
        ],
    )
    def test_writes_what_a_reader_would_not_see(self, text: str, shown: str) -> None:
        assert visible(text) == shown

    @given(st.text(alphabet=st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Lu", "Zs"])))
    def test_leaves_no_control_or_separator(self, text: str) -> None:
        left = {c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
        assert left <= {"\n", "\t"}

    def test_in_the_middle_of_a_line_escapes_breaks_too(self) -> None:
        assert visible("a\nb\tc", keep="") == r"a\nb\tc"


PIECES = [
    *("```", "````", "~~~~", "```python", "``` py {.a}", "~~~ js x`y", "```a`b", "``` a&amp;b\\*", "  ```", "\t~~~"),
    *(
        "    ",
        " ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "- ",
        "* ",
        "*",
        "1. ",
        "12) ",
        "> ",
        "# h",
        "x",
        "===",
        "- - -",
        "***",
    ),
    *(
        "[foo]: /u",
        '[foo]: /u "t',
        '"',
        "<div>",
        "<!--",
        "\\",
        "\x0b",
        "\x0c",
        "\0",
        "\u2028",
        "\xa0",
        "|-|-|",
        "-",
        "`",
        "~",
    ),
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES).flatmap(lambda piece: st.sampled_from([piece, piece + "\n"])), max_size=12))
def test_fences_that_are_found_without_the_parser_are_those_that_it_finds(pieces: list[str]) -> None:
    text = "".join(pieces) + "\n"
    flat = markdown._flat_fences(text.replace("\r\n", "\n"))
    assert flat is None or flat == markdown._parsed_fences(text.replace("\r\n", "\n"))


def test_an_ordinary_reply_needs_no_parser_and_one_with_a_list_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(text: str) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(markdown, "_parsed_fences", parsed)
    code = "- 1\n> 2\n  ```\n"
    assert [fence.code for fence in parse_fences(f"Next:\n\n````python\n{code}````\n\nThen:\n~~~ sh\nls")] == [
        code,
        "ls\n",
    ]
    with pytest.raises(AssertionError, match="parsed"):
        parse_fences("1. First\n\n```python\nx\n```")
