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
    "archive": ("9c618498e26f747d1b4137fec13bf68fc6a0578d3c7716e6d7dcfec08c5c3170",),
    "state of a job": (
        "4535102e0cd77083897bc7998d84f343ddda7ab2d694645e5703085e10669787fea41ebd73da316d45e80c6f61058a4169b4"
        "6dccf2eb3063bbde427c62540970",
        "8ac37ead7747580bc00b2d425a9fecbfa63d19b49582ae882164c68c662ace0b",
        "c6e15b11585c01ea0f32f6f32b2e9dca284b2c87d55d146ac6e746e7564f780f",
    ),
    "folder of a run": ("9a7a74b14d912ae63576bb0235c53bfe900699ec9cf6ce37a0ecb896fdcc8b03",),
    "log of a job": (
        "7df869dff754c57856d148c9c948e066",
        "dac858b33d5e88319bd862d71afd9d78be38c28747910e88daa0005ec58db212",
        "4c989961a2e7fc6f",
    ),
    "benchmarks": (
        "021e533d16eb79a4acce8b0f25e5c3453dd2c06e2642c37c84ffb8da77988d9760da3fc130bfb7ab7048b44309c9e5c3d7f1"
        "38f0df6d04ddb8e7041253f86ae3",
        "b4796b3cce93a3515b95675d9ad551d7fabb5ee57092a7aeec25c1069919b711",
        "3d6d8d0d7b7fb77aebef3738f4dba9c9c15f8ef65f36ab9ab2918f09fb5771045c70b268aba328a723ea37eeca03beac600b"
        "2f73093d064b734069e318e8a109",
        "659bbaa25e45112ca3a163ea62ab3ae13e0591cb372152df087d427fdc2c1f54eca5f50c5be8a2e5d24601a29aec8d446eb9"
        "c65971258c4e76783582b4467195",
        "46979c20e4ebe9e5893d99d491083342289f7a6c27b77be43311c5bc08b197aeaaeb497dd34e7cc2fcd54b8de2feb41050e4"
        "5d792640fe559245d68d22e27c32",
        "5016868258e1dae6dce4109fc1dba0f4272339dc21af245375803815b95c4d10",
        "07fac12bd40596bbb7865117833d0515e771421a3bcbc8cf9facf42a60167432993d6a874e5d8036aa5274497feaf1e011fe"
        "1071edcc770cb3005c59ba650da9",
    ),
    "notebook": (
        "9d00bf3f93498d4c",
        "43b7d7ae0c5e938dad086a91d8d48fd2164d6a93cba40b797b5541fdba527280",
        "cfd75a77",
        "c866ee635fa5a3698213f7165ce6493e3123b92935c3a1eceaceda2cbcc4cf9c",
        "1a034e519a761c94",
        "4e89e44bcca454ee3eff613fe4228ed9bd0ae9e00df36af121526e2ee87b7106",
    ),
    "experiment": (
        "c0fe064f072d8e6b464574b817a5a14126e2abf776d5bb99c8924c1af4b48e28de1a77cd551d71ffeef8affc44b51bb94859"
        "f2fb1c28a692c715bbdbe22ecda9",
        "6c11ada049172f3bdf5be1691c369413",
    ),
    "evaluation's details": ("fe5b30ef18ded15ee065e2aae71675b6db10c1e9228f1875e7f21c567f242c96",),
}


SLOW = {"folder of a run": 8, "state of a job": 8} | {f"picture ({each})": 12 for each in ("TIFF", "JPEG", "GIF")}  # tries


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused_with_a_sentence(name: str, without_shape_check: None) -> None:
    target = TARGETS[name]
    target.read_whole()

    @settings(max_examples=SLOW.get(name, 30))
    @given(st.binary(min_size=4, max_size=40))
    def attempt(data: bytes) -> None:
        target.attempt(data)

    attempt()
    for data in ONCE_WRONG.get(name, ()):
        target.attempt(bytes.fromhex(data))
