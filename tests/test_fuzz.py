"""Readers of files from strangers answer with the file or with a sentence, whatever they are given (`fuzzing.py`)."""

from __future__ import annotations

import pytest
from fuzzing import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

# Bytes on which a reader once ended in something else than a sentence.
ONCE_WRONG = {
    "alphas": ("4f8615e3006e7ec3", "fab0827b51aa9bc4"),
    "evaluation": ("0a140cb3067932fa",),
    "evaluation's details": ("fe5b30ef18ded15ee065e2aae71675b6db10c1e9228f1875e7f21c567f242c96",),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused_with_a_sentence(name: str, without_shape_check: None) -> None:
    target = TARGETS[name]
    target.read_whole()

    @settings(max_examples=30)
    @given(st.binary(min_size=4, max_size=40))
    def attempt(data: bytes) -> None:
        target.attempt(data)

    attempt()
    for data in ONCE_WRONG.get(name, ()):
        target.attempt(bytes.fromhex(data))
