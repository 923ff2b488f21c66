"""`python -m tests.fuzz [TARGET]... --seconds 60`: feed the parsers changed inputs until one breaks an invariant.

With atheris installed (`pip install atheris`) and `--atheris TARGET`, coverage leads the way. What is found is to be
kept: put it into `corpus/TARGET/`, and the suite replays it.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from pathlib import Path

from tests.fuzz.mutate import CORPUS, corpus, mutate
from tests.fuzz.targets import TARGETS


def fuzz(target: str, seconds: float, seed: int) -> int:
    """Feed one target for some seconds; return how many inputs that were. What breaks it is written to a file."""
    dice, seeds, count = random.Random(seed), corpus(target), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(seeds, dice)
        started = time.monotonic()
        try:
            TARGETS[target](data)
            if time.monotonic() - started > 5:
                raise AssertionError("took more than 5 s")
        except BaseException:
            found = Path(f"crash-{target}-{seed}-{count}.bin")
            found.write_bytes(data)
            print(f"{target}: input {count} of seed {seed} is kept in {found}", file=sys.stderr)
            raise
        count += 1
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--atheris", metavar="TARGET", choices=sorted(TARGETS), help="by coverage, until interrupted")
    options = parser.parse_args()
    if options.atheris:
        atheris = importlib.import_module("atheris")
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], str(CORPUS / options.atheris)], TARGETS[options.atheris])
        atheris.Fuzz()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    for target in options.targets or TARGETS:
        print(f"{target}: {fuzz(target, options.seconds, seed)} inputs, seed {seed}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
