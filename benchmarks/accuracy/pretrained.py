"""The trained target network that pruning rivals start from: trained once a seed, and paid for by each.

Or given: trained once a seed or read from a file, and paid for by nobody.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import filelock
from safetensors.torch import load_file
from torch import nn

from benchmarks.accuracy.ledger import Clock, Ledger
from benchmarks.accuracy.settings import CASES
from benchmarks.accuracy.work import Work
from jstc import models
from jstc.core import files
from jstc.train import checkpoint

__all__ = ["given", "pretrained"]

_PHASE = "pretraining"


def pretrained(work: Work) -> nn.Module:
    """The target network after the share `pretrain` of all training, on all training images.

    Whoever comes first trains it and leaves it in the cache with what it cost; all the others are charged
    the same cost and the same seconds.
    """
    settings = work.job.settings
    path, network = _path(work, settings.epochs, settings.pretrain), work.target()
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            _train(network, work, share=settings.pretrain)
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


def given(work: Work) -> nn.Module:
    """The target network with the weights of the file `weights`, or after `given_epochs` of training.

    Whoever comes first trains it and leaves it in the cache; nobody is charged.
    """
    settings, network = work.job.settings, work.target()
    if settings.weights:
        models.load_weights(network, Path(settings.weights), spec=work.spec)
        return work.place(network)
    path = _path(work, settings.given_epochs, 1.0)
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            own = Ledger(work.ledger.epoch, settings.given_epochs)
            _train(network, replace(work, ledger=own, clock=Clock()), share=1.0)
            checkpoint.save(path, network.state_dict(), {})
            return network
    network.load_state_dict(load_file(path))
    return network


def _train(network: nn.Module, work: Work, *, share: float) -> None:
    flops = work.channels.cost().flops
    steps = work.ledger.steps(flops, work.batch, share=share)
    split = work.dataset.train_full
    work.train(network, split=split, steps=steps, phase=_PHASE, name=_PHASE, flops=flops)


def _path(work: Work, epochs: float, share: float) -> Path:
    settings = work.job.settings
    named = (settings.images, epochs, share, settings.data_seed)
    sections = {"model", "cifar", "seed", "train", "input", "device"}
    recipe = work.recipe.model_dump(mode="json", include=sections)
    text = json.dumps([CASES[work.job.case].data, named, recipe], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:10]
    path = work.cache / f"pretrained-{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
