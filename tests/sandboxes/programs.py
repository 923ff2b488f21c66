# ruff: noqa: E501, W291 - programs as they are
"""Programs that must end in a block as they end under `python FILE`: same output, same exit status, same files."""

from __future__ import annotations

PROGRAMS: dict[str, str] = {
    # Multiprocessing
    "mp_fork": """
import multiprocessing as mp
def f(x): return x*x
if __name__=="__main__":
    ctx=mp.get_context("fork")
    with ctx.Pool(2) as p: print(p.map(f, range(5)))
    q=ctx.Queue()
    pr=ctx.Process(target=q.put, args=(3,)); pr.start(); print(q.get()); pr.join(); print(pr.exitcode)
""",
    "mp_spawn": """
import multiprocessing as mp
def f(x): return x*x
if __name__=="__main__":
    ctx=mp.get_context("spawn")
    with ctx.Pool(2) as p: print(p.map(f, range(5)))
    q=ctx.Queue()
    pr=ctx.Process(target=q.put, args=(3,)); pr.start(); print(q.get()); pr.join(); print(pr.exitcode)
""",
    "mp_exc": """
import multiprocessing as mp
def f(): raise ValueError("in child")
if __name__=="__main__":
    p=mp.get_context("fork").Process(target=f, name="P"); p.start(); p.join(); print(p.exitcode)
""",
    "mp_spawn_noguard": """
import multiprocessing as mp
print("top", __name__)
def f(): print("child", __name__)
p=mp.get_context("spawn").Process(target=f); p.start(); p.join(); print(p.exitcode)
""",
    "mp_default_no_guard": """
import multiprocessing as mp
def f(x): return x+1
print(mp.Pool(2).map(f,[1,2,3]))
""",
    "ppe": """
from concurrent.futures import ProcessPoolExecutor
def f(x): return x+1
class C: pass
if __name__=="__main__":
    with ProcessPoolExecutor(2) as e: print(list(e.map(f,[1,2,3])))
""",
    "mp_manager": """
import multiprocessing as mp
if __name__=="__main__":
    with mp.Manager() as m:
        d=m.dict(); d["a"]=1; print(dict(d))
""",
    "mp_shm": """
from multiprocessing import shared_memory
s=shared_memory.SharedMemory(create=True,size=100); s.buf[0]=5; print(s.buf[0]); s.close(); s.unlink()
""",
    "pickle_spawn": """
import multiprocessing as mp
class C:
    def __init__(s,x): s.x=x
def f(c): return type(c)(c.x+1)
if __name__=="__main__":
    with mp.get_context("spawn").Pool(1) as p:
        r=p.map(f,[C(1)]); print(r[0].x, isinstance(r[0],C))
""",
    "mp_logging": """
import multiprocessing as mp
print(mp.current_process().name, mp.current_process().daemon, mp.parent_process(), mp.active_children(), mp.get_start_method())
""",
    "mp_atexit": """
import multiprocessing as mp, atexit
def f(): print("child",flush=True)
if __name__=="__main__":
    atexit.register(print,"parent exit")
    p=mp.get_context("fork").Process(target=f); p.start()
""",
    "mp_daemon": """
import multiprocessing as mp,time
def f(): time.sleep(30)
if __name__=="__main__":
    p=mp.get_context("fork").Process(target=f,daemon=True); p.start(); print("end")
""",
    # Testing tools
    "unittest": """
import unittest
class T(unittest.TestCase):
    def test_a(self): self.assertEqual(1,1)
    def test_b(self): self.assertEqual(1,2)
if __name__=="__main__": unittest.main()
""",
    "unittest_ok": """
import unittest
class T(unittest.TestCase):
    def test_a(self): self.assertEqual(1,1)
unittest.main(verbosity=2)
""",
    "doctest": '\ndef f():\n    """\n    >>> 1+1\n    2\n    >>> f()\n    3\n    """\n    return 4\nimport doctest; print(doctest.testmod())\n',
    "pdb": """x=1
breakpoint()
print('after')
""",
    "pdb_import": """import pdb
pdb.set_trace()
print('after')
""",
    "pdb_pm": """
import pdb
try: 1/0
except Exception: pdb.post_mortem()
print("after")
""",
    # Main, source and modules
    "pickle_main": """
import pickle
class C:
    def __init__(s,x): s.x=x
c=pickle.loads(pickle.dumps(C(3))); print(type(c), c.x, C.__module__)
""",
    "getsource": '\nimport inspect\ndef f(a):\n    """doc"""\n    return a  # comment\nclass C:\n    def m(self): pass\nprint(inspect.getsource(f)); print(inspect.getsource(C)); print(inspect.getfile(f)); print(inspect.getsourcelines(C.m)); print(inspect.getmodule(f))\n',
    "nonlocal_err": """def f():
    nonlocal x
""",
    "future_ann": """from __future__ import annotations
import typing
class A:
    x: int
    y: "B | None" = None
class B: pass
print(typing.get_type_hints(A))
print(A.__annotations__)
""",
    "annotations_evaluated": """
import typing
def f(x: int, y: "str") -> list: ...
print(f.__annotations__, typing.get_type_hints(f))
x: int = 3
print(__annotations__)
""",
    "dataclass": """
from dataclasses import dataclass, field, asdict
@dataclass(order=True, slots=True)
class P:
    x: int
    y: "list[int]" = field(default_factory=list)
print(P(1), asdict(P(1,[2])), P(1)<P(2))
""",
    "enum": """
import enum
class E(enum.Enum): A=1
print(E.A, repr(E.A), E.__module__)
""",
    "namedtuple": """
from collections import namedtuple
import pickle
N=namedtuple("N","a b"); print(N(1,2), N.__module__, pickle.loads(pickle.dumps(N(1,2))))
""",
    "main_vars": """
import sys
print(sorted(k for k in globals()))
print(__name__,__file__,__package__,__spec__,__cached__,__doc__,type(__loader__).__name__, __builtins__)
print(sys.argv, sys.orig_argv[-1:] and 1, sys.path[0])
import __main__; print(__main__.__file__, __main__, repr(__main__))
import os; print(os.getcwd())
""",
    "docstring": '"""The doc."""\nprint(__doc__)\n',
    "cached": """
import sys
print(__cached__, __loader__.name, __loader__.path)
print(type(__loader__))
""",
    "names_in_main": """print(sorted(dir()))
""",
    "sysmods": """
import sys
print([m for m in sys.modules if "agentexec" in m or "runner" in m])
print(sys.modules["__main__"] is __import__("__main__"))
""",
    "source_with_bom": "\ufeffprint('bom', __file__)\n",
    "source_with_crlf": "print('a')\r\nif 1:\r\n    print('b')\r\ns='''x\r\ny'''\r\nprint(repr(s))\r\n",
    "source_with_cr": "print('a')\rprint('b')\r",
    "cookie_utf8": "# -*- coding: utf-8 -*-\nprint('\xe9')\n",
    "cookie_latin1": "# -*- coding: latin-1 -*-\nprint('\xe9')\nprint(ascii('\xe9'))\n",
    "cookie_latin1_tb": "# -*- coding: latin-1 -*-\nx='\xe9'; 1/0\n",
    "formfeed": "\x0cprint('ff')\n",
    "no_newline_at_the_end": """print('no newline')""",
    "empty": """""",
    "onlycomment": """# nothing""",
    "ctrlz": "print(1)\n\x1aprint(2)\n",
    "exoticnames": "h\xe9llo=1\nprint(h\xe9llo)\n\u0394=2\n1/0; \u0394\n",
    "importerr": """import nonexistent_mod
""",
    "importerr_in_mod": r"""
open("m3.py","w").write("def f():\n    raise KeyError('k')\n")
import m3
m3.f()
""",
    "import_main_reload": """
import importlib,sys
print(importlib.util.find_spec("json").name if hasattr(importlib,"util") else 0)
try: print(importlib.util.find_spec("__main__"))
except ValueError as e: print(e)
""",
    "import_self": """
if __name__=="__main__":
    import main
    print(main.X, main is __import__("__main__"))
X=3
""",
    "relimport": """from . import x
""",
    "pkg": """
import os
os.makedirs("pkg",exist_ok=True); open("pkg/__init__.py","w").write("from .a import A"); open("pkg/a.py","w").write("A=5")
from pkg import A; print(A)
import pkgutil; print([m.name for m in pkgutil.iter_modules(["pkg"])])
import importlib.resources as r; print(r.files("pkg").joinpath("a.py").read_text())
""",
    "flags": """import sys
print(sys.flags.optimize, sys.flags.interactive, sys.flags.dev_mode, sys.flags.utf8_mode, sys.flags.hash_randomization, sys.dont_write_bytecode)
""",
    "site": """import sys
print('site' in sys.modules, hasattr(__builtins__,'exit'), hasattr(__builtins__,'copyright'), hasattr(__builtins__,'help'), exit)
""",
    "displayhook": """import sys
print(hasattr(sys,'ps1'), sys.displayhook is sys.__displayhook__, sys.excepthook is sys.__excepthook__, sys.breakpointhook is sys.__breakpointhook__)
""",
    "walrus_global": """
def f():
    global z
    z=3
f(); print(z, globals() is __import__("__main__").__dict__, locals() is globals())
""",
    "import_suggest": """from math import sqr
""",
    "closure_file_iter": """print(open(__file__).readline())
import os; print(os.path.basename(__file__), os.path.isabs(__file__))
""",
    "linecache": """import linecache
print(repr(linecache.getline(__file__,1)))
""",
    "ast_self": """import ast
print(len(ast.parse(open(__file__).read()).body))
""",
    "typing_rt": """
import typing, inspect
T=typing.TypeVar("T")
class G(typing.Generic[T]): 
    def m(self, x: T) -> "G[T]": ...
print(typing.get_type_hints(G.m), inspect.signature(G.m), G[int])
""",
    "type_alias_protocol": """
import typing
@typing.runtime_checkable
class P(typing.Protocol):
    def m(self): ...
class C:
    def m(self): ...
print(isinstance(C(),P))
""",
    "matchstmt": """match [1,2]:
    case [a,b]: print(a,b)
""",
    "del_sys_modules_main": """import sys
del sys.modules['__main__']
print('x')
""",
    # Uncaught exceptions
    "tb": """
def f(x):
    return 1/x
def g():
    f(0)
g()
""",
    "tb_chain": """
try:
    {}["a"]
except KeyError as e:
    raise RuntimeError("x") from e
""",
    "tb_context": """
try:
    {}["a"]
except KeyError as e:
    raise RuntimeError("x")
""",
    "tb_group": """
raise ExceptionGroup("g",[ValueError(1), ExceptionGroup("h",[TypeError(2)])])
""",
    "tb_notes": """
e=ValueError("x"); e.add_note("a note"); raise e
""",
    "tb_recursion": """
def f(n): return f(n+1)
f(0)
""",
    "syntaxerror": """x = 1
if x
    print(1)
""",
    "indent": """def f():
print(1)
""",
    "taberr": """if 1:
	x=1
        y=2
""",
    "unclosed": """print((1,2)
""",
    "syntax_nested": """
exec("a b")
""",
    "compile_err_inner": """
def f():
    return eval("1+")
f()
""",
    "syntax_warning": r"""
x = 1
if x is 1: print("y")
print("\d")
""",
    "return_outside": """return 3
""",
    "kbd": """raise KeyboardInterrupt
""",
    "kbd_msg": """raise KeyboardInterrupt('x')
""",
    "unclosed_file": """
f=open("out.txt","w"); f.write("data")
g=open("out2.bin","wb"); g.write(b"data")
class H:
    def __init__(s): s.f=open("out3.txt","w"); s.f.write("x")
h=H()
""",
    "unclosed_then_exc": """
f=open("out.txt","w"); f.write("data")
def g():
    k=open("out4.txt","w"); k.write("frame")
    1/0
g()
""",
    "unclosed_gz": """
import gzip,zipfile,csv,sqlite3
w=csv.writer(open("a.csv","w")); w.writerow([1,2])
z=zipfile.ZipFile("a.zip","w"); z.writestr(zipfile.ZipInfo("x"),"y")
""",
    "unclosed_gzip": """
import gzip
g=gzip.GzipFile("a.gz","wb",mtime=0); g.write(b"hello"*100)
""",
    "excepthook": """
import sys
def h(t,v,tb): print("hook",t,v,tb.tb_lineno, tb.tb_frame.f_code.co_name)
sys.excepthook=h
1/0
""",
    "excepthook_raises": """
import sys
def h(t,v,tb): raise ValueError("bad hook")
sys.excepthook=h
1/0
""",
    "excepthook_exit": """
import sys
def h(t,v,tb): sys.exit(5)
sys.excepthook=h
1/0
""",
    "excepthook_none": """import sys
sys.excepthook=None
1/0
""",
    "last_exc": """
import sys,atexit
atexit.register(lambda: print(sys.last_type, sys.last_value, sys.last_traceback.tb_lineno))
1/0
""",
    "warn": """
import warnings
def f():
    warnings.warn("careful")
    warnings.warn("dep",DeprecationWarning,stacklevel=2)
f()
""",
    "warn_error": """
import warnings
warnings.simplefilter("error")
warnings.warn("boom")
""",
    "longline": """x='aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'; 1/0
""",
    "assert": """assert 1==2, 'no'
""",
    "memoryerror": """raise MemoryError
""",
    "stopiter": """raise StopIteration(3)
""",
    "genexit": """raise GeneratorExit
""",
    "baseexc": """class B(BaseException): pass
raise B('b')
""",
    "excstrbad": """
class E(Exception):
    def __str__(s): raise ValueError
raise E
""",
    "oserror": """open('/nonexistent/x')
""",
    "custom_excmodule": """class MyErr(Exception): pass
raise MyErr('m')
""",
    "nested_fn_tb": """
class A:
    def m(self):
        return (lambda: self.x)()
A().m()
""",
    "tb_multiline": """
def f(a,
      b): return a/b
print(f(1,
  0) +
  2)
""",
    "name_suggest": """import math
prnt(1)
""",
    "attr_suggest": """import math
math.sqr(1)
""",
    "exc_with_locals_big": r"""
x=[1]*10
raise ValueError("a\nb")
""",
    "except_star": """
try: raise ExceptionGroup("g",[ValueError(1)])
except* ValueError as e: print(e.exceptions)
""",
    # How a program ends
    "threads": """
import threading,time
def w(): time.sleep(0.1); print("thread done")
threading.Thread(target=w).start()
print("main done")
""",
    "thread_daemon": """
import threading,time
def w(): time.sleep(30); print("never")
threading.Thread(target=w,daemon=True).start()
print("main done")
""",
    "thread_exc": """
import threading
def w(): raise ValueError("t")
t=threading.Thread(target=w,name="T-1"); t.start(); t.join(); print("on")
""",
    "thread_main": """
import threading
print(threading.current_thread().name, threading.main_thread() is threading.current_thread(), threading.active_count(), threading.current_thread().name)
""",
    "tpe": """
from concurrent.futures import ThreadPoolExecutor
e=ThreadPoolExecutor(2)
f=e.submit(lambda: print("in pool"))
print("end")
""",
    "atexit": """
import atexit
atexit.register(print,"bye 1"); atexit.register(print,"bye 2")
print("hi")
""",
    "atexit_exc": """
import atexit
@atexit.register
def f(): raise ValueError("in exit")
@atexit.register
def g(): print("g")
print("hi")
""",
    "atexit_sysexit": """
import atexit,sys
@atexit.register
def f(): sys.exit(7)
print("hi")
""",
    "atexit_after_exc": """
import atexit
atexit.register(print,"bye")
1/0
""",
    "atexit_after_exit": """
import atexit,sys
atexit.register(print,"bye")
sys.exit(4)
""",
    "atexit_threadstart": """
import atexit,threading
order=[]
def w(): 
    import time; time.sleep(0.05); print("thread")
atexit.register(lambda: print("atexit"))
threading.Thread(target=w).start()
""",
    "exit_msg": """import sys
print('a')
sys.exit("message")
""",
    "exit_int": """import sys
print('a')
sys.exit(3)
""",
    "exit_none": """import sys
print('a')
sys.exit(None)
""",
    "exit_zero": """import sys
print('a')
sys.exit(0)
""",
    "exit_256": """import sys
print('a')
sys.exit(256)
""",
    "exit_300": """import sys
print('a')
sys.exit(300)
""",
    "exit_neg": """import sys
print('a')
sys.exit(-1)
""",
    "exit_big": """import sys
print('a')
sys.exit(2**31)
""",
    "exit_true": """import sys
print('a')
sys.exit(True)
""",
    "exit_list": """import sys
print('a')
sys.exit([1,2])
""",
    "exit_uni": r"""import sys
print('a')
sys.exit("\u00e9\ud800")
""",
    "exit_empty": """import sys
print('a')
sys.exit()
""",
    "exit_float": """import sys
print('a')
sys.exit(1.5)
""",
    "exit_tuple": """import sys
print('a')
sys.exit((1,2))
""",
    "exit_sub": """import sys
print('a')
sys.exit(__import__('enum').IntEnum('E','A').A)
""",
    "exit_builtin": """exit(3)
""",
    "quit_builtin": """quit()
""",
    "raise_systemexit": """raise SystemExit
""",
    "raise_systemexit_args": """raise SystemExit(1,2)
""",
    "systemexit_sub": """
class E(SystemExit): pass
raise E("hello")
""",
    "exit_in_thread": """
import threading,sys
t=threading.Thread(target=lambda: sys.exit(4)); t.start(); t.join(); print("x")
""",
    "os_exit": """import os
print('lost?',flush=True)
os._exit(9)
""",
    "os_abort": """import os
os.abort()
""",
    "del": """
class C:
    def __init__(s,n): s.n=n
    def __del__(s): print("del",s.n)
a=C("a"); b=C("b"); _c=C("_c")
print("end")
""",
    "del_cycle": """
class C:
    def __del__(s): print("del cycle")
a=C(); a.me=a
del a
print("end")
""",
    "del_cycle_live": """
class C:
    def __del__(s): print("del cycle")
a=C(); a.me=a
print("end")
""",
    "del_uses_global": """
import os
G="glob"
class C:
    def __del__(s): print("del",G,os.getpid()>0)
c=C()
""",
    "del_in_module": r"""
open("m2.py","w").write("class C:\n    def __del__(s): print('m2 del')\nc=C()\n")
import m2
""",
    "del_in_exc_frame": """
class C:
    def __del__(s): print("del")
def f():
    c=C(); 1/0
f()
""",
    "weakref_fin": """
import weakref
class C: pass
c=C(); weakref.finalize(c,print,"finalized")
""",
    "tempdir": """
import tempfile,os
t=tempfile.TemporaryDirectory(); print(os.path.isdir(t.name))
f=tempfile.NamedTemporaryFile(); f.write(b"x")
""",
    "signal_exit_atexit": """
import atexit,signal,os
atexit.register(print,"x")
signal.signal(signal.SIGTERM,lambda n,f: exit(3))
os.kill(os.getpid(),15)
""",
    "thread_shutdown_join_exc": """
import threading,time
def w():
    time.sleep(0.05); 1/0
threading.Thread(target=w,name="W").start()
""",
    "timer": """import threading
threading.Timer(0.05,print,['timer']).start()
""",
    "sys_exit_with_thread": """
import threading,time,sys
threading.Thread(target=lambda:(time.sleep(0.1),print("t"))).start()
sys.exit(3)
""",
    "gen_close": """
def g():
    try: yield 1
    finally: print("closed")
x=g(); next(x)
""",
    "async_gen_final": """
import asyncio
async def g():
    try: yield 1
    finally: print("fin")
async def m():
    async for x in g(): break
asyncio.run(m())
""",
    "ctxmgr_exit": """
import contextlib
@contextlib.contextmanager
def c():
    try: yield
    finally: print("cleanup")
s=contextlib.ExitStack(); s.enter_context(c())
""",
    "os_popen": """import os
print(os.popen('echo hi').read()); print(os.system('exit 3')>>8)
""",
    "sys_exit_nested_finally": """
import sys
try: sys.exit(3)
finally: print("fin")
""",
    "os_fork_orphan_output": """
import os,time
if os.fork()==0:
    time.sleep(0.0)
    os._exit(0)
print("x")
""",
    "monkeypatch_exit": """import sys,os
sys.exit=lambda c: print('no')
sys.exit(3)
""",
    "os_exec": """import os,sys
os.execv(sys.executable,[sys.executable,'-c','print(42)'])
""",
    # Standard streams
    "input": """x=input('prompt: ')
""",
    "stdin_read": """import sys
print(repr(sys.stdin.read()), sys.stdin.isatty(), repr(sys.stdin.readline()), sys.stdin.fileno())
""",
    "stdin_iter": """import sys
print(list(sys.stdin), sys.stdin.encoding, sys.stdin.errors)
""",
    "utf8": r"""
import sys,locale,os
print(sys.stdout.encoding,sys.stdout.errors,sys.stderr.errors,sys.stdin.errors,sys.getfilesystemencoding(),locale.getpreferredencoding(False))
print(sys.stdout.name,sys.stdout.mode,sys.stdin.name,sys.stdin.mode,sys.stderr.name,sys.stdout.isatty(),sys.stdout.fileno())
print(sys.stdout is sys.__stdout__)
print("h\u00e9llo \u4e16 \U0001F600")
open("f.txt","w").write("\u00e9"); print(open("f.txt","rb").read())
print(locale.setlocale(locale.LC_ALL,""))
""",
    "surrogate": r"""print('\udc80\udcff')
""",
    "surrogate_hi": r"""print('\ud800')
""",
    "surrogate_err": r"""import sys
print('\ud800',file=sys.stderr)
raise ValueError('\ud800')
""",
    "stdout_closed": """import sys
print('a')
sys.stdout.close()
""",
    "stdout_closed_print": """import sys
sys.stdout.close()
print('a')
""",
    "stdout_none": """import sys
sys.stdout=None
print('a')
""",
    "stdout_del": """import sys
del sys.stdout
print('a')
""",
    "stderr_none": """import sys
sys.stderr=None
1/0
""",
    "stdout_replaced": """
import sys,io
sys.stdout=io.StringIO()
print("hidden")
""",
    "redirect": """
import contextlib,io
b=io.StringIO()
with contextlib.redirect_stdout(b): print("x")
print(repr(b.getvalue()))
""",
    "stdout_buffer": r"""
import sys,os
sys.stdout.write("text "); sys.stdout.flush(); sys.stdout.buffer.write(b"\xff\n"); sys.stdout.buffer.flush(); os.write(1,b"raw\n")
""",
    "stdout_buffer_noflush": """
import sys
sys.stdout.buffer.write(b"unflushed")
""",
    "stdout_reconf": r"""import sys
sys.stdout.reconfigure(encoding='latin-1')
print('\xe9')
""",
    "closerange": """import os
os.closerange(3,1000)
print('a')
""",
    "closerange0": """import os
os.closerange(0,1000)
""",
    "fds": """import os
print(sorted(os.listdir('/proc/self/fd'),key=int))
""",
    "print_flush_order": """
import sys
for i in range(3):
    print(i); print(i,file=sys.stderr)
""",
    "help": """def f():
    'doc f'
help(f)
""",
    "stdout_big": """print('x'*500000)
""",
    "codeop": """import code
code.interact(local={})
print('after')
""",
    "getpass": """import getpass
getpass.getpass()
""",
    "select_stdin": """import select,sys
print(select.select([sys.stdin],[],[],0)[0]!=[])
""",
    "stdin_kind": """import os,stat
print(stat.S_ISCHR(os.fstat(0).st_mode))
""",
    "stdout_write_nonstr": """import sys
sys.stdout.write(1)
""",
    # Signals and processes
    "subprocess": """
import subprocess,sys
print(subprocess.run([sys.executable,"-c","import sys; print(sys.argv, sys.version_info[:2])","a"],capture_output=True,text=True).stdout)
print(subprocess.check_output("echo $((1+2))",shell=True))
r=subprocess.run(["false"]); print(r.returncode)
subprocess.run([sys.executable,"-c","print('direct')"], stdout=subprocess.DEVNULL)
try: subprocess.run(["nonexistent-cmd"])
except FileNotFoundError as e: print(e)
p=subprocess.Popen(["cat"],stdin=-1,stdout=-1); print(p.communicate(b"hey"))
""",
    "subprocess_timeout": """import subprocess
try: subprocess.run(["sleep","20"],timeout=0.1)
except subprocess.TimeoutExpired: print("timed out")
""",
    "subprocess_module": """
import subprocess,sys
open("mod1.py","w").write("if __name__=='__main__': print('as main', __file__)")
subprocess.run([sys.executable,"-m","mod1"]); subprocess.run([sys.executable,"mod1.py"])
import mod1, runpy
runpy.run_module("mod1",run_name="__main__"); print(runpy.run_path("mod1.py").keys()>={"__name__"})
""",
    "yes_pipe": """
import subprocess
p=subprocess.run("yes | head -2",shell=True,capture_output=True); print(p)
""",
    "sig_handler": """
import signal,os
signal.signal(signal.SIGUSR1,lambda n,f: print("got",n))
os.kill(os.getpid(),signal.SIGUSR1); print("after")
""",
    "alarm": """
import signal,time
def h(n,f): raise TimeoutError("al")
signal.signal(signal.SIGALRM,h); signal.setitimer(signal.ITIMER_REAL,0.05)
time.sleep(10)
""",
    "alarm_default": """import signal,time
signal.setitimer(signal.ITIMER_REAL,0.05)
time.sleep(10)
""",
    "sigterm": """import os,signal
print('a',flush=True)
os.kill(os.getpid(),signal.SIGTERM)
import time; time.sleep(5)
""",
    "sigint": """import os,signal,time
os.kill(os.getpid(),signal.SIGINT)
time.sleep(5)
""",
    "sigint_caught": """
import os,signal,time
try:
    os.kill(os.getpid(),signal.SIGINT); time.sleep(1)
except KeyboardInterrupt: print("caught")
""",
    "sigpipe_default": """
import os,signal
r,w=os.pipe(); os.close(r)
try: os.write(w,b"x")
except BrokenPipeError as e: print(e)
""",
    "sigchld": """
import signal,os
signal.signal(signal.SIGCHLD, lambda n,f: print("chld"))
if os.fork()==0: os._exit(0)
import time; time.sleep(0.2)
print(os.wait()[1])
""",
    "fork": """
import os,sys,atexit
atexit.register(print,"exit",flush=True)
pid=os.fork()
if pid==0:
    print("child")
    sys.exit(3)
print("child status",os.waitpid(pid,0)[1]>>8)
""",
    "fork_exc": """
import os
pid=os.fork()
if pid==0: 1/0
print(os.waitpid(pid,0)[1]>>8)
""",
    "fork_falls": """
import os
print("once", flush=True)
pid=os.fork()
if pid: os.waitpid(pid,0)
print("each", pid==0)
""",
    "http_local": """
import http.server,threading,urllib.request
s=http.server.HTTPServer(("127.0.0.1",0),http.server.SimpleHTTPRequestHandler)
threading.Thread(target=s.serve_forever,daemon=True).start()
import contextlib
s.RequestHandlerClass.log_message=lambda *a: None
open("h.txt","w").write("hello")
print(urllib.request.urlopen(f"http://127.0.0.1:{s.server_port}/h.txt").read()); s.shutdown()
""",
    "fork_thread": """
import os,threading
r,w=os.pipe()
pid=os.fork()
if pid==0:
    t=threading.Thread(target=lambda: os.write(w,b"x")); t.start()
else:
    print(os.read(r,1), os.waitpid(pid,0)[1])
""",
    # The rest
    "recursion_deep": """
import sys
sys.setrecursionlimit(20000)
def f(n): return 0 if n==0 else 1+f(n-1)
print(f(15000))
""",
    "asyncio": """
import asyncio
async def m():
    await asyncio.sleep(0.01)
    p=await asyncio.create_subprocess_exec("echo","hi",stdout=-1); print((await p.communicate())[0])
    return await asyncio.gather(*[asyncio.to_thread(lambda i=i:i) for i in range(3)])
print(asyncio.run(m()))
""",
    "asyncio_exc": """
import asyncio
async def m(): raise ValueError("x")
asyncio.run(m())
""",
    "asyncio_notawaited": """
async def m(): pass
m()
print("x")
""",
    "unraisable": """
import sys
sys.unraisablehook=lambda u: print("unraisable",u.exc_value)
class C:
    def __del__(s): 1/0
C()
""",
    "logging": """
import logging
logging.warning("w"); logging.info("no"); logging.getLogger("a.b").error("e %s",1)
try: 1/0
except Exception: logging.exception("exc")
""",
    "logging_basic": """
import logging
logging.basicConfig(level=logging.DEBUG,format="%(levelname)s %(name)s %(filename)s:%(lineno)d %(message)s %(processName)s %(threadName)s")
logging.debug("d")
""",
    "time_zone": """import time,datetime
print(time.tzname, datetime.datetime.now().astimezone().tzinfo)
""",
    "curses": """import shutil
print(shutil.get_terminal_size())
""",
    "exc_in_thread_hook": """
import threading
threading.excepthook=lambda a: print("hook",a.exc_value)
threading.Thread(target=lambda: 1/0).start()
""",
    "sqlite": """import sqlite3
c=sqlite3.connect('a.db'); c.execute('create table t(x)'); c.commit(); print(c.execute('select count(*) from t').fetchall())
""",
    "tracebacklimit": """import sys
sys.tracebacklimit=0
1/0
""",
    "stat_self": """import os
st=os.stat(__file__); print(oct(st.st_mode), st.st_nlink)
""",
    "ssl": """import ssl,hashlib
print(hashlib.sha256(b'').hexdigest()[:8], ssl.create_default_context() is not None)
""",
    "decimal_ctx": """import sys
print(sys.float_info.dig, sys.int_info.default_max_str_digits)
""",
    "gc_enabled": """import gc
print(gc.isenabled(), gc.get_threshold(), gc.get_debug())
""",
}
