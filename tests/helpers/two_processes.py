"""What two processes are asked to do; run by `python -m` in each of them, and called by tests in one.

Every check returns something that JSON can hold; the tests compare what the processes found.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import jstc
from jstc.channels import ChannelMap, analyse
from jstc.core import processes
from jstc.core.progress import Silent
from jstc.data.base import DataInfo, Dataset
from jstc.data.in_memory import dataset_in_memory
from jstc.errors import JstcError, StageError
from jstc.jst.plan_judge import Judge
from jstc.jst.round import judge, train_round
from jstc.jst.state import State
from jstc.jst.subnetwork import Target, cut, put_back
from jstc.recipe.schema import TrainSettings
from jstc.train import collectives, handover, head, optim, process_group, seeds
from jstc.train.device import Numerics
from jstc.train.loop import counted, evaluate, stream, train_steps
from jstc.train.one_step import step_options
from jstc.train.schedule import Schedule
from tests.helpers import tiny_search as tiny

CPU = torch.device("cpu")


class Normless(nn.Module):
    """Two groups, without batch norm or dropout; one head that training does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.unused = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.second(self.first(images).relu()).relu().mean((-2, -1))
        return self.fc(x)


def normless() -> Normless:
    with seeds.seeded(0, "normless"):
        return Normless()


def images(number: int, seed: int = 0) -> Dataset:
    """Images of three classes, as a data set."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 3
    pixels = torch.randint(0, 200, (number, 2, 6, 6), generator=source) + 25 * labels.view(-1, 1, 1, 1)
    info = DataInfo("shades", ("a", "b", "c"), 2, 6, 6, mean=(0.5, 0.5), std=(0.25, 0.25))
    pair = pixels.to(torch.uint8), labels
    return dataset_in_memory(info, pair, pair, augmentation=None, val_fraction=0.3, seed=0, device=CPU)


def steps(number: int, batch_size: int, count: int = 4, **settings: Any) -> dict[str, Any]:
    """The losses of training steps one by one, and the weights after them."""
    network, split = normless(), images(number).train_full
    chosen = TrainSettings(batch_size=batch_size, precision="float32", channels_last=False, **settings)
    optimizer = optim.make(dict(network.named_parameters()), chosen)
    options = step_options(chosen, CPU, seed=3, images=split.num_images)
    losses = []
    with collectives.averaging(network) as called:
        for step in range(count):
            batches = stream(split, batch_size, seed=5, start=step, count=1)
            figures = train_steps(
                called, batches, optimizer=optimizer, schedule=Schedule(0.05, 10), first_step=step,
                options=options,
            )  # fmt: skip
            losses.append(figures.loss)
    collectives.require_equal(network.state_dict(), "the network")
    return {"losses": losses, "images": figures.images, "weights": network.second.weight.flatten().tolist()}


def evaluation() -> list[float]:
    """Figures of a network on a split, whose batches are not shared evenly."""
    figures = evaluate(normless(), counted(images(61).train_full, 14, progress=Silent(), stage="x"))
    return [figures.accuracy, figures.loss, figures.images]


def gated_round() -> dict[str, Any]:
    """A round of a search on a network without norms: gates and weights after it."""
    changes = {"train.batch_size": 12, "search.steps_per_round": 3, "search.gate_steps": 3}
    changes |= {"train.precision": "float32", "train.lr": 0.05, "search.candidate_images": 20}
    recipe = tiny.tiny_recipe(changes)
    network = normless()
    channels = analyse(network.eval(), torch.zeros(1, 2, 6, 6))
    target = Target.new(network, channels, recipe.train)
    context = tiny.context_of(recipe, images(90))
    sub = cut(target, channels.uniform_plan(flops=0.6), recipe.train)
    figures = train_round(sub, context, 0)
    judged = judge(sub, context, limit=20)
    return {
        "loss": figures.loss,
        "images": figures.images,
        "alpha": sub.gated.alpha.tolist(),
        "judged": [judged.accuracy, judged.loss, judged.images],
    }


def taught_round() -> dict[str, Any]:
    """A round whose steps teach channel weights, on a network without norms; the weights after it."""
    changes = {"train.batch_size": 12, "search.steps_per_round": 3, "search.importance": "gradient"}
    recipe = tiny.tiny_recipe(changes | {"train.lr": 0.05, "search.gate_steps": tiny.LEFT_OUT})
    network = normless()
    channels = analyse(network.eval(), torch.zeros(1, 2, 6, 6))
    target = Target.new(network, channels, recipe.train)
    sub = cut(target, channels.uniform_plan(flops=0.6), recipe.train)
    train_round(sub, tiny.context_of(recipe, images(90)), 0)
    put_back(sub, target)
    return {"slopes": sub.slopes.tolist(), "weights": target.sensitivity.tolist()}


def widths(directory: Path) -> dict[str, Any]:
    """A search over the widths of given weights, then a round; what each process has in the end."""
    own = directory if collectives.is_first() else Path(tempfile.mkdtemp()) / "nothing"
    run = tiny.tiny_search(own, tiny.GIVEN | {"search.rounds": 1, "search.candidates": 16})
    again = tiny.tiny_search(own, tiny.GIVEN | {"search.rounds": 1, "search.candidates": 16})
    return {
        "plans": [run.plan.hash, again.plan.hash],
        "target": collectives.fingerprint(run.target.parameters()),
        "wrote": (own / "candidates.jsonl").exists(),
    }


def mended(directory: Path) -> dict[str, Any]:
    """A search over the widths of given weights where each process fits layers with a rounding of its own."""
    own = directory if collectives.is_first() else Path(tempfile.mkdtemp()) / "nothing"
    reconstruct = ChannelMap.reconstruct

    def rounding(self: ChannelMap, model: nn.Module, small: nn.Module, *args: Any, **options: Any) -> Any:
        found = reconstruct(self, model, small, *args, **options)
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.mul_(1 + 1e-3 * collectives.rank())
        return found

    changes = {"search.rounds": 1, "search.candidates": 8, "search.reconstruction_images": 24}
    ChannelMap.reconstruct = rounding  # type: ignore[method-assign]
    try:
        run = tiny.tiny_search(own, tiny.GIVEN | changes)
    finally:
        ChannelMap.reconstruct = reconstruct  # type: ignore[method-assign]
    return {
        "plan": run.plan.hash,
        "target": collectives.fingerprint([*run.target.parameters(), *run.target.buffers()]),
    }


def judged_on_few(images: int) -> float | None:
    """Loss of a plan on a search-validation split that has fewer images than the processes could share."""
    data, recipe = tiny.tiny_dataset(), tiny.tiny_recipe(tiny.GIVEN)
    few = dataclasses.replace(data.search_val, members=torch.arange(images))  # type: ignore[type-var]
    channels = analyse(tiny.tiny_network().eval(), torch.zeros(1, 2, 8, 8))
    state = State.new(tiny.tiny_network(), channels, tiny.proposer_of(channels, recipe), recipe)
    judge = Judge(state, tiny.context_of(recipe, dataclasses.replace(data, search_val=few)))
    return judge(channels.uniform_plan(flops=0.5)).loss


def new_head(directory: Path) -> dict[str, Any]:
    """The classifier of a network after it was trained alone, and again as process 0 has written it."""
    own = directory if collectives.is_first() else Path(tempfile.mkdtemp()) / "nothing"
    changes = {"train.batch_size": 12, "train.precision": "float32", "train.head_epochs": 2}
    network, path = normless(), own / "head.safetensors"
    before = network.second.weight.clone()
    head.train(network, ["fc"], images(90), recipe=tiny.tiny_recipe(changes), path=path, progress=Silent())
    again = normless()
    head.restore(again, ["fc"], path)
    return {
        "weights": network.fc.weight.flatten().tolist(),
        "again": again.fc.weight.flatten().tolist(),
        "rest": torch.equal(network.second.weight, before),
        "wrote": path.exists(),
    }


def search(directory: Path) -> dict[str, Any]:
    """A whole search with batch norm and dropout, then the finetune; what each process has in the end."""
    from jstc.finetune import finetune

    changes = {"search.rounds": 3, "search.coarse_share": 0.4, "search.steps_per_round": 2}
    changes |= {"finetune.epochs": 1, "finetune.teacher": "target", "checkpoint.every_steps": 1}
    own = directory if collectives.is_first() else Path(tempfile.mkdtemp()) / "nothing"
    run = tiny.tiny_search(own / "search", changes)
    run_again = tiny.tiny_search(own / "search", changes)
    target = tiny.tiny_network()
    arguments = {"recipe": run.recipe, "source": own / "search", "directory": own / "finetune"}
    channels = analyse(target, torch.zeros(1, 2, 8, 8))
    finetune(target, channels, tiny.tiny_dataset(), progress=Silent(), **arguments)
    return {
        "plan": run.plan.hash,
        "again": run_again.plan.hash,
        "target": collectives.fingerprint([*run.target.parameters(), *run.target.buffers()]),
        "wrote": own.exists(),
    }


def joint_search(directory: Path) -> dict[str, Any]:
    """A `JointSearch` whose processes begin with other weights and see other batches; only one has scores."""
    own = directory if collectives.is_first() else Path(tempfile.mkdtemp()) / "nothing"
    rank, given = collectives.rank(), images(48, seed=collectives.rank()).train_full
    batches = [(pixels.float() / 255, labels) for pixels, labels in given.ordered(8)]
    with seeds.seeded(rank, "weights"):
        network = Normless()
    search = jstc.JointSearch(
        network, torch.zeros(1, 2, 6, 6), flops=0.5, rounds=2, out=own, trained=True, batches=batches,
        loss=lambda net, batch: cross_entropy(net(batch[0]), batch[1]), progress=False,
        settings={"search.candidates": 4},
    )  # fmt: skip
    found: dict[str, Any] = {"plans": [], "asked": [], "refused": []}
    while not search.done:
        round_ = search.ask()
        found["plans"].append(round_.plan.hash)
        found["asked"].append(collectives.fingerprint(round_.network.parameters()))
        broken = copy.deepcopy(round_.network)
        if rank:  # refused by one of them
            broken.fc.bias.data.fill_(torch.nan)
        try:
            search.tell(round_, 1.0, network=broken)
        except JstcError as error:
            found["refused"].append(str(error))
        search.tell(round_, None if rank else 1.0)
    for round_ in search.finalists():
        if rank:  # as where each estimates statistics of its own
            round_.network.fc.bias.data.add_(1.0)
        search.tell(round_, None if rank else 1.0)
    slim = search.finish()
    return found | {"slim": collectives.fingerprint(slim.network.parameters()), "score": slim.score}


def finetuned_accuracy(directory: Path) -> dict[str, float]:
    """Accuracy of the network that `search` finetuned: as it was written, and as one process finds it."""
    from jstc.plan import Plan

    plan = Plan.load(directory / "search" / "plan.json")
    saved = handover.load_subnetwork(directory / "finetune" / "subnetwork.safetensors", plan=plan)
    target = tiny.tiny_network()
    channels = analyse(target, torch.zeros(1, 2, 8, 8))
    gated = channels.gated(channels.slice(target, plan), plan)
    saved.restore(gated)
    found = evaluate(gated, tiny.tiny_dataset().test.ordered(16), Numerics(channels_last=True))
    written = json.loads((directory / "finetune" / "result.json").read_text())
    return {"alone": found.accuracy, "written": written["accuracy"]}


def talk() -> dict[str, Any]:
    """What the processes tell each other."""
    mine = torch.full((3,), float(collectives.rank()))
    strided = torch.full((2, 3), collectives.rank(), dtype=torch.int64).t()
    collectives.copy_from_first([mine, strided])
    loaded = collectives.from_first(lambda: ({"a": torch.arange(3.0), "b": torch.ones(())}, {"x": 1}))
    return {
        "decided": collectives.decided(lambda: {"rank": collectives.rank()}),
        "sums": collectives.sums([0.1, 1.0 + collectives.rank()]),
        "copied": [mine.tolist(), strided.tolist()],
        "loaded": [{name: tensor.tolist() for name, tensor in loaded[0].items()}, loaded[1]],
        "nothing": collectives.from_first(lambda: None),
        "part": list(collectives.part()),
        "seed": list(collectives.own_seed()),
    }


def _complaint(function: Callable[[], object]) -> str | None:
    try:
        function()
    except StageError as error:
        return str(error)
    return None


def differences() -> dict[str, str | None]:
    """The complaint when the processes are not the same, or process 0 cannot do something."""
    network = normless()

    def fail() -> None:
        raise StageError("no such file")

    same = _complaint(lambda: collectives.require_equal(network.state_dict(), "the network"))
    with torch.no_grad():
        network.fc.weight[0, 0] += 1e-6 * collectives.rank()
    return {
        "same": same,
        "other": _complaint(lambda: collectives.require_equal(network.state_dict(), "the network")),
        "decided": _complaint(lambda: collectives.decided(fail)),
        "plan": _complaint(lambda: collectives.require_same(f"plan {collectives.rank()}", "the plan")),
    }


CHECKS = {
    "talk": talk,
    "differences": differences,
    "even": lambda: steps(60, 12),
    "uneven": lambda: steps(7, 16),
    "accumulated": lambda: steps(60, 12, accumulate=3, clip_norm=0.5),
    "evaluation": evaluation,
    "gated_round": gated_round,
    "taught_round": taught_round,
    "new_head": lambda: new_head(Path(sys.argv[1]) / "head"),
    "search": lambda: search(Path(sys.argv[1]) / "run"),
    "widths": lambda: widths(Path(sys.argv[1]) / "widths"),
    "joint_search": lambda: joint_search(Path(sys.argv[1]) / "joint"),
    "mended": lambda: mended(Path(sys.argv[1]) / "mended"),
    "few": lambda: [judged_on_few(images) for images in range(1, 7)],
}


def _outcome(check: Callable[[], object]) -> dict[str, Any]:
    try:
        return {"found": check()}
    except Exception:
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    process_group.join(CPU)
    with collectives.together():
        outcomes = {name: _outcome(check) for name, check in CHECKS.items()}
    process_group.leave()
    (Path(sys.argv[1]) / f"{processes.rank()}.json").write_text(json.dumps(outcomes))
