from pathlib import Path

import pytest

from tomtat.config import RunConfig, load_config, parse_override, setting_names
from tomtat.errors import ConfigError


def test_resolved_settings_survive_a_round_trip_through_toml(tmp_path: Path):
    config = load_config(overrides={"lora.target": ["q", "v"], "train.learning_rate": 1e-5, "lora.init": "pissa"})
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")

    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lora.rank=8", ("lora.rank", 8)),
        ("train.learning_rate=1e-5", ("train.learning_rate", 1e-5)),
        ("data.train=../a b.jsonl[:96]", ("data.train", "../a b.jsonl[:96]")),
        ('lora.target=["q", "v"]', ("lora.target", ["q", "v"])),
        ("lora.use_dora=true", ("lora.use_dora", True)),
        ("data.train=x=y", ("data.train", "x=y")),
    ],
)
def test_overrides_are_toml_values_or_text(text: str, expected: tuple[str, object]):
    assert parse_override(text) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.rnk=8"], "lora.rnk is not a setting; did you mean lora.rank?"),
        (["lora.rank=big"], "lora.rank: input should be a valid integer, found 'big'"),
        (["lora.rank=0"], "lora.rank: input should be greater than or equal to 1, found 0"),
        (["lora.rank"], "write it as name=value"),
        (["train.method=qlora"], "train.method: input should be 'lora' or 'full'"),
        (["prompt.template=Summarize"], "prompt.template needs {text} exactly once"),
        (["seed.x=1", "seed=2"], "seed: input should be"),
    ],
)
def test_slips_are_named(overrides: list[str], message: str):
    if overrides[0] == "seed.x=1":
        overrides = overrides[:1]
    with pytest.raises(ConfigError) as error:
        load_config(overrides=overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_whole_number_serves_where_a_fraction_may_stand():
    assert load_config(overrides=["lora.alpha=32", "train.learning_rate=1"]).train.learning_rate == 1.0


def test_the_names_scripts_rely_on_exist():
    stable = "data.train data.validation data.test model.name lora.rank lora.target train.epochs train.learning_rate train.batch_size"
    assert set(stable.split()) <= set(setting_names())


@pytest.mark.parametrize(
    "recipe", sorted(Path(__file__).parent.parent.glob("recipes/*.toml")), ids=lambda path: path.name
)
def test_each_recipe_is_valid_and_says_how_to_run_it(recipe: Path):
    assert isinstance(load_config(recipe), RunConfig)
    header = [line for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = "\n".join(header).lower()
    assert f"tomtat train recipes/{recipe.name}" in text
    assert "time:" in text
    assert "score:" in text
