import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedws.split_learning.bit_packing import check_record_size, flatten_features, pack_bits, packed_size, unpack_bits

counts = st.integers(0, 70)


def random(n: int, r: int, seed: int) -> torch.Tensor:
    return torch.rand(n, r, generator=torch.Generator().manual_seed(seed)) < 0.5


@given(n=st.integers(0, 5), r=counts, seed=st.integers(0, 99))
def test_what_is_packed_is_unpacked(n: int, r: int, seed: int) -> None:
    bits = random(n, r, seed)
    packed = pack_bits(bits)
    assert packed.dtype == torch.uint8 and packed.shape == (n, packed_size(r))
    assert torch.equal(unpack_bits(packed, r), bits) and torch.equal(pack_bits(unpack_bits(packed, r)), packed)
    assert torch.equal(pack_bits(bits.to(torch.uint8)), packed)
    beyond = 8 * packed_size(r) - r
    assert not (packed[:, -1:] & (2**beyond - 1)).any(), "what is beyond the last bit is 0"


@given(r=counts.filter(bool), seed=st.integers(0, 99))
def test_bytes_are_read_as_numbers_from_the_highest_bit_down(r: int, seed: int) -> None:
    bits = random(1, r, seed)
    written = "".join("01"[int(bit)] for bit in bits[0]).ljust(8 * packed_size(r), "0")
    assert bytes(pack_bits(bits)[0].tolist()) == int(written, 2).to_bytes(packed_size(r), "big")


def test_an_eighth_of_the_bytes() -> None:
    assert pack_bits(torch.ones(3, 5408, dtype=torch.bool)).numel() * 8 == 3 * 5408


@pytest.mark.parametrize(
    "packed",
    [
        torch.zeros(2, 1, dtype=torch.uint8),
        torch.zeros(2, 3, dtype=torch.uint8),
        torch.zeros(2, dtype=torch.uint8),
        torch.zeros(2, 2, 1, dtype=torch.uint8),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.zeros(2, 2, dtype=torch.bool),
    ],
    ids=lambda packed: f"{packed.dtype} {list(packed.shape)}",
)
def test_another_size_is_refused(packed: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^wrong bit count, expected 9: .*must be uint8 \[n, 2\], not") as caught:
        unpack_bits(packed, 9)
    assert "\n" not in str(caught.value)


@given(r=st.integers(1, 70).filter(lambda r: r % 8), data=st.data())
def test_bits_beyond_the_last_are_refused(r: int, data: st.DataObject) -> None:
    packed = pack_bits(random(3, r, 1))
    packed[data.draw(st.integers(0, 2)), -1] |= 1 << data.draw(st.integers(0, 8 * packed_size(r) - r - 1))
    with pytest.raises(ValueError, match=f"wrong bit count: bits after the first {r} of a record are set"):
        unpack_bits(packed, r)


@given(n=st.integers(0, 3), shape=st.lists(st.integers(0, 4), max_size=4))
def test_a_record_is_a_row(n: int, shape: list[int]) -> None:
    features = torch.arange(n * torch.Size(shape).numel(), dtype=torch.float32).reshape(n, *shape)
    found = flatten_features(features)
    assert found.shape == (n, torch.Size(shape).numel())
    for row, record in zip(found, features, strict=True):
        assert torch.equal(row, record.flatten())


def test_the_size_that_is_wanted_is_told() -> None:
    check_record_size(torch.zeros(4, 3, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match=r"^wrong size: records must be uint8 \[n, 3\], not float32 \[4, 3\]$"):
        check_record_size(torch.zeros(4, 3), 3)
