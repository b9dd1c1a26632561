"""Grids of configs: dotted fields, what trials of one program may differ in, digests."""

from big_vision_dual.lab.studies import grid

BASE = {"seed": 0, "lr": 0.1, "wd": 0.0, "model": {"width": 8, "depth": 1}, "optax_name": "scale_by_adam", "optax": {}}


def test_the_first_attempts_table_has_biases_per_head_and_so_a_program_of_its_own():
    def layout(**norms):
        return grid.static({**BASE, "norms": norms})["norms"]["biases_per_head"]

    assert layout(conventions="first_attempt") is layout(conventions="seed") is True
    assert layout(conventions="well_normed") is False
    assert layout(conventions="first_attempt", biases_per_head=False) is False


def test_product_sets_dotted_fields_and_leaves_the_base_alone():
    trials = grid.product(BASE, {"model.width": [8, 16, 32], "optax.b1": [0.8, 0.9]}, point={"setting": "x"})
    assert [grid.get(trial.config, "model.width") for trial in trials] == [8, 8, 16, 16, 32, 32]
    assert trials[1].config["optax"] == {"b1": 0.9}
    assert trials[-1].point == {"setting": "x", "model.width": 32, "optax.b1": 0.9}
    assert BASE["model"] == {"width": 8, "depth": 1}
    assert BASE["optax"] == {}


def test_a_digest_does_not_depend_on_the_order_of_keys_and_does_on_values():
    assert grid.digest({"a": 1, "b": (2, 3)}) == grid.digest({"b": [2, 3], "a": 1})
    assert grid.digest({"a": 1}) != grid.digest({"a": 2})


def test_numbers_share_a_program_and_shapes_do_not():
    trials = grid.product(BASE, {"model.width": [8, 16], "lr": [0.1, 0.2], "seed": [0, 1, 2]})
    assert [len(group) for group in grid.by_program(trials)] == [6, 6]


def test_no_decay_is_another_program_than_some_decay():
    trials = grid.product(BASE, {"wd": [0.0, 1e-4, 1e-3]})
    assert [len(group) for group in grid.by_program(trials)] == [1, 2]


def test_tables_only_change_numbers_where_there_is_one():
    dualized = {**BASE, "norms": {"conventions": "well_normed", "biases_per_head": False}}
    trials = grid.product(
        dualized, {"norms.conventions": ["first_attempt", "well_normed"], "norms.blocks_mass": [2, 4]}
    )
    assert [len(group) for group in grid.by_program(trials)] == [4]


def test_tables_of_other_rows_are_other_programs():
    trials = grid.product(
        {**BASE, "norms": {}}, {"norms.rule": [None, "scion"], "norms.biases_per_head": [False, True]}
    )
    assert [len(group) for group in grid.by_program(trials)] == [1, 1, 1, 1]


def test_radii_share_a_program_and_rules_for_them_do_not():
    ball = {**BASE, "weight_constraint": {"kind": "radius"}}
    radii = [5.0, 25.0, [["Bias", None], [".*", 25.0]], [["Bias", None], [".*", 50.0]]]
    assert [len(group) for group in grid.by_program(grid.product(ball, {"weight_constraint.radius": radii}))] == [
        2,
        1,
        1,
    ]
    assert grid.numbers({**BASE, "weight_constraint": "none"}) == {"seed": 0, "lr": 0.1}


def test_a_config_given_twice_runs_once():
    assert [len(group) for group in grid.by_program(grid.product(BASE, {"lr": [0.1, 0.1, 0.3]}))] == [2]
