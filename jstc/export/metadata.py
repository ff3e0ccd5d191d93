"""What an exported file tells about itself, in ONNX's own `metadata_props`. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from jstc import reading
from jstc.errors import InputError

__all__ = ["decode_metadata", "encode_metadata", "read_metadata"]

# Anything else is plain text, also when it looks like a number.
_JSON_KEYS = frozenset({"labels", "input_size", "mean", "std", "resize_side", "flops", "params", "accuracy"})


def encode_metadata(values: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as the strings that ONNX stores; keys whose value is None are left out.

    Keys of an exported network: `labels` (names, in the order of the logits), `input_size` [C, H, W], `mean`
    and `std` per input channel, `flops` and `params` by fvcore, `accuracy` (a fraction, test split),
    `plan_hash`, `model`, `dataset`, `jstc_version`.
    """
    known = {key: value for key, value in values.items() if value is not None}
    return {key: json.dumps(value) if key in _JSON_KEYS else str(value) for key, value in known.items()}


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of an ONNX file, decoded; empty for a file that carries none.

    Raises `InputError` when the file is missing or is not ONNX.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except DecodeError:
        raise InputError(f"{path} is not an ONNX file") from None
    if not model.HasField("graph"):
        raise InputError(f"{path} is not an ONNX file")
    return decode_metadata({item.key: item.value for item in model.metadata_props})


def decode_metadata(strings: Mapping[str, str]) -> dict[str, Any]:
    """The values of metadata as ONNX stores them; another tool's stay text."""
    return {key: _decode(key, value) for key, value in strings.items()}


def _decode(key: str, text: str) -> Any:
    if key not in _JSON_KEYS:
        return text
    try:
        return reading.parse_json(text, where=key)
    except ValueError:  # another tool's metadata, in its own form
        return text
