"""`jstc.JointSearch` with other people's loops, networks and habits, and broken off wherever it may be."""

from __future__ import annotations

import copy
import inspect
import io
import json
import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import jstc
from jstc.errors import InputError, RecipeError, RunDirectoryError
from jstc.train import checkpoint
from tests.test_joint_search import (
    BATCHES,
    IMAGES,
    MANY,
    Upscaler,
    equal,
    loss_of,
    run,
    score,
    state,
    train,
    upscaler,
)  # fmt: skip

SAME_PLAN = {"settings": {"search.perturbation": False}}


@pytest.fixture
def new(tmp_path: Path) -> Callable[..., jstc.JointSearch]:
    def make(model: nn.Module | None = None, folder: str = "out", **changes: Any) -> jstc.JointSearch:
        given: dict[str, Any] = {"example": IMAGES[:1], "flops": 0.5, "rounds": 2, "progress": False}
        given |= changes
        model = upscaler() if model is None else model
        return jstc.JointSearch(model, given.pop("example"), out=tmp_path / folder, **given)

    return make


# Settings


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"settings": {"search.rounds": 5}}, "rounds="),
        ({"settings": ["seed=3"]}, "seed="),
        ({"settings": {"params": 0.5}}, "params="),
        ({"settings": {"channels": {"ignore": ["stem"]}}}, "ignore="),
        ({"settings": {"search.epochs_per_round": 0.25}}, "loop's"),
        ({"settings": ["search.compile=true"]}, "loop's"),
        ({"settings": {"search": {"eval_images": 5}}}, "loop's"),
        ({"settings": {"train.lr": 0.1}}, "loop's"),
        ({"settings": {"search.candidates": 9}, "trained": True, "batches": BATCHES}, "with loss="),
        ({"settings": {"search.importance_images": 9}}, "with trained= and batches= and loss="),
        ({"settings": {"search.reconstruction_images": 9}, "trained": True}, "with batches="),
        ({"settings": {"latency_on.threads": 1}}, "with latency="),
    ],
)
def test_settings_that_would_do_nothing_are_refused(new: Any, changes: Any, advice: str) -> None:
    with pytest.raises(RecipeError, match="does nothing here") as error:
        new(**changes)
    assert advice in error.value.advice


def test_parts_of_the_search_can_be_switched_off_together(new: Any) -> None:
    assert new(settings={"search.method": "lean"}).ask().plan


# Scores


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.array([0.5]), torch.tensor([0.5], requires_grad=True), True, 1]
)
def test_whatever_holds_one_number_is_a_score(new: Any, value: Any) -> None:
    search = new()
    search.tell(search.ask(), value)
    assert search.round == 1


@pytest.mark.parametrize("value", ["0.5", b"1", 1j, torch.tensor(1j), torch.ones(2), {"map": 1.0}])
def test_whatever_does_not_hold_one_number_is_none(new: Any, value: Any) -> None:
    search = new()
    round_ = search.ask()
    with pytest.raises(InputError, match="a score is one number"):
        search.tell(round_, value)
    search.tell(round_, 1.0)


# Optimisers


def closure_train(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(network, BATCHES[0])
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.Adafactor,
        lambda p: torch.optim.LBFGS(p, max_iter=2),
        lambda p: torch.optim.Adam(p, amsgrad=True, fused=True),
        torch.optim.ASGD,
        torch.optim.NAdam,
        lambda p: torch.optim.AdamW([{"params": list(p)[:3]}]),
    ],
    ids=["adafactor", "lbfgs", "fused", "asgd", "nadam", "part"],
)
def test_any_optimiser_goes_on_with_all_of_a_parameters_state_or_none(new: Any, make: Any) -> None:
    """A part of it is not completed by the optimiser, which would fail."""
    search = new(**SAME_PLAN)
    first = search.ask()
    optimizer = make(first.network.parameters())
    closure_train(first.network, optimizer)
    first.save(optimizer)
    carries = not isinstance(optimizer, torch.optim.Adafactor | torch.optim.LBFGS)
    if carries:
        search.tell(first, 1.0)
    else:
        with pytest.warns(UserWarning, match="not carried"):
            search.tell(first, 1.0)
    saved = {n: optimizer.state[p] for n, p in first.network.named_parameters() if p in optimizer.state}
    for now in (lambda: search, lambda: new(**SAME_PLAN)):  # as it was in memory, and out of the checkpoint
        second = now().ask()
        optimizer = make(second.network.parameters())
        second.load(optimizer)
        for name, parameter in second.network.named_parameters():
            state = optimizer.state.get(parameter, {})
            assert not state or state.keys() == saved[name].keys()
            for key, value in state.items():
                assert type(value) is type(saved[name][key])
                if isinstance(value, Tensor):
                    assert torch.equal(value, saved[name][key]) and value.dtype == saved[name][key].dtype
        assert bool(optimizer.state) == carries or isinstance(optimizer, torch.optim.Adafactor)
        closure_train(second.network, optimizer)


# Statistics


def statistics() -> nn.Module:
    network = nn.Sequential(nn.BatchNorm1d(3))
    train_on = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)) + 4
    network(train_on)
    return network


def test_statistics_stay_when_there_is_nothing_to_estimate_them_on() -> None:
    network = statistics()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with pytest.raises(InputError, match="no batches"):
        jstc.recalibrate(network, iter(()))

    def failing(network: nn.Module, batch: Tensor) -> None:
        network(batch)
        raise KeyError("label")

    with pytest.raises(KeyError):
        jstc.recalibrate(network, [torch.zeros(4, 3)], call=failing)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert network.training and network[0].momentum == 0.1


def test_batches_without_tensors_can_be_recalibrated_on() -> None:
    network = statistics()
    batches = [{"rows": np.full((4, 3), value, np.float32)} for value in (1, 3)]
    jstc.recalibrate(network, batches, call=lambda net, batch: net(torch.from_numpy(batch["rows"])))
    assert network[0].running_mean.tolist() == [2, 2, 2]


# What is not the search's to change: random numbers, and copies of what it handed out


class Noisy(Upscaler):
    """Whose forward draws, in evaluation mode, too."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 1e-3 * torch.randn_like(images))


def noisy_loss(network: nn.Module, batch: Any) -> Tensor:
    return loss_of(network, batch) + 1e-3 * random.random() + 1e-3 * np.random.random()


def drawn() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]


def test_random_numbers_of_the_user_and_of_the_search_are_apart(new: Any) -> None:
    """Whatever the user has drawn before, a search is the same, and his numbers are as without it."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model, found = Noisy(), []
        judged = {"trained": True, "batches": BATCHES[:2], "loss": noisy_loss, "rounds": 1}
        for number in (1, 2):
            torch.manual_seed(number)
            before = drawn()
            search = new(model, str(number), **judged, settings={"search.candidates": 1})
            round_ = search.ask()
            found.append((round_.plan, state(round_.network)))
            search.tell(round_, 1.0)
            for final in search.finalists():
                search.tell(final, 1.0)
            search.finish()
            assert drawn() == before
    assert found[0][0] == found[1][0]
    assert equal(found[0][1], found[1][1])


def test_a_round_can_be_copied_and_stored_in_the_middle_of_its_training(new: Any) -> None:
    search = new()
    round_ = search.ask()
    train(round_.network, 1)
    torch.save(round_.network, io.BytesIO())
    for other in (pickle.loads(pickle.dumps(round_.network)), copy.deepcopy(round_).network):
        assert not any(p._backward_hooks for p in other.parameters())
        train(other, 1)
    with pytest.raises(InputError, match="not copied or pickled"):
        pickle.dumps({"trainer": search})
    search.tell(round_, 1.0, network=other)


def test_a_network_whose_class_is_made_anew_with_every_copy(new: Any) -> None:
    traced = fx.symbolic_trace(upscaler())
    search = new(traced)
    round_ = search.ask()
    assert type(copy.deepcopy(round_.network)) is not type(round_.network)
    search.tell(round_, 1.0, network=copy.deepcopy(round_.network))
    assert search.round == 1


# Buffers, and number formats


class Remembering(Upscaler):
    """With buffers of all kinds: a mask, one that counts, one that grows, one that training makes."""

    mask: Tensor
    turns: Tensor
    count: Tensor
    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("turns", torch.polar(torch.ones(2), torch.ones(2)), persistent=False)
        self.register_buffer("count", torch.zeros(1), persistent=False)
        self.register_buffer("cache", torch.zeros(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.count.add_(1)
            if not hasattr(self, "late"):
                self.register_buffer("late", torch.ones(2))
        if len(self.cache) < len(images):
            self.cache = torch.zeros(len(images))
        return super().forward(images)

    def get_extra_state(self) -> str:
        return "words"

    def set_extra_state(self, state: str) -> None:
        assert state == "words"


def test_buffers_of_all_kinds(new: Any) -> None:
    model = Remembering()
    search = new(model)
    round_ = search.ask()
    other = copy.deepcopy(round_.network)
    train(other, 3)
    search.tell(round_, 0.0, network=other)
    for resumes in (False, True):  # as it was in memory, and out of the checkpoint
        search = new(model) if resumes else search
        round_ = search.ask()
        network = round_.network
        assert network.count.item() == 3 and len(network.cache) == 1
        assert torch.equal(network.mask, model.mask) and torch.equal(network.turns, model.turns)
    round_.network.mask = torch.zeros(4)
    with pytest.raises(InputError, match="shapes of round 1") as error:
        search.tell(round_, 0.0)
    assert error.value.details == ("mask: [4], not [3, 3]",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_number_format(new: Any, dtype: torch.dtype) -> None:
    """In half numbers, products of such gradients with weights would be zeros."""
    batches = [(images.to(dtype), wanted.to(dtype)) for images, wanted in BATCHES[:2]]
    judged = {"batches": batches, "loss": loss_of, "trained": True, "settings": {"search.candidates": 1}}
    search = new(upscaler().to(dtype), example=batches[0][0][:1], rounds=1, **judged)
    before = search._state.target.sensitivity.clone()
    round_ = search.ask()
    for parameter in round_.network.parameters():
        assert parameter.dtype == dtype
        parameter.backward(torch.full_like(parameter, 1e-7))
    search.tell(round_, 0.0)
    changed = search._state.target.sensitivity != before
    assert changed.sum() > 0.4 * len(changed)


# Broken off


def test_a_round_and_a_finalist_can_be_told_again_when_the_disk_was_full(
    new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [round_.plan for round_ in run(new(folder="whole", **MANY))]
    search = new(**MANY)
    told = []
    save = checkpoint.save
    while not search.done:
        round_ = search.ask()
        train(round_.network)
        weights = state(search._state.target.network)
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
            with pytest.raises(OSError, match="full"):
                search.tell(round_, score(round_.network))
        assert equal(weights, state(search._state.target.network))
        search.tell(round_, score(round_.network))
        told.append(round_.plan)
    assert told == whole and checkpoint.save is save
    final = next(search.finalists())
    monkeypatch.setattr(checkpoint, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        search.tell(final, 5.0)
    monkeypatch.undo()
    assert next(search.finalists()).plan == final.plan
    search.tell(next(search.finalists()), 5.0)
    assert search.finish().score == 5.0


def test_wherever_it_is_interrupted_a_call_can_be_made_again(new: Any) -> None:
    """At a number of calls of functions of ours, spread over asking and telling."""
    counted, at = 0, 0

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal counted
        code = frame.f_code  # a generator is also called where it is thrown away, and can't raise there
        if event == "call" and "/jstc/" in code.co_filename and not code.co_flags & inspect.CO_GENERATOR:
            counted += 1
            if counted == at:
                raise KeyboardInterrupt

    def whole(folder: str) -> tuple[list[Any], int]:
        nonlocal counted
        search, plans, before = new(folder=folder, **MANY), [], sys.getprofile()
        while not search.done:
            try:
                sys.setprofile(count)
                round_ = search.ask()
                plans.append(round_.plan.hash)
                search.tell(round_, float(search.round))
            except KeyboardInterrupt:
                pass
            finally:
                sys.setprofile(before)
        calls, counted = counted, 0
        return [*dict.fromkeys(plans), state(search._state.target.network)["stem.bias"].tolist()], calls

    expected, calls = whole("whole")
    for at in range(1, calls, calls // 8):
        assert whole(str(at))[0] == expected


def test_of_equal_finalists_the_one_that_was_told_first_wins(new: Any) -> None:
    search = new(rounds=3, **MANY)
    run(search)
    finals = search.finalists()
    first, second = next(finals), next(finals)
    search.tell(second, 1.0)
    for again in search.finalists():
        search.tell(again, 1.0)
    assert search.finish().plan == second.plan != first.plan


# The folder


def test_a_home_and_a_change_of_the_working_directory(
    new: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    model = upscaler()
    searches = [jstc.JointSearch(model, IMAGES[:1], flops=0.5, rounds=1, out=out) for out in ("~/a", "a")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for search, folder in zip(searches, (tmp_path / "home" / "a", tmp_path / "a"), strict=True):
        search.tell(search.ask(), 1.0)
        search.finish()
        assert search.path == folder and (folder / "result.json").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_call_that_is_refused_changes_nothing_and_the_search_at_work_goes_on(new: Any) -> None:
    search = new()
    search.tell(search.ask(), 1.0)
    before = {path.name: path.read_bytes() for path in search.path.iterdir()}
    with pytest.raises(RunDirectoryError, match="budget"):
        new(flops=0.7)
    with pytest.raises(RunDirectoryError, match=r"\(weights differ\)") as error:
        new(upscaler(seed=1))
    assert "manual_seed" in error.value.advice
    assert {path.name: path.read_bytes() for path in search.path.iterdir()} == before
    search.tell(search.ask(), 1.0)
    assert search.done


def test_only_the_last_search_of_a_program_writes_into_its_folder(new: Any) -> None:
    earlier = new()
    round_ = earlier.ask()
    later = new()
    with pytest.raises(RunDirectoryError, match="a later JointSearch"):
        earlier.tell(round_, 1.0)
    later.tell(later.ask(), 1.0)
    with pytest.raises(RunDirectoryError, match="flops"):  # another example: other FLOPs, and another limit
        new(example=IMAGES[:1, :, :4])


def test_a_damaged_checkpoint_costs_a_round(new: Any) -> None:
    search = new(rounds=3, **MANY)
    plans = [round_.plan for round_ in run(search)]
    saved = search.path / "checkpoint.safetensors"
    saved.write_bytes(saved.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=r"going on from checkpoint.1"):
        again = new(rounds=3, **MANY)
    assert again.round == 2
    assert [round_.plan for round_ in run(again)] == plans[2:]
    assert len((search.path / "history.jsonl").read_text().splitlines()) == 3


def test_what_a_killed_process_left_behind_is_cleared_away(new: Any, tmp_path: Path) -> None:
    """Half a file of the first write; logs and results whose checkpoint is gone."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".tmp-1.json").write_text("{")
    search = new()
    run(search)
    search.finish()
    for path in search.path.glob("checkpoint*"):
        path.unlink()
    (search.path / ".tmp-2.safetensors").write_bytes(b"1")
    run(again := new())
    assert not list(again.path.glob(".tmp-*")) and not (again.path / "result.json").exists()
    history = [json.loads(line)["round"] for line in (again.path / "history.jsonl").read_text().splitlines()]
    assert history == [0, 1]


def test_batches_that_the_network_is_not_called_with(new: Any) -> None:
    batches = [{"image": images, "target": wanted} for images, wanted in BATCHES]

    def loss(network: nn.Module, batch: Any) -> Tensor:
        return loss_of(network, (batch["image"], batch["target"]))

    search = new(batches=batches, loss=loss, trained=True, rounds=1, flops=np.int64(200_000))
    with pytest.raises(InputError, match="not called with such a batch") as error:
        search.ask()
    assert "call=" in error.value.advice


def test_a_network_without_parameters(new: Any) -> None:
    with pytest.raises(InputError, match="a ReLU has no parameters"):
        new(nn.ReLU())
