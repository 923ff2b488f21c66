"""Which blocks a person may want to see before they run. A convenience, not a security boundary.

The code is read, not run: it is looked through for names and words that commonly go with a risk. Whoever wants to
hide something from it can; what holds is the sandbox and its limits. The rules err on the side of asking: code that
cannot be read, that makes code from text, or that is in a language which is not looked into, is risky.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

from sandboxes.errors import UnknownLanguage
from sandboxes.languages import find_language
from sandboxes.types import CodeBlock

Risk = Literal[
    "use the network",
    "install packages",
    "delete files",
    "overwrite files",
    "start programs",
    "keep running",
    "change rights",
    "run code made from text",
    "do what cannot be told",
]
"""What a block seems to do, as words that complete `It seems to …`."""


def risks_of(block: CodeBlock) -> tuple[Risk, ...]:
    """Return what a block seems to do that is risky, in alphabetical order; empty if nothing was found."""
    try:
        language = find_language(block.language)
    except UnknownLanguage:
        return ("do what cannot be told",)
    if language.name == "python":
        found = set(_python(block.code))
    elif language.name in ("bash", "sh"):
        found = set(_shell(block.code))
    else:
        found = {"do what cannot be told"}
    suffixes = (language.suffix, *language.suffixes, ".sh")
    if block.filename is not None and PurePosixPath(block.filename).suffix not in suffixes:
        found.add("overwrite files")  # a program under the name of something else, such as of a data file
    return tuple(sorted(found))


_MODULES: tuple[tuple[Risk, str], ...] = (
    (
        "use the network",
        "socket ssl http.client http.server urllib.request urllib3 requests httpx aiohttp websocket websockets ftplib "
        "smtplib imaplib poplib telnetlib xmlrpc socketserver paramiko fabric boto3 botocore google.cloud azure openai "
        "anthropic huggingface_hub selenium playwright scrapy pycurl psycopg psycopg2 pymysql pymongo redis grpc zmq",
    ),
    ("start programs", "subprocess multiprocessing pty pexpect sh plumbum"),
    (
        "run code made from text",
        "ctypes cffi importlib runpy code codeop marshal pickle cloudpickle dill joblib shelve builtins",
    ),
    ("install packages", "pip ensurepip venv setuptools"),
)
_RISK_OF_MODULE: dict[str, Risk] = {name: risk for risk, names in _MODULES for name in names.split()}

# The last part of a call's name, whatever it is called on: `Path(x).unlink()`, `os.remove(x)`, `shutil.rmtree(x)`.
_CALLS: dict[str, Risk] = {
    **dict.fromkeys(("remove", "unlink", "rmdir", "removedirs", "rmtree", "truncate"), "delete files"),
    **dict.fromkeys(("rename", "renames", "replace", "move", "copyfile", "copy2", "copytree"), "overwrite files"),
    **dict.fromkeys(("write_text", "write_bytes"), "overwrite files"),
    **dict.fromkeys(("system", "popen", "Popen", "startfile", "run_cell_magic", "getoutput"), "start programs"),
    **dict.fromkeys(("fork", "forkpty", "daemon", "serve_forever", "run_forever", "mainloop"), "keep running"),
    **dict.fromkeys(("chmod", "chown", "lchown", "setuid", "setgid"), "change rights"),
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "import_module"), "run code made from text"),
    **dict.fromkeys(("urlopen", "urlretrieve", "open_connection", "create_connection"), "use the network"),
}
# Names that are also those of harmless methods (`list.remove`, `str.replace`, `re.compile`, `df.eval`) count on these
# or alone only; everything else in `_CALLS` counts on anything.
_ONLY_ON = {
    "remove": {"os"}, "replace": {"os"}, "rename": {"os"}, "move": {"shutil"}, "truncate": {"os"},
    "compile": {""}, "system": {"os"}, "exec": {""}, "eval": {""},
}  # fmt: skip
_URL = re.compile(r"\b(?:https?|ftp|wss?|s3|gs|sftp)://", re.IGNORECASE)


def _python(code: str) -> Iterator[Risk]:
    lines, shell = [], []
    for line in code.split("\n"):  # a kernel's `!command`, `%pip install`, `%%bash`
        stripped = line.lstrip()
        if stripped[:1] in ("!", "%"):
            shell.append(stripped.lstrip("!%"))
            lines.append(line[: len(line) - len(stripped)] + "pass")
        else:
            lines.append(line)
    if shell:
        yield "start programs"
        yield from _shell("\n".join(shell))
    try:
        with warnings.catch_warnings(action="ignore"):  # such as of an invalid escape in a string
            tree = ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        yield "do what cannot be told"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield from _module(f"{node.module or ''}.{alias.name}")
                if node.module in ("os", "shutil", "posix") and alias.name in _CALLS:
                    yield _CALLS[alias.name]
        elif isinstance(node, ast.Call):
            yield from _call(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _URL.search(node.value):
            yield "use the network"  # what opens it may be anything: pandas.read_csv, torchvision, …
        elif isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value:
            if not any(isinstance(inner, ast.Break | ast.Return | ast.Raise) for inner in ast.walk(node)):
                yield "keep running"
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from _name(node)


def _name(node: ast.Name | ast.Attribute) -> Iterator[Risk]:
    """Names that need not be called to lead anywhere: `__builtins__`, `sys.modules`."""
    name = node.id if isinstance(node, ast.Name) else node.attr
    on = node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else ""
    if name in ("__builtins__", "__subclasses__", "__globals__", "globals") or (on, name) == ("sys", "modules"):
        yield "run code made from text"
    elif on in ("os", "shutil") and name in _CALLS:  # `delete = os.remove`
        yield _CALLS[name]


def _module(name: str) -> Iterator[Risk]:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        if (known := ".".join(parts[:end])) in _RISK_OF_MODULE:
            yield _RISK_OF_MODULE[known]


def _call(node: ast.Call) -> Iterator[Risk]:
    function = node.func
    if isinstance(function, ast.Attribute):
        name = function.attr
        on = function.value.id if isinstance(function.value, ast.Name) else "?"
    else:
        name, on = (function.id, "") if isinstance(function, ast.Name) else ("", "")
    if name == "open":
        yield from _open(node, on)
    elif name in ("spawnl", "spawnv", "execv", "execl", "execve", "execvp", "posix_spawn"):
        yield "start programs"
    elif name == "getattr" and not (len(node.args) > 1 and isinstance(node.args[1], ast.Constant)):
        yield "run code made from text"
    elif name == "sleep" and node.args and isinstance(node.args[0], ast.Constant):
        seconds = node.args[0].value
        if isinstance(seconds, int | float) and seconds >= 60:
            yield "keep running"
    elif name in _CALLS and on in _ONLY_ON.get(name, {on}):
        yield _CALLS[name]
    if name in ("system", "popen", "getoutput", "run", "Popen", "check_output", "check_call", "call"):
        for argument in node.args[:1]:
            words = [part.value for part in ast.walk(argument) if isinstance(part, ast.Constant)]
            yield from _shell(" ".join(word for word in words if isinstance(word, str)))


def _open(node: ast.Call, on: str) -> Iterator[Risk]:
    is_function = on in ("", "io", "os", "codecs", "gzip", "bz2", "lzma", "tarfile")
    at = 1 if is_function else 0  # `open(path, mode)`, but `Path(path).open(mode)`
    given = [*node.args[at : at + 1], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    for mode in given:
        # A mode that cannot be read here counts, too; a method's first argument may be anything.
        known = mode.value if isinstance(mode, ast.Constant) else None
        if (known is None and is_function) or (isinstance(known, str) and re.fullmatch(r"[rbtx:gz+]*[wx+]\S*", known)):
            yield "overwrite files"


_COMMANDS: tuple[tuple[Risk, str], ...] = (
    (
        "use the network",
        "curl wget ssh scp sftp rsync ftp nc ncat netcat telnet socat dig nslookup host ping gcloud aws az kubectl gh "
        "docker podman git-clone git-fetch git-pull git-push go-get",
    ),
    (
        "install packages",
        "pip pip3 pipx uv conda mamba micromamba poetry apt apt-get aptitude dpkg yum dnf rpm apk pacman brew snap npm "
        "npx yarn pnpm gem cargo cpan luarocks R-CMD make-install easy_install",
    ),
    (
        "delete files",
        "rm rmdir unlink shred truncate find-delete find-exec git-clean git-reset git-checkout git-restore mkfs wipefs",
    ),
    ("overwrite files", "mv dd tee install ln patch sed-i perl-i tar unzip cp"),
    ("keep running", "nohup setsid daemonize screen tmux at batch crontab systemctl service watch disown yes"),
    ("change rights", "sudo su doas chmod chown chgrp setfacl setcap mount umount"),
    (
        "run code made from text",
        "eval source . exec xargs env sh bash zsh dash ksh python python3 perl ruby node php",
    ),
)
_RISK_OF: dict[str, Risk] = {word: risk for risk, words in _COMMANDS for word in words.split()}
_TWO_WORDS = {word.partition("-")[0] for word in _RISK_OF if "-" in word and word != "apt-get"}
# What begins a command: the line, an operator, a substitution, or a word that is followed by one.
_COMMAND = re.compile(r"(?:^|[;&|(){}`\n!]|\$\(|\b(?:then|do|else|time|command|exec|if|while|until)\b)\s*")
_ASSIGNMENT = re.compile(r"(?:\w+=(?:'[^']*'|\"[^\"]*\"|[^\s'\"]*)\s+)*")
_WORDS = re.compile(r"[\w./+\\'\"~${}-]+")
# `> file` empties it; `>> file`, `2>&1`, `> /dev/null` and a comparison within [[ ]] or (( )) do not.
_REDIRECT = re.compile(r"(?<![>=<\-])>(?![>=&(])\|?\s*(?!/dev/(?:null|stdout|stderr)\b)\S")
_BACKGROUND = re.compile(r"(?<![&>|<])&(?![&>\d-])")
_LONG = re.compile(r"\bsleep\s+(?:inf|\d{3,}|\d+[mhd])|\bwhile\s+(?:true|:|\[\s*1\s*\])|\btail\s+(?:-\w*[fF]|--follow)")


def _shell(code: str) -> Iterator[Risk]:
    code = re.sub(r"(?m)(?:^|(?<=\s))#.*$", "", code.replace("\\\n", " "))
    for start in _COMMAND.finditer(code):
        rest = code[start.end() :].split("\n", 1)[0]
        words = _WORDS.findall(rest[_ASSIGNMENT.match(rest).end() :])[:12]  # type: ignore[union-attr]
        if not words:
            continue
        # Quotes and backslashes within a command's name change nothing of it: `r\m`, `"rm"`.
        name = re.sub(r"['\"\\]", "", words[0]).rsplit("/", 1)[-1] if words[0] != "." else "."
        if "$" in name or "{" in name.strip("{}"):
            yield "run code made from text"  # the name of the command comes out of a variable
        if name in _RISK_OF and not (name in ("python", "python3") and _is_plain_program(words[1:])):
            yield _RISK_OF[name]
        if name in ("pip", "pip3", "npm", "uv", "conda", "apt", "apt-get", "cargo", "gem", "git") and len(words) > 1:
            yield "use the network"
        if name in ("python", "python3") and words[1:3] in (["-m", "pip"], ["-m", "venv"], ["-m", "ensurepip"]):
            yield "install packages"
        if name in ("python", "python3") and words[1:3] == ["-m", "http.server"]:
            yield "keep running"
        if name in _TWO_WORDS:
            yield from (_RISK_OF[f"{name}-{word.lstrip('-')[:8]}"] for word in words[1:] if _two(name, word))
    if _REDIRECT.search(re.sub(r"\[\[.*?\]\]|\(\(.*?\)\)|'[^'\n]*'|\"[^\"\n]*\"", "q", code)):
        yield "overwrite files"
    if _BACKGROUND.search(re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "q", code)):
        yield "keep running"
    if _LONG.search(code):
        yield "keep running"
    if _URL.search(code):
        yield "use the network"


def _two(name: str, word: str) -> bool:
    return f"{name}-{word.lstrip('-')[:8]}" in _RISK_OF


def _is_plain_program(words: list[str]) -> bool:
    """Whether Python is started with a file of the workspace, which was a block itself, or to say its version."""
    return bool(words) and (words[0].endswith(".py") or words[0] in ("--version", "-V"))
