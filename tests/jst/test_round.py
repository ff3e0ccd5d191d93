from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jstc.channels import GatedNetwork
from jstc.data import Dataset
from jstc.errors import StageError
from jstc.jst.round import RoundContext, judge, to_call, train_round
from jstc.jst.subnetwork import SubNetwork, Target, cut
from jstc.plan import Plan


@pytest.fixture
def make_sub(target: Target, plan: Plan, make_context: Any) -> Callable[[], SubNetwork]:
    return lambda: cut(target, plan, make_context().recipe.train)


def copies(sub: SubNetwork) -> tuple[dict[str, Tensor], Tensor]:
    """Weights without batch-norm statistics, and gates."""
    return {n: p.detach().clone() for n, p in sub.parameters.items()}, sub.gated.alpha.detach().clone()


def forbidden(method: str) -> None:
    raise AssertionError(f"{method} was asked of a split that must not be read")


def test_training_batches_change_weights_and_validation_batches_change_gates(
    make_sub: Any, dataset: Dataset, make_context: Any, watched: Any
) -> None:
    """The state of both is noted whenever a batch is asked for, so that each change has its cause."""
    sub, seen = make_sub(), []
    data = watched(
        dataset,
        train=lambda method: seen.append(("train", method, *copies(sub))),
        search_val=lambda method: seen.append(("search_val", method, *copies(sub))),
        train_full=forbidden,
        test=forbidden,
    )
    train_round(sub, make_context({"search.steps_per_round": 5, "search.gate_steps": 2}, data), 2)
    seen.append(("end", "", *copies(sub)))
    assert [split for split, *_ in seen[:-1]] == ["train"] * 2 + ["search_val"] + ["train"] * 3 + [
        "search_val"
    ]
    assert {method for _, method, *_ in seen[:-1]} == {"shuffled"}
    for (split, _, weights, alpha), (_, _, later_weights, later_alpha) in itertools.pairwise(seen):
        trained = [name for name in weights if not torch.equal(weights[name], later_weights[name])]
        assert trained == (list(weights) if split == "train" else [])
        assert (not torch.equal(alpha, later_alpha)) == (split == "search_val")


def test_an_alpha_step_moves_batch_norm_statistics_and_leaves_gradients_as_asked(
    make_sub: Any, make_context: Any
) -> None:
    sub = make_sub()
    train_round(sub, make_context({"search.gate_steps": 4}), 0)
    assert all(p.requires_grad for p in sub.gated.parameters())
    assert sub.gated.network.stem_bn.num_batches_tracked == 8  # 4 training and 4 validation batches


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_gates_that_are_not_learned_stay_and_validation_is_not_read(
    make_sub: Any, dataset: Dataset, make_context: Any, watched: Any, importance: str
) -> None:
    sub = make_sub()
    weights, alpha = copies(sub)
    context = make_context({"search.importance": importance}, watched(dataset, search_val=forbidden))
    figures = train_round(sub, context, 0)
    assert figures.images == 4 * 16
    assert torch.equal(sub.gated.alpha, alpha)
    assert not torch.equal(sub.parameters["wide.weight"], weights["wide.weight"])


def test_without_gates_a_round_and_its_judgement_are_the_same_bit_for_bit(
    make_sub: Any, make_context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context({"search.importance": "magnitude"})
    gated, plain = make_sub(), make_sub()
    assert to_call(plain, context) is plain.gated  # these gates are not one
    for sub in (gated, plain):
        sub.gated.alpha.data.fill_(1.0)
    assert to_call(plain, context) is plain.gated.network
    assert train_round(gated, context, 0, called=gated.gated) == train_round(plain, context, 0)
    assert all(map(torch.equal, gated.tensors().values(), plain.tensors().values()))
    judged = judge(plain, context, limit=20)
    plain.gated.alpha.data[0] = 2.0
    assert judge(plain, context, limit=20) != judged
    with monkeypatch.context() as patch:
        patch.setattr(GatedNetwork, "ungated", lambda self: self)
        assert judge(gated, context, limit=20) == judged
    with monkeypatch.context() as patch:
        patch.setattr(GatedNetwork, "forward", None)
        assert judge(gated, context, limit=20) == judged
    assert to_call(gated, make_context()) is gated.gated  # they are to be learned


def test_the_loss_has_a_gradient_in_the_gates_in_training_mode(make_sub: Any, dataset: Dataset) -> None:
    """A gate before a batch norm has none: the norm cancels it."""
    sub = make_sub()
    images, labels = next(dataset.search_val.ordered(48))
    sub.gated.train()
    (gradient,) = torch.autograd.grad(F.cross_entropy(sub.gated(images), labels), [sub.gated.alpha])
    assert (gradient.abs() > 1e-5).double().mean() > 0.9
    for name, gates in sub.gated.gates.items():
        start = gates.storage_offset()
        assert gradient[start : start + len(gates)].abs().max() > 1e-3, name


def test_gates_follow_the_gradient_on_validation(make_sub: Any, dataset: Dataset, make_context: Any) -> None:
    """In a trained network whose gates were shaken up, steps of the gates alone make up for it."""
    sub, images_and_labels = make_sub(), next(dataset.search_val.ordered(54))

    def loss() -> float:
        sub.gated.train()
        with torch.no_grad():
            return F.cross_entropy(sub.gated(images_and_labels[0]), images_and_labels[1]).item()

    for round_ in range(5):
        train_round(sub, make_context({"search.importance": "magnitude", "search.rounds": 12}), round_)
    with torch.no_grad():
        sub.gated.alpha.copy_(
            2 * torch.rand(sub.gated.alpha.shape, generator=torch.Generator().manual_seed(0))
        )
    sub.moments.zero_()
    sub.steps.zero_()
    before = loss()
    for round_ in range(5, 10):
        small = {"train.lr": 1e-9, "search.gate_lr": 0.1, "search.gate_steps": 4, "search.rounds": 12}
        train_round(sub, make_context(small), round_)
    assert loss() < before - 0.1


def test_figures_are_means_over_the_round(make_sub: Any, make_context: Any) -> None:
    """With a learning rate of nothing, a round in parts sees the loss of a round in one piece."""
    small = {"train.lr": 1e-12, "search.gate_lr": 1e-12, "search.steps_per_round": 7}
    whole = train_round(make_sub(), make_context(small | {"search.gate_steps": 1}), 0)
    parts = train_round(make_sub(), make_context(small | {"search.gate_steps": 3}), 0)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.accuracy == pytest.approx(whole.accuracy)
    assert (whole.images, parts.images) == (7 * 16 + 16, 7 * 16 + 3 * 16)


def test_more_alpha_steps_than_steps_are_as_many_as_steps(make_sub: Any, make_context: Any) -> None:
    figures = train_round(make_sub(), make_context({"search.steps_per_round": 2, "search.gate_steps": 9}), 0)
    assert figures.images == 2 * 16 + 2 * 16


@pytest.mark.parametrize(("split", "images"), [("train", 3 * 2 * 16), ("search_val", 3 * 16)])
def test_rounds_go_on_in_the_data_where_the_round_before_stopped(
    make_sub: Any, dataset: Dataset, make_context: Any, split: str, images: int
) -> None:
    """So that rounds shorter than an epoch still show every image once."""
    shown: list[Tensor] = []
    kept = dataclasses.replace(dataset, **{split: Kept(getattr(dataset, split), shown)})
    settings = {"search.steps_per_round": 2, "search.gate_steps": 1, "input.augment": False}
    sub, context = make_sub(), make_context(settings, kept)
    for round_ in range(3):
        train_round(sub, context, round_)
    assert len(torch.cat(shown)) == len(torch.cat(shown).flatten(1).unique(dim=0)) == images


@dataclasses.dataclass
class Kept:
    """A split that keeps the batches which it gave."""

    inner: Any
    shown: list[Tensor]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def shuffled(self, *given: Any, **options: Any) -> Any:
        for images, labels in self.inner.shuffled(*given, **options):
            self.shown.append(images)
            yield images, labels


def test_the_rate_of_a_round_is_that_of_the_one_schedule(make_sub: Any, make_context: Any) -> None:
    context, sub = make_context(), make_sub()
    train_round(sub, context, 4)
    assert context.schedule.total == 6 * 4 + 2 * 4
    assert {group["lr"] for group in sub.optimizer.param_groups} == {context.schedule.at(4 * 4 + 3)}


def correct(sub: SubNetwork, batches: Any) -> float:
    sub.gated.eval()
    with torch.no_grad():
        hits = torch.cat([sub.gated(images).argmax(1) == labels for images, labels in batches])
    return hits.double().mean().item()


def test_judging_reads_the_whole_split_with_statistics_estimated_anew(
    make_sub: Any, dataset: Dataset, make_context: Any
) -> None:
    context, sub, spoilt = make_context(), make_sub(), make_sub()
    train_round(sub, context, 0)
    spoilt.gated.load_state_dict(sub.gated.state_dict())
    for name, buffer in spoilt.gated.named_buffers():
        buffer.fill_(1 if name.endswith("tracked") else float("nan"))
    weights, alpha = copies(sub)
    figures = judge(sub, context, limit=None)
    assert figures == judge(spoilt, context, limit=None)
    assert figures.accuracy == correct(sub, dataset.search_val.ordered(16))
    later, gates = copies(sub)
    assert all(torch.equal(later[name], tensor) for name, tensor in weights.items())
    assert torch.equal(gates, alpha)


@pytest.mark.parametrize(("limit", "batches"), [(None, 4), (16, 1), (20, 2)])
def test_judging_reads_in_order_from_two_splits_only(
    make_sub: Any, dataset: Dataset, make_context: Any, watched: Any, limit: int | None, batches: int
) -> None:
    asked: list[str] = []
    data = watched(
        dataset,
        train=lambda method: asked.append(f"train {method}"),
        search_val=lambda method: asked.append(f"search_val {method}"),
        train_full=forbidden,
        test=forbidden,
    )
    judge(make_sub(), make_context(data=data), limit=limit)
    assert asked == ["train ordered"] * 3 + ["search_val ordered"] * batches


def test_an_empty_validation_split_is_said(make_sub: Any, dataset: Dataset, make_context: Any) -> None:
    nothing = dataclasses.replace(dataset.search_val, members=torch.arange(0))  # type: ignore[type-var]
    context: RoundContext = make_context(data=dataclasses.replace(dataset, search_val=nothing))
    with pytest.raises(StageError, match=r"search-validation split is empty; raise input\.val_fraction"):
        judge(make_sub(), context, limit=None)
