"""Changes a corpus at random: bytes flipped, cut out, doubled, and replaced by what parsers stumble over."""

from __future__ import annotations

import random
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
AWKWARD = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"\r", b"\n", b"\r\n\r\n", b"```", b"~~~", b"````python\n", b"> ", b"- ", b"    ",
    b'"', b"{", b"[" * 60, b"null", b"-1", b"1e999", b"NaN", b"9" * 40, b"\\ud800", b"data: ", b"[DONE]",
    b"\x7f\xff\xff\xff", b"\x00\x00\x00\x01", b"<think>", b"</think>", b"FINAL ANSWER:", b"\xe2\x80\xa8",
    b"true", b"{}", b"[]",
)  # fmt: skip


def corpus(target: str) -> list[bytes]:
    """Return the files that are kept for a target."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def mutate(seeds: list[bytes], dice: random.Random) -> bytes:
    """Return something like one of the seeds."""
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.randint(1, 8)):
        at = dice.randint(0, len(data))
        match dice.randrange(6):
            case 0:
                data[at:at] = dice.choice(AWKWARD)
            case 1:
                piece = dice.choice(AWKWARD)
                data[at : at + len(piece)] = piece
            case 2:
                del data[at : at + dice.randint(1, 20)]
            case 3:
                data[at:at] = data[at : at + dice.randint(1, 200)]
            case 4:
                other = dice.choice(seeds)
                data[at:] = other[dice.randint(0, len(other)) :]
            case _:
                if at < len(data):
                    data[at] ^= 1 << dice.randrange(8)
    return bytes(data[: 1 << 16])
