"""Amounts and channel positions."""

import pytest
from hypothesis import given, strategies as st

from shared.units import ShortChannelId, fee_sat, msat_to_sat, sat_to_msat, vbyte_to_kw


def test_the_example_of_bolt_7_is_one_integer() -> None:
    scid = ShortChannelId(539268, 845, 1)
    assert scid.pack() == 539268 << 40 | 845 << 16 | 1
    assert str(scid) == "539268x845x1"


@given(value=st.integers(0, (1 << 64) - 1))
def test_every_short_channel_id_survives_its_forms(value: int) -> None:
    scid = ShortChannelId.unpack(value)
    assert scid.pack() == value
    assert ShortChannelId.parse(str(scid)) == scid


@pytest.mark.parametrize(
    "text",
    ["", "1x2", "1x2x3x4", "1X2X3", " 1x2x3", "1x2x3\n", "-1x2x3", "16777216x0x0", "0x16777216x0",
     "0x0x65536", "\u0661x2x3"],
)  # fmt: skip
def test_what_is_no_short_channel_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ShortChannelId.parse(text)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_an_integer_of_more_than_8_bytes_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="not 8 bytes"):
        ShortChannelId.unpack(value)


@pytest.mark.parametrize("scid", [(1 << 24, 0, 0), (0, 1 << 24, 0), (0, 0, 1 << 16), (-1, 0, 0)])
def test_a_part_that_does_not_fit_is_refused(scid: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        ShortChannelId(*scid).pack()


def test_channels_sort_by_their_place_in_the_chain() -> None:
    assert ShortChannelId(2, 0, 0) > ShortChannelId(1, 9, 9)


def test_millisatoshis_round_down() -> None:
    assert msat_to_sat(1999) == 1
    assert sat_to_msat(2) == 2000


def test_fees_round_down_as_bolt_3_says() -> None:
    assert fee_sat(253, 724) == 183
    assert fee_sat(15_000, 1124) == 16_860


def test_feerates_round_up_so_that_they_still_relay() -> None:
    assert vbyte_to_kw(1) == 250
    assert vbyte_to_kw(1.01) == 253
    assert vbyte_to_kw(10) == 2500
