"""`jstc.JointSearch`: small networks are asked for, trained by any loop, and told back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jstc
from jstc import report
from jstc.core.progress import Silent
from jstc.errors import BudgetError, InputError, RecipeError, RunDirectoryError
from jstc.jst.handed_out import Round, Slopes
from jstc.jst.subnetwork import cut
from jstc.ort.opened import open_file, prepare
from jstc.runs.latency_budget import NetworkTimer, quick_onnx_of_any
from jstc.train import seeds


class Upscaler(nn.Module):
    """Twice as large an image; its groups are the stem with the second of each pair, and two of their own."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(2)])
        self.second = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for first, norm, second in zip(self.first, self.norms, self.second, strict=True):
            x = x + second(norm(first(x)).relu())
        return F.pixel_shuffle(self.last(x), 2)


def upscaler(seed: int = 0) -> Upscaler:
    with seeds.seeded(seed, "upscaler"):
        return Upscaler()


IMAGES = torch.rand(48, 3, 6, 6, generator=torch.Generator().manual_seed(0))
WANTED = F.interpolate(IMAGES, scale_factor=2, mode="bilinear")
BATCHES = [(IMAGES[i : i + 12], WANTED[i : i + 12]) for i in range(0, 48, 12)]


def loss_of(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.l1_loss(network(batch[0]), batch[1])


def train(network: nn.Module, steps: int = 4, optimizer: torch.optim.Optimizer | None = None) -> None:
    network.train()
    optimizer = optimizer or torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(network, BATCHES[step % 4]).backward()
        optimizer.step()


@torch.no_grad()
def score(network: nn.Module) -> float:
    network.eval()
    return -float(F.l1_loss(network(IMAGES), WANTED))


@pytest.fixture
def new(tmp_path: Path) -> Callable[..., jstc.JointSearch]:
    def make(model: nn.Module | None = None, folder: str = "out", **changes: Any) -> jstc.JointSearch:
        given: dict[str, Any] = {"flops": 0.5, "rounds": 3, "progress": False, **changes}
        model = upscaler() if model is None else model
        return jstc.JointSearch(model, IMAGES[:1], out=tmp_path / folder, **given)

    return make


GIVEN: dict[str, Any] = {
    "trained": True,
    "batches": BATCHES,
    "loss": loss_of,
    "settings": {"search.candidates": 9},
}
MANY = {"settings": {"search.recency_bonus": 0.0, "search.coarse_share": 0.0, "search.sigma": [8.0, 8.0]}}
"""So that every round has another plan."""


@pytest.fixture(scope="module")
def trained() -> Upscaler:
    model = upscaler()
    train(model, 120)
    return model


def run(search: jstc.JointSearch, *, until: int | None = None) -> list[Round]:
    """Rounds, to the end or so many of them."""
    told = []
    while not search.done and (until is None or search.round < until):
        with seeds.seeded(search.round, "loop"):
            round_ = search.ask()
            train(round_.network)
            search.tell(round_, score(round_.network))
        told.append(round_)
    return told


def finish(search: jstc.JointSearch) -> Any:
    for round_ in search.finalists():
        jstc.recalibrate(round_.network, [IMAGES])
        search.tell(round_, score(round_.network))
    return search.finish()


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What is handed out


@pytest.mark.parametrize("changes", [{}, {"trained": True, "batches": BATCHES}, GIVEN])
def test_rounds_are_plain_networks_of_the_same_class_within_the_budget(new: Any, changes: Any) -> None:
    model = upscaler()
    before = state(model)
    search = new(model, **changes)
    limit = search.channels.cost().flops // 2
    for round_ in run(search):
        assert type(round_.network) is Upscaler
        assert jstc.analyse(round_.network, IMAGES[:1]).cost().flops == round_.cost.flops <= limit
    slim = finish(search)
    assert slim.cost.flops <= limit and type(slim.network) is Upscaler
    assert slim.score == pytest.approx(score(slim.network), abs=1e-7)
    assert equal(state(model), before)  # the user's own is left as it was
    assert all(p.grad is None and not p._backward_hooks for p in model.parameters())


def test_several_bounds_are_met_together(new: Any) -> None:
    search = new(flops=0.6, params=0.4)
    whole = search.channels.cost()
    for round_ in run(search):
        assert round_.cost.flops <= 0.6 * whole.flops and round_.cost.params <= 0.4 * whole.params


def test_what_was_trained_is_what_the_next_round_begins_with(new: Any) -> None:
    search = new(rounds=2, settings={"search.perturbation": False})
    first = search.ask()
    with torch.no_grad():
        for parameter in first.network.parameters():
            parameter.fill_(0.25)
    search.tell(first, None)
    second = search.ask()
    assert second.plan == first.plan
    assert all(bool((p == 0.25).all()) for p in second.network.parameters())


@pytest.mark.parametrize(
    "changes", [{}, {"batches": BATCHES, "loss": loss_of, "settings": {"search.coarse_share": 0.0}}]
)
def test_a_round_that_was_not_told_is_handed_out_again(new: Any, changes: Any) -> None:
    """Also where plans are compared before the round, by which the policy learns."""
    search = new(**changes)
    first = search.ask()
    begun = state(first.network)
    train(first.network)
    again = search.ask()
    assert again.plan == first.plan and equal(state(again.network), begun)
    train(again.network)
    search.tell(again, 0.5)
    other = new(folder="other", **changes)
    round_ = other.ask()
    train(round_.network)
    other.tell(round_, 0.5)
    assert other.ask().plan == search.ask().plan


def test_the_seed_decides_what_is_drawn(new: Any) -> None:
    plans = [[r.plan.hash for r in run(new(folder=f, seed=s))] for f, s in (("a", 1), ("b", 1), ("c", 2))]
    assert plans[0] == plans[1] != plans[2]


def test_settings_are_keys_of_a_recipe(new: Any) -> None:
    for round_ in run(new(rounds=2, settings=["channels.round_to=5"])):
        assert all(count in (5, 10, 15, 16) for count in round_.plan.counts.values())


# What is told


class Other(Upscaler):
    pass


class DistributedDataParallel(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class ModelEmaV3(DistributedDataParallel):
    """Named and built as timm's."""


def narrower(round_: Round) -> nn.Module:
    channels = jstc.analyse(round_.network, IMAGES[:1])
    return channels.slice(round_.network, channels.uniform_plan(flops=0.5))


def diverged(round_: Round) -> nn.Module:
    next(iter(round_.network.parameters())).data[0] = float("nan")
    return round_.network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda r: Other(), "is a Other"),
        (narrower, "shapes of round 0"),
        (lambda r: upscaler(), "shapes of round 0"),
        (diverged, "not finite, in stem.weight"),
        (lambda r: r.network.stem, "is a Conv2d"),
    ],
)
def test_a_network_that_is_not_the_rounds_is_refused(new: Any, network: Any, message: str) -> None:
    search = new()
    round_ = search.ask()
    before = (search.path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(InputError, match=message):
        search.tell(round_, 1.0, network=network(round_))
    assert search.round == 0 and (search.path / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "high", [1, 2]])
def test_a_score_is_one_finite_number(new: Any, value: Any) -> None:
    search = new()
    round_ = search.ask()
    with pytest.raises(InputError, match="score"):
        search.tell(round_, value)
    search.tell(round_, torch.tensor(0.5))
    assert search.round == 1


def test_a_stale_round_is_refused(new: Any) -> None:
    search = new()
    first, second = search.ask(), search.ask()
    with pytest.raises(InputError, match="asked for last"):
        search.tell(first, 1.0)
    search.tell(second, 1.0)
    with pytest.raises(InputError, match="asked for last"):
        search.tell(second, 1.0)


@pytest.mark.parametrize(
    "wrap",
    [
        DistributedDataParallel,
        torch.optim.swa_utils.AveragedModel,
        torch.compile,
        lambda network: DistributedDataParallel(torch.optim.swa_utils.AveragedModel(network)),
        ModelEmaV3,
        lambda network: network.double(),
    ],
    ids=["ddp", "average", "compiled", "both", "ema", "double"],
)
def test_wrappers_are_taken_off(new: Any, wrap: Any) -> None:
    search = new(rounds=1)
    round_ = search.ask()
    train(round_.network)
    search.tell(round_, 1.0, network=wrap(round_.network))
    [best, *_] = search.finalists()
    told = {name: tensor.float() for name, tensor in round_.network.state_dict().items()}
    assert best.plan != round_.plan or equal({n: t.float() for n, t in state(best.network).items()}, told)
    assert {t.dtype for t in best.network.parameters()} == {torch.float32}


def test_when_a_round_cannot_be_saved_nothing_has_changed(new: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [r.plan.hash for r in run(new(folder="whole"))]
    search = new()
    run(search, until=1)
    round_ = search.ask()
    train(round_.network)
    with monkeypatch.context() as patched:
        patched.setattr("jstc.train.checkpoint.save", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            search.tell(round_, 1.0)
    assert search.round == 1
    assert [r.plan.hash for r in run(search)] == whole[1:]


# Gradients


def test_slopes_are_the_gradients_of_gates(new: Any) -> None:
    """Of every backward by itself, whatever becomes of the gradients."""
    search = new()
    target = search._state.target
    plan = search.ask().plan
    sub = cut(target, plan, None)
    expected = torch.zeros_like(sub.slopes)
    for batch in BATCHES[:2]:
        (slope,) = torch.autograd.grad(loss_of(sub.gated, batch), [sub.gated.alpha])
        expected += slope.abs()
    slopes = Slopes(sub)
    for batch in BATCHES[:2]:
        loss_of(sub.gated.network, batch).backward()  # without zero_grad in between
    torch.testing.assert_close(slopes.stop(), expected, atol=1e-7, rtol=1e-4)
    assert (expected > 0).any()


def test_every_backward_of_a_round_teaches_the_channel_weights(new: Any) -> None:
    search = new(rounds=2, settings={"search.perturbation": False})
    before = search._state.target.sensitivity.clone()
    round_ = search.ask()
    train(round_.network)
    assert any(p._backward_hooks for p in round_.network.parameters())
    search.tell(round_, 1.0)
    assert not torch.equal(search._state.target.sensitivity, before)
    assert not any(p._backward_hooks for p in round_.network.parameters())


def test_gates_are_folded_into_the_round(new: Any) -> None:
    search = new(rounds=1, settings={"search.importance": "learned"})
    round_ = search.ask()
    before = state(round_.network)
    sub = cut(search._state.target, round_.plan, None)
    (slope,) = torch.autograd.grad(loss_of(sub.gated, BATCHES[0]), [sub.gated.alpha])
    loss_of(round_.network, BATCHES[0]).backward()
    round_.observe()
    alpha = round_._sub.gated.alpha.detach()
    moved = slope.abs() > 1e-6
    assert torch.equal((alpha < 1)[moved], (slope > 0)[moved]) and moved.any()
    changed = [n for n, p in round_.network.named_parameters() if not torch.equal(p, before[n])]
    gated = set(round_._sub.gated.index)
    assert {name for name in gated if name.endswith("weight")} <= set(changed) <= gated  # biases are zero
    search.tell(round_, 1.0)
    index = search._state.target.index(round_.plan)
    assert torch.equal(search._state.target.alpha[index], alpha)


def test_only_gates_are_observed(new: Any) -> None:
    with pytest.raises(InputError, match="importance=learned"):
        new().ask().observe()


# The optimiser's state


@pytest.mark.parametrize(
    ("make", "entry"),
    [
        (lambda p: torch.optim.AdamW(p, lr=1e-3), "exp_avg"),
        (lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), "momentum_buffer"),
        (lambda p: torch.optim.RMSprop(p, lr=1e-3), "square_avg"),
    ],
    ids=["adamw", "sgd", "rmsprop"],
)
def test_the_state_of_an_optimiser_goes_with_its_channels(new: Any, make: Any, entry: str) -> None:
    search = new(rounds=2, settings={"search.perturbation": False})
    first = search.ask()
    optimizer = make(first.network.parameters())
    train(first.network, 3, optimizer)
    first.save(optimizer)
    search.tell(first, 1.0)
    saved = {n: optimizer.state[p] for n, p in first.network.named_parameters()}
    del search
    search = new(rounds=2, settings={"search.perturbation": False})  # it is in the checkpoint, too
    second = search.ask()
    assert second.plan == first.plan
    optimizer = make(second.network.parameters())
    second.load(optimizer)
    for name, parameter in second.network.named_parameters():
        assert torch.equal(optimizer.state[parameter][entry], saved[name][entry])
        assert optimizer.state[parameter].keys() == saved[name].keys()
        if "step" in saved[name]:
            assert float(optimizer.state[parameter]["step"]) == 3
    train(second.network, 1, optimizer)


def test_an_optimiser_of_another_class_or_network_gets_nothing(new: Any) -> None:
    search = new(rounds=2)
    first = search.ask()
    optimizer = torch.optim.AdamW(first.network.parameters())
    train(first.network, 1, optimizer)
    first.save(optimizer)
    search.tell(first, 1.0)
    second = search.ask()
    other = torch.optim.SGD(second.network.parameters(), lr=0.1, momentum=0.9)
    second.load(other)
    assert not other.state
    with pytest.raises(InputError, match="none of this round's parameters"):
        second.load(optimizer)


# The end


def test_of_the_finalists_the_best_is_given_as_it_was_told(new: Any) -> None:
    search = new(**MANY)
    run(search)
    scores = {}
    for number, round_ in enumerate(search.finalists()):
        with torch.no_grad():
            round_.network.last.bias.fill_(float(number))
        search.tell(round_, -abs(number - 1.0))
        scores[round_.plan.hash] = number
    assert len(scores) > 1
    with pytest.raises(InputError, match="a score of nan says nothing"):
        search.finish(whole=float("nan"))
    slim = search.finish(whole=0.25)
    assert scores[slim.plan.hash] == 1 and slim.score == 0
    assert bool((slim.network.last.bias == 1).all())
    assert json.loads((search.path / "result.json").read_text())["score"] == 0
    data = report.read_task(search.path)
    assert [each.kept for each in data.groups] == [*slim.plan.counts.values()] and len(data.rounds) == 3
    assert ["score", "0.25", "0", ""] in report.task_table(data)[1]


def test_rounds_that_are_left_and_finalists_that_were_not_told(new: Any) -> None:
    search = new(rounds=2, **MANY)
    for early in (search.finish, lambda: next(search.finalists())):
        with pytest.raises(InputError, match="2 rounds are left"):
            early()
    run(search)
    with pytest.raises(InputError, match="the search is done"):
        search.ask()
    finalist = next(search.finalists())
    with pytest.raises(InputError, match="needs a score"):
        search.tell(finalist, None)
    assert len(list(search.finalists())) > 1
    with pytest.raises(InputError, match="no finalist was told"):
        search.finish()


# Trained weights


def test_trained_weights_are_cut_where_it_costs_least_and_mended(new: Any, trained: Upscaler) -> None:
    """Without training; against the evenly narrow network with the same statistics."""
    search = new(trained, rounds=0, **GIVEN)
    before = state(trained)
    slim = search.finish()
    assert slim.score is None and equal(state(trained), before)
    channels = jstc.analyse(trained, IMAGES[:1])
    even = channels.slice(trained, channels.uniform_plan(flops=0.5))
    jstc.recalibrate(even, [IMAGES])
    assert score(slim.network) > score(even) + 0.01
    lines = (search.path / "candidates.jsonl").read_text().splitlines()
    assert len(lines) == 9
    contributions = json.loads((search.path / "result.json").read_text())["contributions"]
    assert contributions[-1]["loss"] < contributions[0]["loss"]
    assert contributions[0]["accuracy"] is None


def test_broken_off_among_the_candidates_it_goes_on_from_there(
    new: Any, trained: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = new(trained, "whole", **GIVEN).ask()
    calls: list[int] = []

    def breaking(network: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 22:
            raise KeyboardInterrupt
        return loss_of(network, batch)

    search = new(trained, **GIVEN | {"loss": breaking})
    with pytest.raises(KeyboardInterrupt):
        search.ask()
    known = (search.path / "candidates.jsonl").read_text().splitlines()
    assert 0 < len(known) < 9
    again = new(trained, **GIVEN)
    round_ = again.ask()
    assert round_.plan == whole.plan and equal(state(round_.network), state(whole.network))
    assert (search.path / "candidates.jsonl").read_text().splitlines()[: len(known)] == known


def test_a_loss_without_batches_or_one_that_is_no_number(new: Any) -> None:
    with pytest.raises(InputError, match="needs batches="):
        new(loss=loss_of)
    with pytest.raises(InputError, match="at least one batch"):
        new(batches=[])
    with pytest.raises(InputError, match=r"loss= gave a tensor of \[12, 3, 12, 12\]"):
        new(**GIVEN | {"loss": lambda network, batch: network(batch[0])}).ask()


class Helped(Upscaler):
    """With a branch that only the loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.helper = nn.Conv2d(16, 3, 1)

    def loss(self, images: Tensor, wanted: Tensor) -> Tensor:
        return F.l1_loss(self(images), wanted) + 0.1 * self.helper(self.stem(images)).square().mean()


@pytest.mark.parametrize(
    "changes",
    [
        {"also": lambda network: network.loss(*BATCHES[0])},
        {"batches": BATCHES, "loss": lambda network, batch: network.loss(*batch)},
    ],
    ids=["also", "loss"],
)
def test_what_only_training_uses_is_cut_with_the_rest(new: Any, changes: Any) -> None:
    search = new(Helped(), rounds=1, **changes)
    round_ = search.ask()
    assert round_.network.helper.in_channels == round_.network.stem.out_channels < 16
    round_.network.loss(*BATCHES[0]).backward()
    search.tell(round_, 1.0)


# The folder


@pytest.mark.parametrize("changes", [{}, GIVEN], ids=["untrained", "trained"])
@pytest.mark.parametrize("after", [1])
def test_a_process_that_was_killed_loses_its_round(
    new: Any, trained: Upscaler, changes: Any, after: int
) -> None:
    model = trained if changes else upscaler()
    whole = new(model, "whole", **changes)
    plans = [r.plan.hash for r in run(whole)]
    slim = finish(whole)
    search = new(model, **changes)
    run(search, until=after)
    train(search.ask().network)
    del search  # in the middle of a round
    search = new(model, **changes)
    assert search.round == after
    assert [r.plan.hash for r in run(search)] == plans[after:]
    again = finish(search)
    assert again.plan == slim.plan and equal(state(again.network), state(slim.network))
    history = [(whole.path, search.path)[n] / "history.jsonl" for n in (0, 1)]
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in history]
    assert [{**x, "seconds": 0} for x in lines[0]] == [{**x, "seconds": 0} for x in lines[1]]


def test_finalists_that_were_told_are_not_judged_again(new: Any) -> None:
    search = new(**MANY)
    run(search)
    told = next(search.finalists())
    search.tell(told, 100.0)
    left = [r.plan.hash for r in new(**MANY).finalists()]
    assert left and told.plan.hash not in left
    assert new(**MANY).finish().score == 100


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"seed": 5}, "seed"), ({"flops": 0.6}, "budget"), ({"rounds": 9}, "search"), ({"key": "b"}, "key")],
)
def test_the_folder_of_another_search_is_refused(new: Any, changes: Any, key: str) -> None:
    run(new(), until=1)
    with pytest.raises(RunDirectoryError, match=key):
        new(**changes)
    with pytest.raises(RunDirectoryError, match="weights"):
        new(upscaler(seed=1))
    with pytest.raises(RunDirectoryError, match=r"search\.rounds: 3 there, 9 here"):
        new(rounds=9)
    assert new().round == 1
    assert new(**changes, fresh=True).round == 0


@pytest.mark.parametrize("before", [False, True], ids=["in the first write", "later"])
def test_what_a_killed_process_has_half_written_goes(new: Any, tmp_path: Path, *, before: bool) -> None:
    if before:
        run(new(), until=1)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / ".tmp-x1.safetensors").write_bytes(b"half")
    assert new().round == int(before)
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_a_folder_with_something_else_is_refused(new: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letters.txt").write_text("dear")
    with pytest.raises(RunDirectoryError, match=r"something else \(letters.txt\)"):
        new()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["letters.txt"]


# What is wrong from the start


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"flops": None}, RecipeError, "no budget"),
        ({"flops": 0.001}, BudgetError, "smallest"),
        ({"settings": ["search.importance=taylor"]}, RecipeError, "not for any training loop"),
        ({"settings": ["search.round=3"]}, RecipeError, "search.round"),
        ({"flops": [0.5, 0.3]}, RecipeError, "several budgets"),
        ({"rounds": 0}, RecipeError, "rounds=0"),
        ({"part": "sten"}, InputError, "no module 'sten'"),
        ({"ignore": ["nothing"]}, InputError, "nothing"),
    ],
)
def test_wrong_arguments_are_told_at_once(
    new: Any, tmp_path: Path, changes: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        new(**changes)
    assert not (tmp_path / "out").exists()


# Statistics


def test_recalibrate_takes_the_average_over_all_batches() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()
    data = torch.randn(30, 3, generator=torch.Generator().manual_seed(1)) * 2 + 1
    batches = [{"rows": data[i : i + 10]} for i in range(0, 30, 10)]
    assert jstc.recalibrate(network, batches, call=lambda net, batch: net(batch["rows"])) == 30
    torch.testing.assert_close(network[0].running_mean, data.mean(0))
    assert not network.training and not network[0].training
    assert jstc.recalibrate(nn.Linear(2, 2), [torch.zeros(2, 2)]) == 0


# Latency


def test_a_bound_on_latency_is_predicted_and_measured(
    new: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With times that this test says, so that no clock decides."""

    def milliseconds(timer: NetworkTimer, plans: list[jstc.Plan]) -> list[float]:
        timer.resume(10.0)
        whole = timer._channels.cost().flops
        return [10 * timer._channels.cost(plan).flops / whole for plan in plans]

    monkeypatch.setattr("jstc.latency.table.measure", lambda _, points, **__: [1e-3 * sum(p) for p in points])
    monkeypatch.setattr(NetworkTimer, "milliseconds", milliseconds)
    monkeypatch.setattr(NetworkTimer, "target_ms", property(lambda timer: 10.0))
    monkeypatch.setenv("JSTC_CACHE", str(tmp_path / "cache"))
    search = new(latency=0.6, flops=0.8, rounds=1)
    whole = search.channels.cost()
    [round_] = run(search)
    assert whole.latency_ns and round_.cost.latency_ns <= 0.6 * whole.latency_ns
    assert round_.cost.flops <= 0.8 * whole.flops
    predicted = (search.path / "latency.json").read_bytes()
    again = new(latency=0.6, flops=0.8, rounds=1)  # predicts with what was measured then
    assert again.channels.cost() == whole and (again.path / "latency.json").read_bytes() == predicted
    finish(again)
    assert json.loads((again.path / "result.json").read_text())["latency_ms"] > 0


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(10, 4), nn.Conv1d(3, 4, 1)

    def forward(self, ids: Tensor, sound: Tensor) -> dict[str, Tensor]:
        return {"words": self.embed(ids), "sound": self.conv(sound)}


def test_any_network_is_written_to_be_timed(tmp_path: Path) -> None:
    example = {"ids": torch.zeros(1, 5, dtype=torch.long), "sound": torch.zeros(1, 3, 20)}
    quick_onnx_of_any(Both(), tmp_path / "net.onnx", example=example)
    prepare(open_file("net", tmp_path / "net.onnx", provider="cpu", threads=1), 1)()


def test_progress_counts_batches_of_any_size(new: Any, trained: Upscaler) -> None:
    seen: list[tuple[str, int, int]] = []

    class Watched(Silent):
        def start(self, stage: str, total: int, unit: str) -> None:
            self.unit, self.total = unit, total

        def update(self, done: int, **figures: float) -> None:
            seen.append((self.unit, done, self.total))

    batches = [(IMAGES[i : i + 3], WANTED[i : i + 3]) for i in range(0, 48, 3)]
    new(trained, **GIVEN | {"batches": batches, "progress": Watched()})
    ranked = [(done, total) for unit, done, total in seen if unit == "channel weights batch"]
    assert ranked == [(done, 8) for done in range(1, 9)]
