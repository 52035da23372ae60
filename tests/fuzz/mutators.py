"""Damage files in ways that disks, programs and people do; the same seed damages in the same way."""

import random
from collections.abc import Callable

Mutator = Callable[[bytes, random.Random], bytes]

WORDS = (
    *(b"nan", b"inf", b"-inf", b"1e400", b"-1", b"0", b"00", b"99999999999999999999", b"1_0", b"0x10", b"3.5", b"1e-5", b"true", b"null", b"~"),
    *(b"''", b'""', b"'", b'"', b"#", b"@", b"1@", b"@x", b"000001@../../../etc/passwd", b"1@/dev/zero", b"../..", b"/dev/null", b"."),
    *(b"data_", b"data_particles", b"loop_", b"_rlnImageName", b"_", b"{", b"}", b"[", b"]", b"- -", b"&a", b"*a", b"!!python/object:os.system"),
    *("\u00e9\u4e2d\U0001f52c".encode(), b"\xff\xfe", b"\xc2\xa0", b"\x00", b"\r", b"A" * 5000, "\u0661".encode(), "\u00b2".encode()),
)
INTEGERS = (0, 1, -1, 2, 7, 255, 256, 1023, 1024, 65535, 65536, 2**24, 2**31 - 1, -(2**31), 2**30, 0x11110000, 0x44440000)
FLOATS = (bytes.fromhex("0000c07f"), bytes.fromhex("0000807f"), bytes.fromhex("000080ff"), bytes.fromhex("ffff7f7f"), bytes.fromhex("01000000"))


def damaged(content: bytes, seed: int) -> bytes:
    """One to four changes of `content`."""
    draw = random.Random(seed)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice(MUTATORS)(content, draw)
    return content


def _place(content: bytes, draw: random.Random) -> int:
    """Half of the places are in the first kilobyte, where headers are."""
    reach = min(len(content), 1024) if draw.random() < 0.5 else len(content)
    return draw.randrange(reach) if reach else 0


def _flip_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 8)) if content else 0):
        changed[_place(content, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, draw: random.Random) -> bytes:
    place, length = _place(content, draw), draw.choice((1, 2, 4, 16))
    filled = draw.choice((bytes(length), b"\xff" * length, b"\x7f" * length, draw.randbytes(length)))
    return content[:place] + filled + content[place + length :]


def _set_number(content: bytes, draw: random.Random) -> bytes:
    """A number at a place that four divides, as in the headers of images."""
    place = _place(content, draw) // 4 * 4
    number = draw.choice(FLOATS) if draw.random() < 0.3 else draw.choice(INTEGERS).to_bytes(4, draw.choice(("little", "big")), signed=True)
    return content[:place] + number + content[place + 4 :]


def _cut_short(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.choice((0, 1, 8, _place(content, draw), max(0, len(content) - 1)))]


def _append(content: bytes, draw: random.Random) -> bytes:
    return content + draw.choice((bytes(37), b"\n", draw.randbytes(100), content))


def _delete(content: bytes, draw: random.Random) -> bytes:
    place = _place(content, draw)
    return content[:place] + content[place + draw.choice((1, 4, 100)) :]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    place = _place(content, draw)
    part = content[place : place + draw.choice((1, 4, 100))]
    return content[:place] + part * draw.choice((2, 3, 50)) + content[place + len(part) :]


def _change_word(content: bytes, draw: random.Random) -> bytes:
    """A word between blanks, or one after the middle of a kilobyte of them, becomes another."""
    words = content.split(b" ")
    words[draw.randrange(len(words))] = draw.choice(WORDS)
    return b" ".join(words)


def _change_lines(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    match draw.randrange(4):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case _:
            lines[one] = draw.choice(WORDS)
    return b"\n".join(lines)


MUTATORS: tuple[Mutator, ...] = (
    *(_flip_bits, _overwrite, _set_number, _cut_short, _append, _delete, _repeat, _change_word, _change_lines, _change_lines, _change_word),
)
