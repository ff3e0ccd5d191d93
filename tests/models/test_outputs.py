"""The scores among the outputs of a network, in every form in which people return them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from jstc.errors import OTHER_TASKS, StageError
from jstc.models.outputs import ScoresOnly, described, logits

SCORES, OTHER = torch.randn(2, 3), torch.randn(2, 5)


class Pair(NamedTuple):
    features: Tensor
    logits: Tensor


class Plain(NamedTuple):
    main: Tensor
    aux: Tensor


@dataclass
class Answer:
    hidden: Tensor
    logits: Tensor


class Named(OrderedDict):  # as Hugging Face returns them: a mapping whose keys are attributes as well
    def __getattr__(self, name: str) -> Any:
        return self[name]


@pytest.mark.parametrize(
    "output",
    [
        SCORES,
        (SCORES, OTHER),
        [SCORES],
        ((SCORES, OTHER), OTHER),
        Pair(OTHER, SCORES),
        Plain(SCORES, OTHER),
        Answer(OTHER, SCORES),
        SimpleNamespace(loss=OTHER, logits=SCORES),
        {"features": OTHER, "logits": SCORES},
        {"out": SCORES},
        {"out": [SCORES, None]},
        Named(hidden=OTHER, logits=SCORES),
    ],
    ids=lambda output: type(output).__name__,
)
def test_scores_are_found_and_exported_alike(output: object) -> None:
    assert logits(output) is SCORES
    network = nn.Module()
    network.forward = lambda images: output  # type: ignore[method-assign]
    assert ScoresOnly(network)(OTHER) is SCORES


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "NoneType;"),
        ([], "list;"),
        ((None, SCORES), r"tuple \(NoneType, \[2, 3\]\);"),
        ({"a": SCORES, "b": OTHER}, r"dict \(a: \[2, 3\], b: \[2, 5\]\);"),
        ({}, "dict;"),
        (SimpleNamespace(scores=SCORES), "SimpleNamespace;"),
        (Pair(OTHER, None), r"Pair \(features: \[2, 5\], logits: NoneType\);"),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_scores_is_described_with_the_way_out(output: object, words: str) -> None:
    with pytest.raises(StageError, match=f"the network returned {words} expected class scores") as caught:
        logits(output)
    alone = "return them alone, first in a tuple, or with the name 'logits'"
    assert caught.value.advice == f"{alone}; {OTHER_TASKS}"


def test_outputs_are_described_by_names_and_shapes() -> None:
    assert described(SCORES) == "[2, 3]"
    assert described(Answer(OTHER, SCORES)) == "Answer (hidden: [2, 5], logits: [2, 3])"
    assert described([SCORES] * 8).endswith("[2, 3] and 2 more)")
