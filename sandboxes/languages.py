"""The language table: how a block's file is run. Adding a language is adding a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from sandboxes.errors import UnknownLanguage


@dataclass(frozen=True, slots=True)
class Language:
    """One row of the table.

    Attributes:
        name: The canonical name.
        suffix: Ending of the block's file; the first one that names a language on the command line.
        command: argv inside the sandbox; `{file}` is the block's file. Empty for Python, which the runner
            forks from its warm interpreter instead of starting one.
        aliases: Other names, as models write them after a fence.
        suffixes: Further endings of files in this language.
        install: Debian's package with the interpreter or compiler, for the message when it is missing.
        program: The program that has to be there; the first word of `command` by default.
    """

    name: str
    suffix: str
    command: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    install: str = ""
    program: str = ""


def compiled(compiler: str) -> tuple[str, ...]:
    """Return the command that compiles a file and becomes the program.

    The program lies in the temporary directory until the next one is compiled. The name is the sandbox's own: the
    shell's parent is its supervisor.

    Args:
        compiler: Shell words, in which `$1` is the file and `$made` what is to be made of it.
    """
    prepare = 'made=${TMPDIR:-/tmp}/program-$PPID/program && rm -rf "${made%/*}" && mkdir -m 700 "${made%/*}"'
    return ("sh", "-c", f'{prepare} && {compiler} && exec "$made"', "sh", "{file}")


LANGUAGES: tuple[Language, ...] = (
    Language("python", ".py", (), ("py", "python3", "py3"), install="python3"),
    Language("bash", ".bash", ("bash", "--noprofile", "--norc", "{file}"), ("shell",), install="bash"),
    Language("sh", ".sh", ("sh", "{file}"), install="dash"),
    Language("javascript", ".js", ("node", "{file}"), ("js", "node", "nodejs"), (".mjs", ".cjs"), "nodejs"),
    Language("perl", ".pl", ("perl", "{file}"), ("pl",), install="perl"),
    Language("ruby", ".rb", ("ruby", "{file}"), ("rb",), install="ruby"),
    Language("r", ".R", ("Rscript", "--vanilla", "{file}"), ("rscript",), (".r",), "r-base-core"),
    Language("php", ".php", ("php", "{file}"), install="php-cli"),
    Language("lua", ".lua", ("lua", "{file}"), install="lua5.4"),
    Language("java", ".java", ("java", "{file}"), install="default-jdk-headless"),
    # Go does not look at files whose names begin with a dot.
    Language(
        "go",
        ".go",
        compiled('cp "$1" "$made.go" && go build -o "$made" "$made.go"'),
        ("golang",),
        install="golang-go",
        program="go",
    ),
    Language(
        "rust", ".rs", compiled('rustc --crate-name main -o "$made" "$1"'), ("rs",), install="rustc", program="rustc"
    ),
    Language("c", ".c", compiled('gcc -O1 -o "$made" "$1" -lm'), install="gcc", program="gcc"),
    Language(
        "c++",
        ".cpp",
        compiled('g++ -std=c++20 -O1 -o "$made" "$1"'),
        ("cpp", "cxx", "cc"),
        (".cc", ".cxx"),
        install="g++",
        program="g++",
    ),
)

_BY_NAME = {name: row for row in LANGUAGES for name in (row.name, *row.aliases)}
_BY_SUFFIX = {suffix: row for row in LANGUAGES for suffix in (row.suffix, *row.suffixes)}


def find_language(name: str) -> Language:
    """Return the row for a name or an alias, in any case.

    Raises:
        UnknownLanguage: there is no such row; the message lists what there is.
    """
    row = _BY_NAME.get(name.strip().lower())
    if row is None:
        known = ", ".join(language.name for language in LANGUAGES)
        raise UnknownLanguage(f"unknown language {name[:80]!r}; known are {known}")
    return row


def canonical_language(name: str) -> str:
    """Return a language's name in the table, or its name in small letters where it has no row: a kernel may run it."""
    row = _BY_NAME.get(name.strip().lower())
    return name.strip().lower() if row is None else row.name


def is_runnable(name: str) -> bool:
    """Whether a fence with this language holds code to run."""
    return name.strip().lower() in _BY_NAME


def language_of_file(path: str) -> Language:
    """Return the row for a file's ending.

    Raises:
        UnknownLanguage: no row has that ending.
    """
    suffix = PurePath(path).suffix
    row = _BY_SUFFIX.get(suffix) or _BY_SUFFIX.get(suffix.lower())
    if row is None:
        known = ", ".join(sorted(_BY_SUFFIX))
        raise UnknownLanguage(f"cannot tell the language of {path!r}: known endings are {known}")
    return row
