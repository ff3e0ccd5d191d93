"""What a stage reads is judged before anything is removed: after a refusal the run is as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jstc.core import files
from jstc.errors import JstcError
from jstc.recipe import loading
from jstc.runs import commands
from jstc.runs.directory import read_recipe
from jstc.runs.manifest import Manifest, can_be_recorded
from jstc.train import checkpoint

SETTINGS = [
    "device=cpu", "threads=1", "input.image_size=8", "search.rounds=1", "search.steps_per_round=1",
    "search.eval_images=20", "search.recalibration_images=32", "finetune.epochs=1",
    "finetune.steps_per_epoch=1", "export.parity_images=8", "export.max_accuracy_drop=100",
    "bench.seconds=0.01", "bench.memory=false", "bench.batch_sizes=[1]",
    "train.warmup_epochs=0", "finetune.teacher=target",
    "channels.round_to=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(network: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which all stages are done."""
    recipe = loading.from_flags({"model": network, "dataset": "digits", "flops": "0.6"}, SETTINGS)
    return commands.run(recipe, out=tmp_path_factory.mktemp("finished") / "run", command="jstc run x.yaml")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def tree(run: Path) -> dict[str, tuple[int, bytes]]:
    """Every file, with what it holds, but for the lock's."""
    found = [path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".lock")]
    return {path.relative_to(run).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def rehash(run: Path) -> None:
    """Put what is there on record, as whoever packs a run can."""
    document = json.loads((run / "manifest.json").read_text())
    for record in document["stages"].values():
        record["artifacts"] = {
            name: files.sha256(run / name) for name in record["artifacts"] if (run / name).exists()
        }
    (run / "manifest.json").write_text(json.dumps(document))


def document(name: str, **changes: object):
    """Changes keys of a JSON document."""

    def change(run: Path) -> None:
        (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | changes))

    return pytest.param(change, id=f"{name} {','.join(changes)}")


def text(name: str, content: str):
    """Gives a file another content."""
    return pytest.param(lambda run: (run / name).write_text(content), id=f"{name} {content[:12]}")


def code(run: Path) -> None:
    path = run / "slim" / "model.json"
    spec = json.loads(path.read_text())
    spec["model"]["name"] = "evil.py:make"
    path.write_text(json.dumps(spec))


def other_channels(run: Path) -> None:
    path = run / "search" / "plan.json"
    plan = json.loads(path.read_text())
    for group in plan["groups"].values():
        group["kept"] = group["kept"][:-1]
    path.write_text(json.dumps(plan))


def other_groups(run: Path) -> None:
    """A plan of another network, to which the sub-network belongs by its hash."""
    from jstc.plan import Plan

    plan = Plan({"nowhere": (0,)}, {"nowhere": 2})
    plan.save(run / "search" / "plan.json")
    for stage in ("search", "finetune"):
        path = run / stage / "subnetwork.safetensors"
        tensors, meta = checkpoint.load(path)
        checkpoint.save(path, tensors, meta | {"plan_hash": plan.hash})


def other_shapes(name: str):
    def change(run: Path) -> None:
        if name.endswith("subnetwork.safetensors"):
            tensors, meta = checkpoint.load(run / name)
            checkpoint.save(run / name, {key: torch.zeros(1) for key in tensors}, meta)
        else:
            save_file({key: torch.zeros(1) for key in load_file(run / name)}, run / name)

    return pytest.param(change, id=f"{name} shapes")


PLANS = [text("search/plan.json", "{}"), text("search/plan.json", "["), other_channels, other_groups]
CASES = {
    "finetune": [*PLANS, text("search/subnetwork.safetensors", "x"),
                 other_shapes("search/subnetwork.safetensors"),
                 text("search/target.safetensors", "x"), other_shapes("search/target.safetensors")],
    "slim": [*PLANS, text("finetune/subnetwork.safetensors", "x"),
             other_shapes("finetune/subnetwork.safetensors")],
    "export": [*PLANS, code, text("slim/model.json", "[]"), text("slim/model.safetensors", "x"),
               other_shapes("slim/model.safetensors"), text("slim/result.json", "[]"),
               document("slim/model.json", plan_hash="0" * 64), text("target.json", "[]"),
               document("target.json", budget=7), text("finetune/result.json", "{")],
    "bench": [text("export/result.json", "[]"), document("export/result.json", files=[{"file": "../../x"}]),
              document("export/result.json", files=[{"file": "export/none.onnx", "precision": "fp32"}]),
              text("export/model.onnx", "x"), text("slim/result.json", "{}")],
    "report": [text("bench/bench.json", "[]"), text("target.json", "{"),
               text("slim/result.json", '{"flops": []}')],
}  # fmt: skip


def changed(case):
    return case.values[0] if hasattr(case, "values") else case


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        pytest.param(stage, changed(case), id=f"{stage}: {getattr(case, 'id', None) or case.__name__}")
        for stage, cases in CASES.items()
        for case in cases
    ],
)
def test_a_stage_that_cannot_work_with_what_is_there_leaves_everything(run: Path, stage: str, change) -> None:
    change(run)
    rehash(run)
    before = tree(run)
    with pytest.raises(JstcError) as caught:
        commands.run_stage(run, stage, recipe=read_recipe(run), fresh=True)
    assert caught.value.exit_code == 2 and str(caught.value)
    assert tree(run) == before


@pytest.mark.parametrize("stage", ["finetune", "slim", "export", "bench"])
def test_a_record_with_a_name_that_no_file_can_have_is_refused_before_anything_is_removed(
    run: Path, stage: str
) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["bench"]["artifacts"]["\0x"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    before = tree(run)
    with pytest.raises(JstcError, match="damaged or of another version") as caught:
        commands.run_stage(run, stage, recipe=read_recipe(run), fresh=True)
    assert caught.value.exit_code == 2
    assert tree(run) == before


def test_all_stages_one_after_another_are_judged_likewise(run: Path) -> None:
    """A file of the export is gone, so it has to run again: what it reads is damaged, and the bench stays."""
    (run / "export" / "model.onnx").unlink()
    code(run)
    rehash(run)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["export"]["artifacts"]["export/model.onnx"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    before = tree(run)
    with pytest.raises(JstcError):
        commands.run(read_recipe(run), out=run)
    assert tree(run) == before


def test_other_settings_of_the_export_remove_nothing_before_it_can_run(run: Path) -> None:
    code(run)
    rehash(run)
    recipe = loading.load(run / "recipe.yaml", ["export.opset=19"])
    before = tree(run)
    for work in (
        lambda: commands.run(recipe, out=run),
        lambda: commands.run_stage(run, "export", recipe=recipe),
    ):
        with pytest.raises(JstcError):
            work()
        assert tree(run) == before


def test_files_of_others_in_a_stages_folder_do_not_spoil_its_record(run: Path) -> None:
    shutil.rmtree(run / "bench")
    for name in ("bench/.notes/x.txt", "bench/a:b"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["bench"] = {"state": "failed", "seconds": 0, "artifacts": {}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    commands.run_stage(run, "bench", recipe=read_recipe(run))
    record = Manifest.load(run)
    assert record is not None and record.stages["bench"].state == "done"
    assert "bench/bench.json" in record.stages["bench"].artifacts
    assert (run / "bench" / ".notes" / "x.txt").exists() and (run / "bench" / "a:b").exists()


@pytest.mark.parametrize("name", ["a", "a/b.c", "a b/é"])
def test_names_of_artifacts(name: str) -> None:
    assert can_be_recorded(name)


@pytest.mark.parametrize(
    "name", ["", ".a", "a/.b", "/a", "a//b", "a/", "a:b", "a\\b", "a\0b", "a\nb", "../a"]
)
def test_names_that_are_none_of_an_artifact(name: str) -> None:
    assert not can_be_recorded(name)
