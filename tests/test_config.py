"""Configuration: every error at once, each with its path and what was expected."""

from pathlib import Path

import pytest
import yaml

from jaxsrc import config
from jaxsrc.errors import ConfigError, UserError
from jaxsrc.experiment import RunConfig
from jaxsrc.train import check_folder

CONFIGS = sorted(Path("configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_round_trips(path):
    loaded = config.load(RunConfig, path)
    assert config.from_dict(RunConfig, config.to_dict(loaded)) == loaded
    assert config.differences(config.to_dict(loaded), config.to_dict(loaded)) == []


def test_overrides_reach_nested_values_and_list_items():
    loaded = config.load(
        RunConfig, CONFIGS[0], ["optim.learning_rate=3e-4", "experiment.stages.0.steps=7", "experiment.model.width=32"]
    )
    assert loaded.optim.learning_rate == 3e-4
    assert loaded.experiment.stages[0].steps == 7
    assert loaded.experiment.model.width == 32


def test_all_errors_come_at_once_with_the_nearest_key():
    bad = ["optim.learning_rat=1", "optim.clip_norm=-1", "seed=many", "experiment.stages.9.steps=1", "nonsense"]
    with pytest.raises(ConfigError) as caught:
        config.load(RunConfig, CONFIGS[0], bad)
    text = "\n".join(caught.value.problems)
    assert "optim.learning_rat: unknown key; did you mean 'learning_rate'?" in text
    assert "optim.clip_norm" in text
    assert "seed" in text and "'many'" in text
    assert "experiment.stages.9.steps" in text
    assert "nonsense: expected key=value" in text


def test_duplicate_keys_name_the_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1\nname: x\nseed: 2\n")
    with pytest.raises(UserError, match="line 3: key 'seed' appears twice"):
        config.load(RunConfig, path)


@pytest.mark.parametrize("text", ["name: a\0b\n", "? [a]\n: 3\n", "name: 2020-13-45\n"])
def test_yaml_that_is_no_plain_data_is_one_line(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a.yaml: expected YAML of plain keys and values, got: [^\n]+; mend the file$"):
        config.load(RunConfig, path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.ema=high", "optim.ema: expected a valid number, got 'high'"),
        ("optim.learning_rate=.inf", "optim.learning_rate: expected a finite number"),
        ("seed=4294967296", "seed: expected less than 4294967296, got 4294967296"),  # JAX would take it for 0
        ("seed=1.5", "seed: expected a valid integer, got 1.5"),
        ("experiment={kind: arcc}", "experiment: expected a kind among 'arc', 'depth', 'hybrid', 'image', 'text', got 'arcc'"),
        ("name=../x", r"name: expected text of the pattern .*, got '../x'"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_was_expected(override, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        config.load(RunConfig, CONFIGS[0], [override])


@pytest.mark.parametrize("text", ["seed: [1\nname: x\n", "a: b: c\n"])
def test_malformed_yaml_names_the_line(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a.yaml, line \d+: expected YAML"):
        config.load(RunConfig, path)


def test_a_file_that_is_not_a_mapping_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(UserError, match="expected keys and values"):
        config.load(RunConfig, path)


def test_a_missing_file_offers_near_ones():
    with pytest.raises(UserError, match=r"configs/arc_sheaf\.yaml"):
        config.load(RunConfig, "configs/arc_shef.yaml")


def test_differences_name_both_sides():
    assert config.differences({"a": {"b": 3}, "c": [1]}, {"a": {"b": 4}, "c": [1, 2]}) == [
        "a.b: 3 here, 4 there",
        "c.1: 'absent' here, 2 there",
    ]


def test_a_run_of_an_older_version_is_the_same_run_and_one_that_differs_is_not(tmp_path):
    resolved = config.to_dict(config.load(RunConfig, "configs/digits_dense.yaml"))
    older = {k: v for k, v in resolved.items() if k != "gate"}  # saved before there was such a key
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    check_folder(tmp_path, resolved)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**older, "seed": resolved["seed"] + 1}))
    check_folder(tmp_path, resolved)  # nothing was trained there yet
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(UserError, match="seed"):
        check_folder(tmp_path, resolved)
    (tmp_path / "config.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="expected keys and values"):
        check_folder(tmp_path, resolved)
