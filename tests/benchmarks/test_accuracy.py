"""Accuracy at equal training: what is spent, which results belong together, and the real thing in small."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy import data as accuracy_data
from benchmarks.accuracy import fixed as accuracy_fixed
from benchmarks.accuracy import jst as accuracy_jst
from benchmarks.accuracy import work as accuracy_work
from benchmarks.accuracy.ledger import CountedSplit, Ledger
from benchmarks.accuracy.settings import CASES, METHODS, Job, Settings
from benchmarks.accuracy.work import Work, initialise
from jstc import finetune as training
from jstc.errors import InputError, RecipeError, StageError
from jstc.finetune import finetune
from jstc.jst.joint import search
from jstc.recipe.schema import GIVEN_WEIGHTS
from jstc.train import schedule as schedules
from jstc.train.fit import fit
from jstc.train.recalibration import recalibrate_trained
from tests.helpers.tiny_search import spaces_of

SMALL = Settings(images=200, epochs=1.5, batch=32, test_images=60, device="cpu")
SEARCH = (
    "search.rounds=3",
    "search.coarse_share=0.34",
    "search.steps_per_round=2",
    "search.recalibration_images=32",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("accuracy")


@pytest.fixture
def work(out, tmp_path):
    def make(method, settings=SMALL, overrides=SEARCH):
        job = Job("digits-50", method, 0, settings, overrides)
        dataset = accuracy_data.load(job, root=None, out=out, where=torch.device("cpu"))
        return Work.of(job, dataset, where=torch.device("cpu"), directory=tmp_path / method, cache=tmp_path)

    return make


# -- the rule ------------------------------------------------------------------------------------------------


def test_the_ledger_pays_up_to_the_total_and_not_above():
    ledger = Ledger(epoch=1000, epochs=2.0)
    ledger.pay("search", 1500)
    assert ledger.left == 500 and ledger.steps(flops=10, batch=8) == 6
    with pytest.raises(StageError, match=r"train costs 0\.600 epochs' worth; of 2 there are 0\.500 left"):
        ledger.pay("train", 600)
    assert ledger.to_dict()["epochs"] == {"allowed": 2.0, "spent": 1.5, "search": 1.5}


def test_a_share_of_all_is_not_a_share_of_what_is_left():
    ledger = Ledger(epoch=1000, epochs=2.0)
    ledger.pay("search", 1000)
    assert ledger.steps(flops=10, batch=10, share=0.25) == 5
    with pytest.raises(StageError, match="less than one step"):
        ledger.steps(flops=10, batch=10, share=0.01)


@pytest.mark.parametrize("method", ["uniform", "target"])
def test_a_fixed_network_spends_all_but_less_than_a_step(work, method):
    job = work(method, dataclasses.replace(SMALL, epochs=0.5))
    outcome = getattr(accuracy_fixed, method)(job)
    step = job.batch * outcome.flops
    assert job.ledger.total - step < sum(job.ledger.spent.values()) <= job.ledger.total
    assert 0 <= outcome.accuracy <= 1 and outcome.search_val_accuracy is None
    if method == "uniform":
        assert 0.9 * job.limit < outcome.flops <= job.limit


@pytest.mark.parametrize(("method", "gates"), [("jst", 0), ("jst-learned", 1)])
def test_joint_training_spends_what_its_history_says_and_no_more_than_all(work, method, gates, monkeypatch):
    job = work(method)
    seen = _trained_images(job)
    # The statistics of batch norms afterwards: images that are looked at, and nothing is trained on.
    recalibrate, looked_at = recalibrate_trained, []
    monkeypatch.setattr(training, "recalibrate_trained", lambda *given: looked_at.append(recalibrate(*given)))
    outcome = accuracy_jst.jst(job)
    spent = job.ledger.spent
    assert set(spent) == {"search", "finetune"} and 0.9 < sum(spent.values()) / job.ledger.total <= 1
    assert spent["search"] <= accuracy_jst.most_searched(job, job.recipe)
    # Every image that any training took: rounds of 2 steps on weights (and one on gates), then finetune.
    rounds = seen["train"] / (2 * 32)
    assert rounds == (1 if gates else 3)  # the gates' steps are at the cost of rounds
    assert seen["search_val"] == rounds * gates * 32
    assert seen["train_full"] - sum(looked_at) == spent["finetune"] / outcome.flops
    assert outcome.flops <= job.limit and job.judging(job.limit)["images"] > 0


def test_a_search_from_the_trained_target_pays_for_its_training(work, monkeypatch):
    began = []

    def watched(network, *args, **options):
        began.append(network.state_dict()["conv1.weight"].clone())
        return search(network, *args, **options)

    def finetuned(network, *args, **options):
        began.append(network.state_dict()["conv1.weight"].clone())
        return finetune(network, *args, **options)

    monkeypatch.setattr(accuracy_jst, "search", watched)
    monkeypatch.setattr(accuracy_jst, "finetune", finetuned)
    few = ("search.importance_images=32", "search.reconstruction_images=32", "search.candidates=8")
    job = work("jst-given", overrides=(*SEARCH, *few, "search.candidate_images=32"))
    outcome = accuracy_jst.given(job)
    spent, half = job.ledger.spent, job.ledger.total / 2
    assert set(spent) == {"pretraining", "search", "ranking", "finetune"}
    assert spent["ranking"] == 32 * job.channels.cost().flops
    assert 0.8 * half < spent["pretraining"] <= half  # one step of the target network is a tenth of it
    assert spent["search"] <= accuracy_jst.most_searched(job, job.job.plain.recipe) / 2
    assert 0.9 < sum(spent.values()) / job.ledger.total <= 1 and outcome.flops <= job.limit
    assert not torch.equal(began[0], job.target().conv1.weight)
    assert torch.equal(began[0], began[1])  # it may teach what the search has cut from it
    assert job.dataset.train.judged % 32 == 0 and job.dataset.train.judged > 0


def _trained_images(job):
    seen = {}
    for name in ("train", "search_val", "train_full"):
        split = getattr(job.dataset, name)
        seen[name] = 0
        object.__setattr__(job.dataset, name, _Watched(split, seen, name))
    return seen


class _Watched(CountedSplit):
    def __init__(self, split, seen, name):
        super().__init__(split)
        self.seen, self.name = seen, name

    def shuffled(self, *given, **options):
        for images, labels in self._split.shuffled(*given, **options):
            self.seen[self.name] += len(labels)
            yield images, labels


def test_a_teacher_shortens_finetune(work):
    plain, taught = (accuracy_jst.fitted(work(method)) for method in ("jst", "jst-teacher"))
    steps = [r.finetune.epochs * r.finetune.steps_per_epoch for r in (plain, taught)]
    # At half of the target's FLOPs, a third of the target on top: 5/3 of the cost.
    assert steps[1] / steps[0] == pytest.approx(3 / 5, abs=0.08)


@pytest.mark.parametrize(("method", "rounds"), [("jst-narrow", 2), ("jst-fine", 2), ("jst-random", 3)])
def test_an_ablation_whose_rounds_cost_more_has_fewer_of_them(work, method, rounds):
    """Of jst's three rounds, two at 0.4 of the budget: 1.8 rounds' worth at the budget."""
    plain, other = work("jst"), work(method)
    recipe = accuracy_jst.fitted(other)
    assert recipe.search.rounds == rounds
    assert accuracy_jst.most_searched(other, recipe) <= accuracy_jst.most_searched(plain, plain.recipe)


@pytest.mark.parametrize("method", ["jst", "jst-narrow", "jst-teacher"])
def test_the_variants_of_a_long_jst_begin_at_the_budget_as_it_does(work, method, monkeypatch):
    job = work(method)
    begun = [accuracy_jst.fitted(job).search]
    monkeypatch.setattr(schedules, "_SHORT", 7 * job.batch)
    begun.append(accuracy_jst.fitted(job).search)
    first = 1.0 if method == "jst-narrow" else spaces_of(job.channels, job.recipe)[0].coarse
    assert [search.coarse_budget for search in begun] == [first, 1.0] and first > 0.3
    assert begun[1].rounds == 3  # all cost the same, so none has fewer than jst


def test_a_run_that_is_long_only_when_begun_small_costs_no_more_than_there_is(work, monkeypatch):
    """Begun at the budget it has fewer steps, which are no reason for the search to begin small after all."""
    job, begun = work("jst"), work("jst", overrides=(*SEARCH, "search.coarse_budget=1"))
    most, least = (schedules.total_steps(accuracy_jst.fitted(each), job.dataset) for each in (job, begun))
    assert least < most
    monkeypatch.setattr(schedules, "_SHORT", most * job.batch)
    outcome = accuracy_jst.jst(job)  # raised StageError for what finetune would have cost
    assert sum(job.ledger.spent.values()) <= job.ledger.total and outcome.flops <= job.limit


def test_a_search_whose_rounds_go_by_the_length_of_the_run_is_sized_once(work, monkeypatch):
    """What is left for finetune decides anew whether a run is long, and so how long its rounds would be."""
    job = work("jst", overrides=("search.rounds=3", "search.coarse_budget=1"))
    long = schedules.total_steps(job.recipe, job.dataset) * job.batch
    monkeypatch.setattr(schedules, "_SHORT", long // 2)
    recipe = accuracy_jst.fitted(job)
    assert not schedules.is_long(recipe, job.dataset)
    assert recipe.search.steps_per_round == schedules.steps_per_round(job.recipe, job.dataset)


@pytest.mark.parametrize("method", ["jst", "jst-narrow"])
def test_the_share_of_the_search_sets_the_steps_of_its_rounds(work, method):
    job = work(method, dataclasses.replace(SMALL, epochs=6, search_share=0.6))
    recipe = accuracy_jst.fitted(job)
    cost, total = accuracy_jst.most_searched(job, recipe), job.ledger.total
    assert recipe.search.steps_per_round > 2 == work(method).recipe.search.steps_per_round
    assert cost <= 0.6 * total
    if method == "jst":
        more = recipe.search.model_copy(update={"steps_per_round": recipe.search.steps_per_round + 1})
        assert accuracy_jst.most_searched(job, recipe.model_copy(update={"search": more})) > 0.6 * total


def test_too_small_a_share_for_the_search_is_refused(work):
    with pytest.raises(StageError, match=r"3 rounds of 1 steps cost .* raise --search-share"):
        accuracy_jst.fitted(work("jst", dataclasses.replace(SMALL, search_share=0.01)))


def test_a_search_that_costs_all_the_training_is_refused(work):
    with pytest.raises(StageError, match=r"3 rounds of search cost .* lower search\.rounds"):
        accuracy_jst.fitted(work("jst", dataclasses.replace(SMALL, epochs=0.3)))


def test_candidates_are_judged_on_the_search_validation_split(work):
    settings = dataclasses.replace(SMALL, candidates=2, candidates_share=0.5)
    job = work("random", settings)
    outcome = accuracy_fixed.random(job)
    assert len(outcome.extra["candidates"]) == 2
    assert outcome.search_val_accuracy == max(outcome.extra["candidates"])
    assert job.ledger.spent["search"] <= 0.5 * job.ledger.total
    assert job.dataset.search_val.judged == 2 * job.dataset.search_val.num_images


def test_settings_of_the_training_reach_the_fixed_networks(work, monkeypatch):
    """As they reach jst: the same schedule and the same mixing of images."""
    seen = []
    monkeypatch.setattr(accuracy_work, "fit", lambda job, **options: seen.append(job) or fit(job, **options))
    overrides = ("train.schedule=step", "train.mixup=0.2", "input.random_erasing=0.5")
    job = work("uniform", dataclasses.replace(SMALL, epochs=0.5), overrides)
    accuracy_fixed.uniform(job)
    [training] = seen
    assert training.schedule.milestones == (0.5, 0.75)
    assert training.settings.mixup == 0.2
    assert training.split.augmentation.policy is not None


# -- the data and the networks -------------------------------------------------------------------------------


def test_all_methods_and_seeds_have_the_same_images(out):
    def load(method, seed):
        job = Job("digits-50", method, seed, SMALL)
        return accuracy_data.load(job, root=None, out=out, where=torch.device("cpu"))

    one, other = load("jst", 0), load("uniform", 3)
    assert one.train_full.num_images == 200 and one.search_val.num_images == 40 and one.test.num_images == 60
    for name in ("train", "search_val", "test"):
        batches = (torch.cat([b for b, _ in getattr(each, name).ordered(64)]) for each in (one, other))
        assert torch.equal(*batches)
    assert torch.bincount(one.train_full.labels, minlength=10).min() >= 19  # stratified


def test_new_weights_are_drawn_like_those_of_the_models(work):
    job = work("uniform")
    built, again = job.target(), job.target()
    initialise(again, seed=1)
    for (name, one), (_, other) in zip(built.named_parameters(), again.named_parameters(), strict=True):
        if one.dim() > 1:
            assert not torch.equal(one, other), name
            assert other.std().item() == pytest.approx(one.std().item(), rel=0.25), name
        else:
            assert torch.equal(one, other), name


# -- jobs and their results ----------------------------------------------------------------------------------


def test_results_of_other_settings_have_other_names():
    def name(method, settings=SMALL, overrides=()):
        return Job("digits-50", method, 0, settings, overrides).name

    assert name("jst") == name("jst")
    assert name("jst") != name("jst", dataclasses.replace(SMALL, epochs=2.0))
    assert name("jst") != name("jst", overrides=("search.rounds=5",))
    assert name("uniform") == name("uniform", overrides=("search.rounds=5",))
    assert name("uniform") != name("uniform", overrides=("train.momentum=0.8",))
    assert name("uniform") == name("uniform", dataclasses.replace(SMALL, pretrain=0.3))
    assert name("tp-l2") != name("tp-l2", dataclasses.replace(SMALL, pretrain=0.3))


@pytest.mark.parametrize("method", METHODS)
def test_the_overrides_of_every_method_are_recipe_keys(method):
    job = Job("resnet20-50", method, 1, overrides=("train.lr=0.2", "search.rounds=7"))
    assert job.recipe.train.lr == 0.2 and job.recipe.seed == 1
    assert (job.recipe.search.rounds == 7) == (job.searches and not job.cuts)
    assert Job.from_dict(job.to_dict()) == job


def test_the_defaults_of_given_weights_may_be_changed():
    given = Job("resnet20-50", "jst-given", 0)
    search = given.recipe.search
    assert all(getattr(search, key) == value for key, value in GIVEN_WEIGHTS.items())
    other = dataclasses.replace(given, overrides=("search.recency_bonus=12",))
    assert other.recipe.search.recency_bonus == 12 and other.recipe.search.candidates == 160
    lean = dataclasses.replace(given, overrides=("search.method=lean", "search.perturbation=true"))
    assert lean.recipe.search.importance == "taylor" and lean.recipe.search.sigma == (0.1, 0.1)
    assert other.hash != given.hash


def test_a_mistake_is_said_before_any_training():
    with pytest.raises(InputError, match="'jts' is not one of"):
        Job("resnet20-50", "jts", 0)
    with pytest.raises(RecipeError, match="did you mean"):
        _ = Job("resnet20-50", "jst", 0, overrides=("search.round=7",)).recipe


def test_the_first_seed_of_all_methods_comes_first():
    jobs = accuracy.jobs_of(["resnet20-50"], ["ablations"], [0, 1], Settings(), ())
    assert [job.seed for job in jobs] == [0] * (len(jobs) // 2) + [1] * (len(jobs) // 2)
    assert jobs[0].method == "jst" and set(CASES) >= {job.case for job in jobs}


def test_results_are_kept_and_failures_are_told(tmp_path: Path, capfd):
    options = ["--case", "digits-50", "--out", str(tmp_path), "--seeds", "0", "--images", "100"]
    options += ["--test-images", "20", "--batch", "32", "--epochs", "0.5", "--device", "cpu"]
    options += ["--set", "search.rounds=60", "--set", "search.coarse_budget=1"]
    table = tmp_path / "table.md"
    assert accuracy.main([*options, "--methods", "uniform,jst", "--table", str(table)]) == 1
    said = capfd.readouterr().out
    assert "uniform-s0" in said and "FAILED: jstc.errors.StageError: 60 rounds of search cost" in said
    assert "| uniform |" in table.read_text() and "| jst |" not in table.read_text()
    (result,) = (tmp_path / "results").rglob("*.json")
    written = result.stat().st_mtime_ns
    assert accuracy.main([*options, "--methods", "uniform"]) == 0
    assert result.stat().st_mtime_ns == written and "FAILED" not in capfd.readouterr().out
