"""Recipes: what is accepted, what is refused and how, and that nothing is lost on the way to a file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jstc.errors import RecipeError
from jstc.recipe import loading
from jstc.recipe.explain import RENAMED, SYNONYMS, meant
from jstc.recipe.schema import GroupSettings, Recipe
from jstc.recipe.sections import Section
from jstc.recipe.yaml_reader import parse, scalar

BASE = "model: m\ndataset: d\nflops: 0.5\n"
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "r.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path, overrides=(), flags=None) -> str:
    with pytest.raises(RecipeError) as caught:
        loading.load(path, overrides, flags)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_names_only_values_a_reader_can_see(path):
    recipe = loading.load(path)
    assert all(float(amount) > 0 for amount in recipe.budget.values()) and recipe.budget
    assert loading.load(path, ["seed=7"]).seed == 7


def test_the_quickstart_is_there():
    recipe = loading.load(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
    assert (recipe.model, recipe.dataset, recipe.baseline) == ("resnet20", "digits", True)


WRONG = {
    "text for a number": (
        "train:\n  batch_size: two\n",
        'FILE, line 5: train.batch_size: expected a whole number above 0, got "two"',
    ),
    "out of range": ("seed: -1\n", "FILE, line 4: seed: expected a whole number at least 0, got -1"),
    "a boolean is no number": (
        "seed: true\n",
        "FILE, line 4: seed: expected a whole number at least 0, got true",
    ),
    "a share of a number": (
        "threads: 1.5\n",
        "FILE, line 4: threads: expected a whole number at least 0, got 1.5",
    ),
    "a number for a word": (
        "input:\n  augment: 1\n",
        "FILE, line 5: input.augment: expected true or false, got 1",
    ),
    "infinity": ("train: {lr: .inf}\n", 'FILE, line 4: train.lr: expected a number above 0, got ".inf"'),
    "not one of the words": (
        "device: gpu\n",
        'FILE, line 4: device: expected auto or cpu or cuda, got "gpu"',
    ),
    "a union": (
        "channels:\n\n  round_to: x\n",
        'FILE, line 6: channels.round_to: expected a whole number above 0, or auto, got "x"',
    ),
    "a path": ("weights: 3\n", "FILE, line 4: weights: expected a path, or text, or null, got 3"),
    "a short pair": (
        "search:\n  sigma: [1]\n",
        "FILE, line 5: search.sigma: expected a list of 2, each a number at least 0, got [1]",
    ),
    "inside a list": (
        "search:\n  tau: [1,\n    a]\n",
        'FILE, line 6: search.tau.1: expected a number above 0, got "a"',
    ),
    "a temperature of zero": (
        "search:\n  tau: [1, 0]\n",
        "FILE, line 5: search.tau.1: expected a number above 0, got 0",
    ),
    "a key that is gone": (
        "search: {threshold_grid: [0.5, 0.7]}\n",
        "FILE, line 4: unknown key search.threshold_grid; did you mean search.thresholds?",
    ),
    "another method": (
        "search: {method: learn}\n",
        'FILE, line 4: search.method: expected joint or lean, got "learn"',
    ),
    "no section": ("train: 3\n", "FILE, line 4: train: expected a section with keys of its own, got 3"),
    "misspelt": ("modle: m\n", "FILE, line 4: unknown key modle; did you mean model?"),
    "misspelt inside": (
        "train:\n  lr: 1\n  batchsize: 3\n",
        "FILE, line 6: unknown key train.batchsize; did you mean train.batch_size?",
    ),
    "in the wrong section": ("lr: 0.1\n", "FILE, line 4: unknown key lr; did you mean train.lr?"),
    "twice": ("model: k\n", "FILE, line 4: model is given twice (first on line 1)"),
    "nothing near": (
        "search:\n  wheel: 3\n",
        "FILE, line 5: unknown key search.wheel; known here: method, rounds, epochs_per_round, "
        "steps_per_round, perturbation, thresholds, fixed_thresholds, importance, importance_images, "
        "coarse_to_fine, coarse_share, coarse_budget, sigma, noise_period, recency_bonus, tau, "
        "residual_threshold_offset, gate_lr, gate_steps, candidates, candidate_images, threshnet_lr, "
        "archive_size, recalibration_images, eval_images, eval_every, "
        "reconstruction_images, compile, early_stop_overlap, early_stop_window",
    ),
    "a key of a group": (
        "channels:\n  groups:\n    layer4.*: {min_width: 8}\n    layer1:\n      min_widht: 4\n",
        "FILE, line 8: unknown key channels.groups.layer1.min_widht; "
        "did you mean channels.groups.layer1.min_width?",
    ),
    "a value of a group": (
        "channels:\n  groups:\n    layer4.*:\n      round_to: wide\n",
        "FILE, line 7: channels.groups.layer4.*.round_to: expected a whole number above 0, or auto, or null, "
        'got "wide"',
    ),
    "a group without keys": (
        "channels: {groups: {layer4: 8}}\n",
        "FILE, line 4: channels.groups.layer4: expected a section with keys of its own, got 8",
    ),
    "two lists of budgets": (
        "latency: [0.5, 0.4]\nparams: [1M, 2M]\n",
        "FILE: params and latency are lists: one of them can be, and the other bounds then hold for each of "
        "its budgets",
    ),
    "a tag": (
        "x: !!python/object:os.system 1\n",
        "FILE, line 4: the tag tag:yaml.org,2002:python/object:os.system is not allowed in a recipe",
    ),
    "not YAML": ("x: [1\n", "FILE, line 5: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    "two documents": (
        "---\nx: 1\n",
        "FILE, line 4: not valid YAML: expected a single document in the stream but found another document",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_named_with_its_line_and_what_would_be_right(write, text, message):
    assert refusal(write(BASE + text)) == message


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_key_of_an_earlier_version_is_refused_with_its_name_today(write, old, new):
    section, key = old.split(".")
    assert refusal(write(BASE + f"{section}:\n  {key}: 3\n")) == f"FILE, line 5: {old} is called {new} now"
    assert refusal(write(BASE), [f"{old}=3"]) == f"--set {old}: {old} is called {new} now"


NEAR = {
    # of the same section before one of that very name in another
    "export.precision": "export.precisions",
    "bench.batch_size": "bench.batch_sizes",
    # by what it is called elsewhere
    "train.learning_rate": "train.lr",
    "finetune.learning_rate": "train.lr",
    "train.batch": "train.batch_size",
    "input.size": "input.image_size",
    "gpu": "device",
    # by some of its words, or by more
    "search.epochs": "search.rounds or search.epochs_per_round",
    "latency_on.batch_size": "latency_on.batch or train.batch_size",
    "bench.batch": "bench.batch_sizes or train.batch_size or latency_on.batch",
    "input.num_workers": "input.workers",
    # in another section
    "finetune.lr": "train.lr",
    "epochs": "finetune.epochs or search.rounds",
    "wieght_decay": "train.weight_decay",
    "warmup": "train.warmup_epochs",
}


@pytest.mark.parametrize(("key", "near"), NEAR.items())
def test_near_keys_are_those_of_the_section_then_those_of_the_meaning(write, key, near):
    assert refusal(write(BASE), [f"{key}=3"]) == f"--set {key}: unknown key {key}; did you mean {near}?"


def test_what_other_tools_call_a_key_leads_to_keys_that_are_there():
    keys = {key for section in [Recipe, *_sections()] for key in _dotted(section)}
    assert set(SYNONYMS) <= keys
    assert not {word for words in SYNONYMS.values() for word in words} & set(Recipe.model_fields)


def _sections():
    fields = [field.annotation for field in Recipe.model_fields.values()]
    return [one for one in fields if isinstance(one, type) and issubclass(one, Section)]


def _dotted(section):
    names = {one.annotation: f"{key}." for key, one in Recipe.model_fields.items()}
    return [names.get(section, "") + key for key in section.model_fields]


@pytest.mark.parametrize(
    ("name", "keys"),
    [("flops", ["flops"]), ("lr", ["train.lr"]), ("image_size", ["input.image_size"]), ("wheel", [])],
)
def test_keys_that_a_name_without_a_section_stands_for(name, keys):
    assert meant(name) == keys


@pytest.mark.parametrize("new", RENAMED.values())
def test_todays_name_of_a_renamed_key_is_a_key(new):
    section, key = new.split(".")
    recipe = loading.from_flags({"model": "m", "dataset": "d", "flops": 0.5})
    assert key in getattr(recipe, section).model_dump()


def test_several_mistakes_are_all_named_in_the_order_of_the_file(write):
    lines = refusal(write("model: 1\nflops: 2x\ntrain:\n  lr: no\n  bach: 3\n")).splitlines()
    assert lines[0] == "FILE, line 1: model: expected text, got 1"
    assert "FILE: dataset is missing" in lines
    assert "FILE, line 2: flops: '2x' is not a share such as 0.5 or 50%, nor a count such as 500M" in lines
    assert len(lines) == 5


def test_what_is_not_a_recipe_at_all(write, tmp_path):
    assert refusal(write("- a\n")) == 'FILE: expected keys such as `model: resnet20`, got ["a"]'
    assert refusal(write("")) == "FILE: expected keys such as `model: resnet20`, got null"
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    assert refusal(tmp_path / "r.yaml") == "FILE is not text in UTF-8; a recipe is a YAML file"
    assert refusal(tmp_path).endswith("is a directory, not a recipe (a YAML file)")


def test_a_missing_file_names_its_neighbours(write, tmp_path):
    near = write(BASE)
    assert refusal(tmp_path / "rr.yaml") == f"no recipe at FILE; did you mean {near}?"
    assert refusal(tmp_path / "no" / "x.yaml") == "no recipe at FILE"
    assert refusal(tmp_path / "zz.yaml") == "no recipe at FILE"  # an ending alone makes no likeness


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [" + "1," * 60 + "]\nb: &b [" + "*a," * 60 + "]\nc: [" + "*b," * 60 + "]",
        "a: " + "[" * 5000 + "]" * 5000,
        "a: &a [*a]",
        "a: [" + "1," * 90_000 + "]",
        "a: " + "[1," * 60_000,
    ],
    ids=["aliases that multiply", "depth", "a loop", "length", "depth without an end"],
)
def test_hostile_yaml_is_refused_in_bounded_time(write, text):
    began = time.process_time()
    assert "levels deep" in refusal(write(BASE + text))
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        "flops: !!seq [0.5]", "flops: !mine [0.5]", "flops: ! [0.5]", "train: !!map {lr: 0.1}",
        "train: !!set {lr}", "train: !!omap [lr: 0.1]", "!!str seed: 1", "seed: !!int '1'",
        "seed: !!float 1", "seed: ! 1", "train: {lr: !!float 1}", "search: !!python/name:os.system",
        "%TAG !x! tag:x,2000:\n---\nseed: !x!y 1",
    ],
)  # fmt: skip
def test_tags_are_refused_wherever_they_stand(tmp_path, text):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"line \d: the tag .* is not allowed in a recipe"):
        loading.read_plain(tmp_path / "r.yaml")


def test_what_we_write_has_no_tags(tmp_path):
    flags = {"model": "!x", "dataset": "1e5", "data": "a: b", "flops": "0.5"}
    recipe = loading.from_flags(flags, ["train.weight_decay=1e-30", "seed=7", "export.license='!'"])
    (tmp_path / "r.yaml").write_text(loading.to_yaml(recipe))
    assert loading.load(tmp_path / "r.yaml") == recipe


def test_a_file_that_is_too_large_for_a_recipe_is_not_read(write):
    assert refusal(write(BASE + "#" * 200_000)) == "FILE: larger than 200000 bytes; no recipe is so large"


def test_numbers_are_read_as_people_write_them(write):
    recipe = loading.load(write(BASE + "seed: 010\ntrain:\n  lr: 1e-1\n  weight_decay: 1\nsearch:\n"))
    assert recipe.train.lr == 0.1
    assert recipe.train.weight_decay == 1.0
    assert recipe.seed == 10


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1_000", 1000), ("-3", -3), ("1e5", 1e5), (".5", 0.5), ("1.", 1.0), ("1e999", "1e999"),
        ("1:30", "1:30"),
        ("yes", True), ("Off", False), ("~", None), ("2026-01-01", "2026-01-01"), ("50%", "50%"),
        ("0x1f", "0x1f"),
    ],
)  # fmt: skip
def test_plain_scalars(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_quoted_scalars_stay_text():
    assert parse("a: '1'\nb: \"true\"\n", "x").data == {"a": "1", "b": "true"}


def test_a_recipe_without_a_budget(write):
    message = (
        "no budget: a recipe needs the key flops, params or latency, "
        "`jstc search` the option --flops, --params or --latency"
    )
    assert refusal(write("model: m\ndataset: d\n")) == f"FILE: {message}"


def test_overrides_win_over_the_file_and_flags_over_overrides(write):
    path = write(BASE + "seed: 1\ntrain: {lr: 0.1}\n")
    recipe = loading.load(path, ["seed=2", "train.lr=1e-2", "search.tau=[2, 1]"], {"seed": 3, "data": None})
    assert (recipe.seed, recipe.train.lr, recipe.search.tau) == (3, 0.01, (2.0, 1.0))


def test_an_override_reaches_group_names_with_dots(write):
    recipe = loading.load(write(BASE), ["search.fixed_thresholds.layer1.0.conv1=0.5"])
    assert recipe.search.fixed_thresholds == {"layer1.0.conv1": 0.5}


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("channels.groups.layer1.0.*.min_width=4", "layer1.0.*"),
        ("channels.groups.*={min_width: 4}", "*"),
        ("channels.groups={layer1.0: {min_width: 4}}", "layer1.0"),
    ],
)
def test_an_override_reaches_the_settings_of_groups(write, override, name):
    recipe = loading.load(write(BASE), [override])
    assert recipe.channels.groups == {name: GroupSettings(min_width=4)}


def test_settings_of_groups_that_are_all_commented_out_are_none(write):
    assert loading.load(write(BASE + "channels:\n  groups:\n  # layer1: {}\n")).channels.groups == {}


def test_a_budget_on_the_command_line_replaces_the_files(write):
    assert loading.load(write(BASE), ["params=1M"]).budget == {"params": 1e6}
    assert loading.load(write(BASE), [], {"params": "30%"}).budget == {"params": 0.3}
    both = loading.load(write(BASE + "params: 0.2\n"), ["params=1M"], {"flops": "0.5"})
    assert both.budget == {"flops": 0.5, "params": 1e6}


def test_several_budgets_in_a_file_an_override_and_a_flag(write):
    path = write("model: m\ndataset: d\nflops: [0.35, 0.7]\n")
    assert loading.load(path).budgets == ({"flops": 0.7}, {"flops": 0.35})
    assert loading.load(path, ["params=1M, 0.5"]).labels == ("params1M", "params0.5")
    assert loading.load(path, [], {"flops": "0.2,0.4"}).labels == ("flops0.4", "flops0.2")
    assert refusal(write("model: m\ndataset: d\nflops:\n  - 0.5\n  - 50%\n")) == (
        "FILE, line 3: flops: the budget 0.5 is there twice"
    )


def test_bounds_of_several_kinds_are_one_budget(write):
    recipe = loading.load(write("model: m\ndataset: d\nparams: 0.4\nlatency: 2ms\nflops: 50%\n"))
    assert recipe.budgets == ({"flops": 0.5, "params": 0.4, "latency": "2ms"},)
    assert recipe.labels == ("flops0.5-params0.4-latency2ms",)
    assert recipe.at(recipe.labels[0]) == recipe
    assert loading.load(write(loading.to_yaml(recipe))) == recipe


def test_a_list_of_budgets_beside_another_bound_which_holds_for_each(write):
    recipe = loading.load(write("model: m\ndataset: d\nparams: 0.4\nflops: [0.5, 0.7]\n"))
    assert recipe.labels == ("flops0.7-params0.4", "flops0.5-params0.4")
    alone = recipe.at("flops0.5-params0.4")
    assert (alone.flops, alone.params, alone.labels) == (0.5, 0.4, ("flops0.5-params0.4",))
    timed = loading.load(write("model: m\ndataset: d\nflops: 0.4\nlatency: 2ms, 1ms\n"))
    assert timed.labels == ("flops0.4-latency2ms", "flops0.4-latency1ms")


def test_a_list_of_one_budget_is_that_budget(write):
    one, listed = (
        loading.to_yaml(loading.load(write(f"model: m\ndataset: d\nflops: {text}\n")))
        for text in ("0.5", "[50%]")
    )
    assert one == listed
    assert "\nflops: 0.5\n" in one


def test_the_order_in_which_budgets_are_given_is_no_difference(write):
    one = loading.load(write("model: m\ndataset: d\nflops: [0.5, 0.7]\n"))
    two = loading.load(write("model: m\ndataset: d\nflops: 0.7, 0.5\n"))
    assert loading.differences(one, two) == []


def test_one_of_several_budgets_alone(write):
    recipe = loading.load(write("model: m\ndataset: d\nseed: 3\nflops: [0.5, 20M]\n"))
    alone = recipe.at("flops20M")
    assert (alone.budget, alone.labels, alone.seed) == ({"flops": 2e7}, ("flops20M",), 3)
    assert alone.at("flops20M") == alone


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "--set train.lr: expected key=value, such as --set train.lr=0.05"),
        ("=3", "--set =3: expected key=value, such as --set train.lr=0.05"),
        ("train.lr=abc", '--set train.lr: expected a number above 0, got "abc"'),
        (
            "search.early_stop_windw=1",
            "--set search.early_stop_windw: unknown key search.early_stop_windw; "
            "did you mean search.early_stop_window?",
        ),
        (
            "bench.cores=1",
            "--set bench.cores: unknown key bench.cores; known here: "
            "provider, batch_sizes, threads, seconds, memory, profile, trace",
        ),
        ("train.rl=1", "--set train.rl: unknown key train.rl; did you mean train.lr?"),
        ("tarin.lr=1", "--set tarin.lr: unknown key tarin; did you mean train?"),
        ("model.x=3", "--set model.x: model is a single value, not a section"),
        ("seed=[1", "--set seed, line 1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_a_wrong_override_is_named(write, override, message):
    assert refusal(write(BASE), [override]) == message


def test_a_wrong_flag_is_named(write):
    message = refusal(write(BASE), [], {"flops": "lots"})
    assert message == "--flops: 'lots' is not a share such as 0.5 or 50%, nor a count such as 500M"


def test_flags_alone_make_a_recipe(tmp_path):
    recipe = loading.from_flags({"model": "m", "dataset": "d", "flops": "500M", "data": tmp_path})
    assert recipe.budget == {"flops": 5e8}
    assert recipe.data == tmp_path


def test_differences_name_the_keys():
    one = loading.from_flags({"model": "m", "dataset": "d", "flops": "0.5"})
    two = loading.from_flags({"model": "m", "dataset": "d", "params": "0.5"}, ["train.lr=0.2"])
    assert loading.differences(one, one) == []
    assert loading.differences(one, two) == [
        "flops: 0.5 -> null", "params: null -> 0.5", "train.lr: 0.1 -> 0.2",
    ]  # fmt: skip


def test_the_order_of_groups_is_a_difference_for_the_later_wins(write):
    one = loading.load(write(BASE + "channels: {groups: {a: {min_width: 1}, b: {min_width: 2}}}\n"))
    two = loading.load(write(BASE + "channels: {groups: {b: {min_width: 2}, a: {min_width: 1}}}\n"))
    assert loading.differences(one, one) == []
    assert loading.differences(one, two) == ['order of channels.groups: ["a", "b"] -> ["b", "a"]']


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)
floats = st.floats(min_value=1e-300, max_value=1e300)
amounts = st.floats(min_value=1e-300, max_value=1) | st.integers(101, 10**15).map(float)  # 50: of what?


names = st.one_of(texts, st.sampled_from(["1e5", "yes", "~", "010", "1:2", "null", "- a", "#x"]))


@given(
    model=names,
    amount=amounts
    | st.lists(st.floats(0.001, 1).map(lambda share: round(share, 3)), min_size=1, unique=True),
    lr=floats,
    thresholds=st.dictionaries(texts, st.floats(0.01, 1), max_size=3),
)
def test_a_recipe_survives_its_file(tmp_path_factory, model, amount, lr, thresholds):
    recipe = Recipe.model_validate(
        {"model": model, "dataset": "d", "flops": amount, "data": "a/b", "train": {"lr": lr},
         "search": {"fixed_thresholds": thresholds},
         "channels": {"ignore": [model], "groups": {model: {"min_share": min(lr, 1.0)}}}}
    )  # fmt: skip
    path = tmp_path_factory.mktemp("round-trip") / "r.yaml"
    path.write_text(loading.to_yaml(recipe), encoding="utf-8")
    assert loading.load(path) == recipe


PARTS = {
    "perturbation": ("the perturbation", "true", ["sigma=[2, 1]", "noise_period=3"]),
    "thresholds": ("the policy", "threshnet", ["threshnet_lr=1", "candidates=2", "candidate_images=9"]),
}


@pytest.mark.parametrize(("switch", "setting"), [(s, k) for s, part in PARTS.items() for k in part[2]])
def test_settings_of_a_part_that_lean_lacks_need_its_switch(write, switch, setting):
    """They alone would do nothing; but a switch that is given, and off, is somebody's comparison."""
    what, on, _ = PARTS[switch]
    setting, key = f"search.{setting}", setting.split("=")[0]
    assert loading.load(write(BASE), [setting]).search.method == "joint"
    words = f"set search.{switch}" + (" to threshnet" if switch == "thresholds" else "")
    message = f"this is of {what}, off with method: lean: {words} as well"
    for text in (BASE, BASE + "weights: w.safetensors\n"):
        path = write(text + "search: {method: lean}\n")
        with pytest.raises(RecipeError, match=f"--set search.{key}: {message}"):
            loading.load(path, ["search.rounds=5", setting, "search.recency_bonus=2"])
        for value in (on, "false" if on == "true" else "common"):
            for method in ("lean", "joint"):
                changes = [setting, f"search.{switch}={value}", f"search.method={method}"]
                found = getattr(loading.load(path, changes).search, switch)
                assert str(found).lower() == value
    in_file = BASE + f"search:\n  method: lean\n  {setting.removeprefix('search.').replace('=', ': ')}\n"
    with pytest.raises(RecipeError, match=f"line {in_file.count(chr(10))}: search.{key}: {message}"):
        loading.load(write(in_file))


@pytest.mark.parametrize("setting", ["gate_lr=0.1", "gate_steps=3"])
@pytest.mark.parametrize(("method", "off"), [("joint", "off by default"), ("lean", "off with method: lean")])
def test_settings_of_the_gates_need_gates(write, setting, method, off):
    """They are not trained with either method unless they are asked for."""
    setting = f"search.{setting}"
    key = setting.split("=")[0].removeprefix("search.")
    message = f"this is of gates, {off}: set search.importance to learned, weighted or weighted_taylor "
    for text in (BASE, BASE + "weights: w.safetensors\n"):
        in_file = text + f"search:\n  rounds: 9\n  method: {method}\n  {key}: 2\n"
        with pytest.raises(RecipeError, match=f"line {in_file.count(chr(10))}: search.{key}: {message}"):
            loading.load(write(in_file))
        path = write(text + f"search: {{method: {method}}}\n")
        with pytest.raises(RecipeError, match=f"--set search.{key}: {message}"):
            loading.load(path, [setting])
        for kind in ("learned", "magnitude", "gradient"):
            assert loading.load(path, [setting, f"search.importance={kind}"]).search.importance == kind


def parts(search):
    return search.importance, search.thresholds, search.perturbation, search.candidates, search.sigma


def test_the_parts_of_a_search_by_its_method_and_whether_weights_are_given(write):
    given = BASE + "weights: w.safetensors\n"
    joint, lean = "", "search: {method: lean}\n"
    found = {name: loading.load(write(text)).search for name, text in {
        "joint": BASE + joint, "joint given": given + joint, "lean": BASE + lean, "lean given": given + lean,
    }.items()}  # fmt: skip
    assert parts(found["joint"]) == ("gradient", "threshnet", True, 3, (1.0, 0.1))
    assert parts(found["joint given"]) == ("gradient", "threshnet", True, 160, (1.0, 0.25))
    assert parts(found["lean"])[:3] == ("magnitude", "common", False)
    assert parts(found["lean given"])[:3] == ("taylor", "common", False)
    assert found["lean"].coarse_to_fine and found["joint"].coarse_to_fine
    for name, search in found.items():
        expected = (1.0, 0.0, 1.0) if "given" in name else (12.0, 0.85, "auto")
        assert (search.recency_bonus, search.coarse_share, search.coarse_budget) == expected


@pytest.mark.parametrize("method", ["joint", "lean"])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("importance", "weighted"), ("importance", "magnitude"), ("thresholds", "common"),
        ("thresholds", "threshnet"), ("perturbation", False), ("perturbation", True),
        ("recency_bonus", 2.0), ("coarse_share", 0.5), ("coarse_budget", 0.6),
    ],
)  # fmt: skip
def test_a_key_that_is_given_goes_before_the_defaults_of_method_and_weights(write, key, value, given, method):
    text = BASE + ("weights: w.safetensors\n" if given else "")
    text += f"search: {{method: {method}, {key}: {str(value).lower()}}}\n"
    assert getattr(loading.load(write(text)).search, key) == value


def test_defaults_of_a_part_that_is_off_are_not_given(write):
    """Else the recipe that is written down would say what does nothing."""
    given = BASE + "weights: w.safetensors\n"
    for off in ("thresholds: common", "thresholds: fixed", "method: lean"):
        assert loading.load(write(given + f"search: {{{off}}}\n")).search.candidates == 3
    for off in ("perturbation: false", "method: lean"):
        assert loading.load(write(given + f"search: {{{off}}}\n")).search.sigma == (1.0, 0.1)
    on = "search: {method: lean, perturbation: true, thresholds: threshnet}\n"
    assert parts(loading.load(write(given + on)).search) == ("taylor", "threshnet", True, 160, (1.0, 0.25))
    channels = "search: {thresholds: common}\n"  # with no search over widths there is less to explore
    assert loading.load(write(given + channels)).search.sigma == (0.1, 0.1)
    own = "search: {sigma: [1, 0], candidates: 16}\n"
    assert parts(loading.load(write(given + own)).search)[3:] == (16, (1.0, 0.0))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("method", ["joint", "lean"])
def test_a_recipe_written_with_its_defaults_is_read_again_as_it_was(write, tmp_path, given, method):
    text = BASE + ("weights: w.safetensors\n" if given else "") + f"search: {{method: {method}}}\n"
    recipe = loading.load(write(text))
    path = tmp_path / "again.yaml"
    path.write_text(loading.to_yaml(recipe), encoding="utf-8")
    assert loading.load(path) == recipe
