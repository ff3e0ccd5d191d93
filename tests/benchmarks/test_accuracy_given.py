"""From given weights: what is cut, mended and tested, and that nobody pays for the weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.accuracy import cut as accuracy_cut
from benchmarks.accuracy import data as accuracy_data
from benchmarks.accuracy import pretrained as accuracy_pretrained
from benchmarks.accuracy import ranking as accuracy_ranking
from benchmarks.accuracy.settings import CASES, Job, Settings
from benchmarks.accuracy.work import Work
from jstc import models
from jstc.channels import analyse
from jstc.errors import InputError
from jstc.train import metrics

SMALL = Settings(
    images=200, batch=32, test_images=60, device="cpu", given_epochs=1.0, finetune="0,0.5", lr=0.05
)


@pytest.fixture
def work(tmp_path):
    def make(method, settings=SMALL, overrides=("search.candidates=8",), seed=0):
        job = Job("digits-50", method, seed, settings, overrides)
        dataset = accuracy_data.load(job, root=None, out=tmp_path, where=torch.device("cpu"))
        directory = tmp_path / f"{method}-{seed}"
        return Work.of(job, dataset, where=torch.device("cpu"), directory=directory, cache=tmp_path / "cache")

    return make


@pytest.mark.parametrize("method", ["cut-jst", "cut-even"])
def test_what_is_cut_is_mended_and_tested_after_each_length(work, method):
    job = work(method)
    outcome = accuracy_cut.cut(job)
    assert list(outcome.extra["after"]) == ["0", "0.5"] and outcome.accuracy == outcome.extra["after"]["0.5"]
    assert outcome.extra["search"]["reconstruction"]["explained"] and outcome.flops <= job.limit
    steps = [len(metrics.History(job.directory / f"finetune-{n}" / "history.jsonl", index="epoch").read())
             for n in ("0", "0.5")]  # fmt: skip
    assert steps == [0, 1]
    assert job.ledger.spent == {"finetune": 3 * 32 * outcome.flops}  # half of the six whole batches


def test_the_even_plan_keeps_one_share_of_the_best_channels(work):
    job = work("cut-even", overrides=("channels.round_to=1",))
    outcome = accuracy_cut.cut(job)
    widths = job.channels.widths
    shares = [count / widths[name] for name, count in outcome.extra["counts"].items()]
    assert max(shares) - min(shares) < 0.15
    assert min(shares) > 0.55


def test_nobody_pays_for_given_weights_and_all_have_the_same(work, tmp_path):
    one, other = work("cut-jst"), work("cut-even")
    networks = [accuracy_pretrained.given(job) for job in (one, other)]
    assert one.ledger.spent == other.ledger.spent == {} and one.clock.wall == {}
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(t, states[1][name]) for name, t in states[0].items())
    file = tmp_path / "weights.safetensors"
    save_file({name: t.contiguous() for name, t in states[0].items()}, file)
    named = work("cut-jst", dataclasses.replace(SMALL, weights=str(file)), seed=5)
    read = accuracy_pretrained.given(named).state_dict()
    assert all(torch.equal(t, states[0][name]) for name, t in read.items())
    assert str(file) not in str(named.job.identity) and named.job.hash != one.job.hash


def test_the_same_finetune_for_all(work):
    overrides = ("finetune.teacher=target", "search.eval_images=9", "train.momentum=0.8")
    recipes = [work(method, overrides=overrides).recipe for method in ("cut-jst", "cut-even", "cut-tp-l2")]
    assert len({recipe.finetune.model_dump_json() for recipe in recipes}) == 1
    assert len({recipe.train.model_dump_json() for recipe in recipes}) == 1
    assert [recipe.search.eval_images == 9 for recipe in recipes] == [True, False, False]


@pytest.mark.parametrize("text", ["", "a,1", "-1", "inf"])
def test_lengths_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="--finetune"):
        _ = Job("digits-50", "cut-jst", 0, dataclasses.replace(SMALL, finetune=text)).hash


def test_weights_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="no such file"):
        _ = Job("digits-50", "cut-jst", 0, dataclasses.replace(SMALL, weights="nowhere.pt")).hash


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if ":" in case.model])
def test_the_networks_of_the_cases_can_be_cut(case):
    size = 16 if "mobilenet" in case else 32
    spec = models.spec(CASES[case].model, num_classes=10, in_channels=3, height=size, width=size)
    network = models.build(spec, seed=0)
    channels = analyse(network, torch.zeros(1, *spec.input_shape))
    half = channels.uniform_plan(flops=CASES[case].flops)
    small = channels.slice(network, half)
    assert small(torch.zeros(2, *spec.input_shape)).shape == (2, 10)
    assert np.isclose(channels.cost(half).flops / channels.cost().flops, CASES[case].flops, rtol=0.05)
    if "mobilenet" in case:  # no subsampling before the third stage
        seen = []
        network.features[3].register_forward_hook(lambda *each: seen.append(each[2].shape[-1]))
        network(torch.zeros(2, 3, 16, 16))
        assert seen == [16]


# -- which rewards rank plans --------------------------------------------------------------------------------


def test_rewards_are_noted_once_and_correlated_with_what_training_makes(tmp_path, capsys, monkeypatch):
    options = ["--case", "digits-50", "--out", str(tmp_path), "--images", "100", "--test-images", "40"]
    options += ["--batch", "32", "--lengths", "0.5", "--plans", "3", "--set", "device=cpu"]
    assert accuracy_ranking.main(options) == 0
    (path,) = (tmp_path / "ranking").glob("*.jsonl")
    lines = path.read_text().splitlines()
    assert len(lines) == 6 and "| reconstructed | " in capsys.readouterr().out
    path.write_text("\n".join(lines[:5]) + '\n{"plan": "taper')  # cut off while it was written
    judged = []
    monkeypatch.setattr(accuracy_ranking.Study, "judge", lambda *each: judged.append(each))
    assert accuracy_ranking.main(options) == 0
    again = path.read_text().splitlines()
    assert not judged and again[:5] == lines[:5] and again[-1] == lines[5]


def test_random_plans_come_in_two_kinds_of_which_one_is_smooth_along_the_depth():
    drawn = dict(accuracy_ranking.offsets(20, 27, seed=1))
    assert list(drawn)[:2] == ["even", "taper -1"] and len(drawn) == 27
    jumps = {kind: np.mean([np.abs(np.diff(o)).mean() for n, o in drawn.items() if n.startswith(kind)])
             for kind in ("smooth", "independent")}  # fmt: skip
    assert jumps["smooth"] < 0.3 * jumps["independent"]


def test_equal_values_share_their_rank():
    assert accuracy_ranking.spearman(np.array([1.0, 2, 2, 9]), np.array([1.0, 2, 2, 3])) == pytest.approx(1)
    found = accuracy_ranking.spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 2]))
    assert found == pytest.approx(-(3**0.5) / 2)


def test_the_table_of_rewards_takes_plans_that_have_been_trained():
    def lines(plan, loss, accuracy):
        rewards = {"recalibrated": {"loss": loss}, "reconstructed": {"loss": 5.0 - loss}}
        return [
            {"plan": plan, "what": "rewards", "rewards": rewards, "params": 10 * loss},
            {"plan": plan, "what": "after 1", "accuracy": accuracy},
        ]

    known = [*lines("a", 1.0, 0.9), *lines("b", 2.0, 0.8), *lines("c", 3.0, 0.7), *lines("d", 0.5, 0.1)[:1]]
    text = "\n".join(accuracy_ranking.correlations(known))
    assert "| recalibrated | 1.00 (3) |" in text and "| reconstructed | -1.00 (3) |" in text
    assert "| fewer parameters | 1.00 (3) |" in text and "| sum of the first two | nan (3) |" in text
