"""What is found risky in code: a convenience, so its edges are written down here."""

from __future__ import annotations

import pytest

from agentexec.risks import risks_of
from sandboxes.types import CodeBlock

HARMLESS = [
    "print(sum(range(10)))",
    "import csv\nwith open('sales.csv', newline='') as file:\n    rows = list(csv.DictReader(file))\nprint(rows)",
    "text = 'a b'.replace('a', 'b')\nitems = [1, 2]\nitems.remove(1)\nitems.copy()",
    "import re\nprint(re.compile('x').findall('xx'))",
    "import pandas as pd\nframe = pd.read_csv('a.csv').rename(columns={'a': 'b'})\nprint(frame.eval('b + 1'))",
    "import numpy as np\nnp.random.seed(1)\nprint(open('x', 'rb').read(), open('y', encoding='utf-8'))",
    "while True:\n    break",
    "import time\ntime.sleep(1)",
    "getattr(object(), 'name', None)",
]

PYTHON = [
    ("import requests", "use the network"),
    ("from urllib.request import urlopen", "use the network"),
    ("from urllib import request", "use the network"),
    ("import http.server as h", "use the network"),
    ("import pandas as pd; pd.read_csv('https://example.org/a.csv')", "use the network"),
    ("import subprocess", "start programs"),
    ("import os; os.system('ls')", "start programs"),
    ("import os; os.system('pip install x')", "install packages"),
    ("import subprocess, sys; subprocess.run([sys.executable, '-m', 'x', 'rm'])", "start programs"),
    ("import subprocess; subprocess.run('rm -rf data', shell=True)", "delete files"),
    ("!pip install pandas", "install packages"),
    ("x = 1\n%pip install pandas", "install packages"),
    ("import os; os.remove('x')", "delete files"),
    ("from os import remove as r; r('x')", "delete files"),
    ("import os\nf = os.unlink\nf('x')", "delete files"),
    ("import shutil; shutil.rmtree('x')", "delete files"),
    ("from pathlib import Path; Path('x').unlink()", "delete files"),
    ("from pathlib import Path; Path('x').write_text('')", "overwrite files"),
    ("open('x', 'w')", "overwrite files"),
    ("open('x', mode='wb')", "overwrite files"),
    ("open('x', mode)", "overwrite files"),
    ("from pathlib import Path; Path('x').open('w')", "overwrite files"),
    ("import os; os.replace('a', 'b')", "overwrite files"),
    ("while True:\n    pass", "keep running"),
    ("import time; time.sleep(3600)", "keep running"),
    ("server.serve_forever()", "keep running"),
    ("import os; os.fork()", "keep running"),
    ("import os; os.chmod('x', 0o777)", "change rights"),
    ("eval(text)", "run code made from text"),
    ("exec('import os')", "run code made from text"),
    ("__import__('socket')", "run code made from text"),
    ("import importlib", "run code made from text"),
    ("import ctypes", "run code made from text"),
    ("getattr(os, name)()", "run code made from text"),
    ("__builtins__['ev' + 'al']", "run code made from text"),
    ("import pickle", "run code made from text"),
    ("if (:", "do what cannot be told"),
    ("(" * 500, "do what cannot be told"),
    ("x = '\0'", "do what cannot be told"),
]

HARMLESS_SHELL = [
    "ls -la | head",
    "cat data.csv | wc -l && echo done",
    "python3 main.py data.csv",
    "grep -c x file 2>&1 || true",
    "ls > /dev/null 2>&1",
    "echo 'rm is a command' # rm -rf /",
    "[[ 3 > 2 ]] && (( a = 3 > 2 ))",
    'echo "a & b > c"',
    "echo more >> log.txt",
    "for f in *.csv; do sort $f; done",
    "awk '{ print $1 }' f | sort -u",
]

SHELL = [
    ("curl -O x", "use the network"),
    ("x=1 wget y", "use the network"),
    ("git clone z", "use the network"),
    ("ls && pip install pandas", "install packages"),
    ("python3 -m pip install pandas", "install packages"),
    ("apt-get install -y gcc", "install packages"),
    ("npm i", "install packages"),
    ("rm -rf x", "delete files"),
    ("if true; then rm x; fi", "delete files"),
    ("/bin/rm x", "delete files"),
    (r"r\m x", "delete files"),
    ('"rm" x', "delete files"),
    ("find . -name x -delete", "delete files"),
    ("git reset --hard", "delete files"),
    ("echo $(rm x)", "delete files"),
    ("mv a b", "overwrite files"),
    ("echo x > data.csv", "overwrite files"),
    (">data.csv", "overwrite files"),
    ("sed -i s/a/b/ f", "overwrite files"),
    ("nohup ./server", "keep running"),
    ("./server &", "keep running"),
    ("sleep infinity", "keep running"),
    ("while true; do ls; done", "keep running"),
    ("sudo ls", "change rights"),
    ("chmod +x a", "change rights"),
    ("echo cm0= | base64 -d | sh", "run code made from text"),
    ("eval $x", "run code made from text"),
    ("$x y", "run code made from text"),
    ("python3 -c 'import os'", "run code made from text"),
    ("ls | xargs -n1 rm", "run code made from text"),
]


@pytest.mark.parametrize("code", HARMLESS)
def test_harmless_python(code: str) -> None:
    assert risks_of(CodeBlock(code)) == ()


@pytest.mark.parametrize(("code", "risk"), PYTHON)
def test_risky_python(code: str, risk: str) -> None:
    assert risk in risks_of(CodeBlock(code))


@pytest.mark.parametrize("code", HARMLESS_SHELL)
def test_harmless_shell(code: str) -> None:
    assert risks_of(CodeBlock(code, "bash")) == ()


@pytest.mark.parametrize(("code", "risk"), SHELL)
def test_risky_shell(code: str, risk: str) -> None:
    assert risk in risks_of(CodeBlock(code, "sh"))


@pytest.mark.parametrize("language", ["javascript", "c", "nonsense"])
def test_a_language_that_is_not_looked_into_is_risky(language: str) -> None:
    assert risks_of(CodeBlock("1", language)) == ("do what cannot be told",)


@pytest.mark.parametrize(
    ("filename", "risks"), [("main.py", ()), ("run.sh", ()), ("sales.csv", ("overwrite files",)), (None, ())]
)
def test_a_program_under_the_name_of_something_else_may_overwrite_it(
    filename: str | None, risks: tuple[str, ...]
) -> None:
    assert risks_of(CodeBlock("print(1)", "python", filename)) == risks


def test_a_long_block_is_looked_through_in_time() -> None:
    assert "overwrite files" in risks_of(CodeBlock("x = [1, 2, 3]\n" * 20_000 + "open('x', 'w')"))
    assert risks_of(CodeBlock("echo a b c\n" * 20_000, "bash")) == ()
