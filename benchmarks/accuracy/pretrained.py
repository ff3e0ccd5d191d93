"""The trained target network that pruning rivals start from: trained once a seed, paid for by each."""

from __future__ import annotations

import hashlib
import json

import filelock
from safetensors.torch import load_file
from torch import nn

from benchmarks.accuracy.settings import CASES
from benchmarks.accuracy.work import Work
from jstc.core import files
from jstc.train import checkpoint

__all__ = ["pretrained"]

_PHASE = "pretraining"


def pretrained(work: Work) -> nn.Module:
    """The target network after the share `pretrain` of all training, on all training images.

    Whoever comes first trains it and leaves it in the cache with what it cost; all the others are charged
    the same cost and the same seconds.
    """
    path = work.cache / f"pretrained-{_hash(work)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    network = work.target()
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            _train(network, work)
            wall, cpu = work.clock.wall[_PHASE], work.clock.cpu[_PHASE]
            figures = {"cost": work.ledger.spent[_PHASE], "wall": wall, "cpu": cpu}
            files.write_json(path.with_suffix(".json"), figures)
            checkpoint.save(path, network.state_dict(), {})
            return network
    network.load_state_dict(load_file(path))
    figures = files.read_json(path.with_suffix(".json"))
    work.ledger.pay(_PHASE, figures["cost"])
    work.clock.add(_PHASE, wall=figures["wall"], cpu=figures["cpu"])
    return network


def _train(network: nn.Module, work: Work) -> None:
    flops = work.channels.cost().flops
    steps = work.ledger.steps(flops, work.batch, share=work.job.settings.pretrain)
    split = work.dataset.train_full
    work.train(network, split=split, steps=steps, phase=_PHASE, name=_PHASE, flops=flops)


def _hash(work: Work) -> str:
    settings = work.job.settings
    named = (settings.images, settings.epochs, settings.pretrain, settings.data_seed)
    sections = {"model", "cifar", "seed", "train", "input", "device"}
    recipe = work.recipe.model_dump(mode="json", include=sections)
    text = json.dumps([CASES[work.job.case].data, named, recipe], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
