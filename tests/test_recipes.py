"""A recipe refuses what can't be meant, and its id changes exactly when the run's numbers may."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from alexnet_lib import recipes
from alexnet_lib.recipes import Recipe, StudyError

# One other value for each field: all of them together are a recipe without a single default.
OTHER: dict[str, Any] = {
    "data": "synthetic",
    "net": "cifar-26pct",
    "activation": "tanh",
    "init": "variance",
    "inputs": "unit",
    "crop": 24,
    "flip": True,
    "colour": "coded",
    "places": "centre",
    "bias_cuts": [3],
    "conv1": [4, 5],
    "warmup": 2,
    "holdout": True,
    "images": 1000,
    "pretrain": 2,
    "batch": 64,
    "epochs": 3,
    "rate": 0.02,
    "bias_rate": 1.0,
    "momentum": 0.5,
    "decay": 0.0,
    "cuts": [1, 2],
    "target_error": 0.25,
    "precision": "bf16",
    "seed": 7,
}


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate", 0),
        ("rate", -0.1),
        ("rate", "1e-3"),
        ("rate", float("nan")),
        ("rate", float("inf")),
        ("rate", None),
        ("rate", True),
        ("bias_rate", -1.0),
        ("bias_rate", float("nan")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("decay", -1.0),
        ("decay", "off"),
        ("batch", 0),
        ("batch", 32.0),
        ("batch", True),
        ("batch", "32"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("crop", -1),
        ("seed", -1),
        ("seed", None),
        ("flip", 1),
        ("flip", "yes"),
        ("cuts", 3),
        ("cuts", "3"),
        ("cuts", [-1]),
        ("cuts", [2, 1]),
        ("cuts", [1, 1]),
        ("cuts", [1.5]),
        ("cuts", [True]),
        ("bias_cuts", [2, 1]),
        ("bias_cuts", "3"),
        ("warmup", -1),
        ("conv1", [3]),
        ("conv1", [3, 3]),
        ("conv1", [1, 2, 3]),
        ("target_error", 0.0),
        ("target_error", 1.0),
        ("target_error", float("nan")),
        ("target_error", "0.25"),
        ("data", 5),
        ("net", None),
        ("precision", "fp16"),
        ("precision", 16),
        ("inputs", "Raw"),
        ("init", "he"),
        ("colour", "code"),
        ("holdout", 0),
        ("images", -1),
        ("images", 1000.0),
        ("pretrain", -1),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_field(field: str, value: object) -> None:
    with pytest.raises(StudyError, match=f"'{field}'"):
        Recipe.parse({field: value})


@pytest.mark.parametrize(
    ("field", "value", "shown"), [("rate", -0.1, "-0.1"), ("batch", "32", "'32'"), ("cuts", [2, 1], r"2, 1")]
)
def test_the_refused_value_is_shown(field: str, value: object, shown: str) -> None:
    with pytest.raises(StudyError, match=shown):
        Recipe.parse({field: value})


def test_a_value_of_another_type_is_told_the_one_that_is_expected() -> None:
    with pytest.raises(StudyError, match="expected int, got str"):
        Recipe.parse({"batch": "32"})


def test_a_rate_that_yaml_read_as_text_is_told_how_to_write_it() -> None:
    with pytest.raises(StudyError, match=r"write 1\.0e-3"):
        Recipe.parse({"rate": "1e-3"})


def test_a_misspelt_field_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(StudyError, match="unknown recipe field 'momemtum': did you mean 'momentum'"):
        Recipe.parse({"momemtum": 0.9})


def test_a_field_near_to_none_is_answered_with_all_of_them() -> None:
    with pytest.raises(StudyError) as error:
        Recipe.parse({"xyz": 1})
    assert all(field.name in str(error.value) for field in dataclasses.fields(Recipe))


def test_a_field_near_to_none_is_answered_without_a_guess() -> None:
    with pytest.raises(StudyError) as error:
        Recipe.parse({"xyz": 1})
    assert "did you mean" not in str(error.value)


def test_a_misspelt_choice_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(StudyError, match="'precision' 'float23': did you mean 'float32'"):
        Recipe.parse({"precision": "float23"})


def test_a_recipe_made_in_python_is_checked_too() -> None:
    with pytest.raises(StudyError, match="'rate'"):
        Recipe(rate=0.0)


def test_a_recipe_made_in_python_refuses_text_as_a_rate() -> None:
    with pytest.raises(StudyError, match="'rate'"):
        Recipe(rate="1e-3")  # type: ignore[arg-type]


def test_a_recipe_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().rate = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(("rule", "rate"), [("linear", 0.08), ("root", 0.01 * 8**0.5)])
def test_a_rate_for_batches_of_128_is_scaled_to_the_recipe_s_batch(rule: str, rate: float) -> None:
    scaled = Recipe(rate=0.01, batch=1024).scaled(rule)
    assert scaled.rate == pytest.approx(rate)
    assert dataclasses.replace(scaled, rate=0.01) == Recipe(rate=0.01, batch=1024)


@pytest.mark.parametrize("rule", ["linear", "root"])
def test_at_128_images_a_scaled_rate_is_the_rate(rule: str) -> None:
    assert Recipe(rate=0.01).scaled(rule) == Recipe(rate=0.01)


# --- what it is called -------------------------------------------------------------------------------------


def test_the_order_of_the_fields_does_not_enter_the_id() -> None:
    assert Recipe.parse(OTHER).id == Recipe.parse(dict(reversed(OTHER.items()))).id


@pytest.mark.parametrize(("whole", "broken"), [({"rate": 1}, {"rate": 1.0}), ({"decay": 0}, {"decay": 0.0})])
def test_a_whole_number_and_the_same_with_a_point_have_one_id(whole: dict[str, Any], broken: dict[str, Any]) -> None:
    assert Recipe(**whole).id == Recipe(**broken).id


def test_a_list_and_a_tuple_of_cuts_have_one_id() -> None:
    assert Recipe.parse({"cuts": [1, 2]}).id == Recipe(cuts=(1, 2)).id


def test_every_field_is_tried_with_another_value() -> None:
    default = Recipe().resolved()
    assert OTHER.keys() == default.keys()
    assert not [name for name in OTHER if OTHER[name] == default[name]]


@pytest.mark.parametrize("field", OTHER)
def test_a_change_of_any_field_changes_the_id(field: str) -> None:
    assert Recipe.parse({field: OTHER[field]}).id != Recipe().id


def test_no_two_changes_give_the_same_id() -> None:
    assert len({Recipe.parse({field: value}).id for field, value in OTHER.items()}) == len(OTHER)


def test_a_default_that_is_spelt_out_leaves_the_id() -> None:
    assert Recipe.parse(Recipe(rate=0.02).resolved()).id == Recipe.parse({"rate": 0.02}).id


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> type[Recipe]:
    """The recipe of a later version of the library, with one field more."""
    cls = dataclasses.make_dataclass(
        "Recipe", [("mirror", "bool", False)], bases=(Recipe,), frozen=True, kw_only=True
    )
    monkeypatch.setattr(recipes, "Recipe", cls)
    return cls


def test_a_field_added_later_leaves_old_runs_their_ids(later: type[Recipe]) -> None:
    assert later(rate=0.02, seed=3).id == Recipe(rate=0.02, seed=3).id


def test_a_field_added_later_has_its_part_in_the_id(later: type[Recipe]) -> None:
    assert later(mirror=True).id != later().id  # type: ignore[call-arg]


def test_the_ids_of_published_runs_stay_as_they_are() -> None:
    # fields that came after the first published runs
    late = ("colour", "holdout", "places", "bias_cuts", "conv1", "warmup", "images", "pretrain")
    assert Recipe.parse({name: value for name, value in OTHER.items() if name not in late}).id == "ccfc6af529594ba1"


def test_a_recipe_comes_back_from_json() -> None:
    recipe = Recipe.parse(OTHER)
    assert Recipe.parse(json.loads(json.dumps(recipe.resolved()))) == recipe
