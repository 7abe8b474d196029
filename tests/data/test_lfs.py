"""git-lfs's pointers are told from files."""

import pytest

from udaciheadline.data.lfs import is_lfs_pointer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0f1e2d\nsize 93\n"


def test_a_pointer_is_one(write):
    assert is_lfs_pointer(write("model.safetensors", POINTER))


@pytest.mark.parametrize("content", ["", "version", "version https://example.org/spec/v1\n", b"\x00\xff" * 99])
def test_anything_else_is_none(write, content):
    assert not is_lfs_pointer(write("model.safetensors", content))
