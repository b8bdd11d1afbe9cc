"""A run's name says what is particular about it, and finds it again."""

import shutil

import pytest

from kto_workbench.config import KTOConfig
from kto_workbench.errors import RunError
from kto_workbench.runs import create_run, find_run
from kto_workbench.runs.shelf import describe_run


@pytest.fixture
def make(tmp_path, small_data):
    data = shutil.copy(small_data, tmp_path / "harmless-test.jsonl")
    return lambda **options: create_run(KTOConfig(data=str(data), workspace=str(tmp_path), **options))


def test_a_name_tells_what_differs_from_the_run_before(make, tmp_path):
    called = lambda run: run.about()["name"]
    assert called(make(beta=1.0)) == "harmless-test · β 1"  # the first: nothing to differ from
    assert called(make(beta=0.3)) == "harmless-test · β 0.3"
    assert called(make(beta=0.3)) == "harmless-test · β 0.3 · 2"  # the same once more
    assert called(make(beta=0.3, learning_rate=2e-4)) == "harmless-test · rate 0.0002"
    several = called(make(beta=0.5, learning_rate=1e-4, lora_r=4, seed=7))
    assert several == "harmless-test · β 0.5 · rate 0.0001 · rank 4"  # three at most, the gravest first
    assert called(make(beta=0.5, learning_rate=1e-4, lora_r=4, seed=7, desirable_weight=2.0)).endswith(" · λ_D 2")
    # Of another objective, what it uses: SFT knows neither β nor weights.
    assert called(make(objective="sft", beta=2.0, desirable_weight=3.0, seed=7)).startswith(
        "harmless-test · sft · rate "
    )
    assert called(make(objective="sft", beta=1.0, seed=7)) == "harmless-test · sft"


def test_a_run_is_found_by_its_name_as_by_its_id(make, tmp_path):
    sharp, soft, again = make(beta=1.0), make(beta=0.3), make(beta=0.3)
    find = lambda name: find_run(name, tmp_path).id
    for run in (sharp, soft, again):
        assert find(run.id) == find(run.id[-4:]) == find(run.about()["name"]) == run.id
    assert find("HARMLESS-test · β 1") == find("β 1") == sharp.id
    assert find("β 0.3 · 2") == again.id and find("latest") == again.id
    with pytest.raises(RunError, match="3 runs in .* go by 'harmless'"):
        find("harmless")
    describe_run(soft, "the soft one", "")
    assert find("the soft one") == find("soft") == soft.id
    describe_run(sharp, soft.id, "")  # whoever takes another's id for a name does not get its runs
    assert find(soft.id) == soft.id
    for wanted in ("", "hard"):
        with pytest.raises(RunError, match="There is no run"):
            find(wanted)


def test_a_run_is_renamed_at_the_shell(make, kto, tmp_path):
    run = make()
    said = kto("name", run.id, "  for   the talk ", "--workspace", tmp_path).stdout
    assert said == f"Run {run.id} is called for the talk.\n"
    assert "for the talk" in kto("runs", "--workspace", tmp_path).stdout
    assert kto("name", "for the talk", "", "--workspace", tmp_path).stdout == f"Run {run.id} is called nothing.\n"
