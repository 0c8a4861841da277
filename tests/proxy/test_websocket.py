"""Frames, however they are cut: where they begin, and what may not stand in them (RFC 6455 sections 5 to 8)."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiogate.proxy.websocket import Frames, InspectedFrames, close_frame


def frame(payload: bytes = b"", *, opcode: int = 2, final: bool = True, mask: bytes = b"", rsv: int = 0) -> bytes:
    size = len(payload)
    head = bytes([opcode | (128 if final else 0) | rsv])
    bit = 128 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + size.to_bytes(2)
    else:
        head += bytes([bit | 127]) + size.to_bytes(8)
    if mask:
        payload = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
    return head + mask + payload


sizes = st.sampled_from([0, 1, 2, 3, 124, 125, 126, 127, 200, 65535, 65536, 70000])
masks = st.binary(min_size=4, max_size=4)


@st.composite
def conversations(draw: st.DrawFn, masked: bool) -> list[bytes]:
    """Frames of valid messages: text and binary, in one piece or several, with control frames in between."""
    frames: list[bytes] = []

    def add(payload: bytes, **kind: object) -> None:
        frames.append(frame(payload, mask=draw(masks) if masked else b"", **kind))  # type: ignore[arg-type]

    for _ in range(draw(st.integers(1, 4))):
        text = draw(st.booleans())
        whole = draw(st.text(max_size=40)).encode() if text else bytes(draw(sizes))
        cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=2)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        for number, piece in enumerate(pieces):
            first, last = number == 0, number == len(pieces) - 1
            add(piece, opcode=(1 if text else 2) if first else 0, final=last)
            if draw(st.booleans()):
                add(draw(st.binary(max_size=125)), opcode=draw(st.sampled_from([9, 10])))
    if draw(st.booleans()):
        add(draw(st.sampled_from([b"", b"\3\xe8", b"\3\xe9bye", b"\x0f\xa0\xc3\xa9"])), opcode=8)
    return frames


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.data(), st.booleans(), st.booleans())
def test_a_valid_stream_passes_and_its_frames_are_found(data, masked, inspected):
    frames = data.draw(conversations(masked))
    ends, at = {0}, 0
    for one in frames:
        at += len(one)
        ends.add(at)
    stream = b"".join(frames)
    followed = InspectedFrames(masked=masked, max_frame=70000, max_message=70000) if inspected else Frames()
    passed = b""
    came = 0
    for piece in data.draw(cut(stream)):
        good, wrong = followed.feed(piece)
        assert wrong is None
        passed += good
        came += len(piece)
        assert followed.between == (len(passed) in ends)
    assert passed == stream
    assert followed.closed == (frames[-1][0] & 15 == 8)


MASK = b"\1\2\3\4"


@pytest.mark.parametrize(
    "bad,code",
    [
        (frame(b"x", rsv=64, mask=MASK), 1002),
        (frame(b"x", rsv=16, mask=MASK), 1002),
        (frame(b"x", opcode=3, mask=MASK), 1002),
        (frame(b"x", opcode=11, mask=MASK), 1002),
        (frame(b"x"), 1002),
        (frame(b"x", opcode=0, mask=MASK), 1002),
        (frame(b"x", final=False, mask=MASK) + frame(b"x", mask=MASK), 1002),
        (frame(b"x", opcode=9, final=False, mask=MASK), 1002),
        (frame(bytes(126), opcode=9, mask=MASK), 1002),
        (b"\x82\xfe\0\x7d" + MASK + bytes(125), 1002),
        (b"\x82\xff" + (65535).to_bytes(8) + MASK, 1002),
        (b"\x82\xff" + (2**63).to_bytes(8) + MASK, 1002),
        (frame(b"\3", opcode=8, mask=MASK), 1002),
        (frame((1005).to_bytes(2), opcode=8, mask=MASK), 1002),
        (frame((5000).to_bytes(2), opcode=8, mask=MASK), 1002),
        (frame((999).to_bytes(2), opcode=8, mask=MASK), 1002),
        (frame(b"\3\xe8\xff", opcode=8, mask=MASK), 1007),
        (frame(b"\3\xe8", opcode=8, mask=MASK) + frame(b"x", mask=MASK), 1002),
        (frame(b"\xff", opcode=1, mask=MASK), 1007),
        (frame(b"\xed\xa0\x80", opcode=1, mask=MASK), 1007),
        (frame(b"\xc3", opcode=1, mask=MASK), 1007),
        (frame(b"\xc3", opcode=1, final=False, mask=MASK) + frame(b"x", opcode=0, mask=MASK), 1007),
        (frame(bytes(101), mask=MASK), 1009),
        (b"\x82\xff" + (2**30).to_bytes(8) + MASK, 1009),
        (frame(bytes(90), final=False, mask=MASK) + frame(bytes(90), opcode=0, final=False, mask=MASK)
         + frame(bytes(90), opcode=0, mask=MASK), 1009),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_what_may_not_be(bad, code, step):
    followed = InspectedFrames(masked=True, max_frame=100, max_message=200)
    stream = frame(b"ok", mask=MASK) + bad
    passed = b""
    wrong = None
    for at in range(0, len(stream), step):
        good, wrong = followed.feed(stream[at : at + step])
        passed += good
        if wrong is not None:
            break
    assert wrong is not None
    assert wrong.code == code
    assert stream.startswith(passed)
    assert passed.startswith(frame(b"ok", mask=MASK))
    # Whoever got a part of a frame cannot be told anything; who got none can.
    alone = Frames()
    alone.feed(passed)
    assert followed.between == alone.between


def test_split_letters_and_split_masks_are_text():
    text = "grüße ☃ 𝄞".encode() * 20
    followed = InspectedFrames(masked=True)
    stream = frame(text[:33], opcode=1, final=False, mask=os.urandom(4)) + frame(
        text[33:], opcode=0, mask=os.urandom(4)
    )
    assert b"".join(followed.feed(stream[at : at + 1])[0] for at in range(len(stream))) == stream


def test_close_frames():
    assert close_frame(1001, "bye") == b"\x88\x05\x03\xe9bye"
    masked = close_frame(1008, "no", masked=True)
    assert masked[:2] == b"\x88\x84"
    assert bytes(byte ^ masked[2 + (index & 3)] for index, byte in enumerate(masked[6:])) == b"\x03\xf0no"
    assert InspectedFrames(masked=True).feed(masked) == (masked, None)
