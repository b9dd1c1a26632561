"""The algebra's rules (arXiv 2405.14813) and the trees that must be refused."""

import pytest

from big_vision_dual.core import norms
from big_vision_dual.core.norms import bonds

ATOMS = norms.Atoms.of()


def linear(path: str, mass: float = 1.0) -> norms.Module:
    return norms.Atoms.of(masses={"Linear": mass}).linear(path, (3,), (5,))


def targets(module: norms.Module, t: float = 1.0) -> dict[str, float]:
    return {target.atom.path: target.target_norm for target in norms.dry_run(module, t)}


def test_composition_divides_the_inner_budget_by_the_outer_sensitivity():
    tree = linear("out", 3) @ (4.0 * norms.IDENTITY) @ linear("in", 1)
    assert (tree.mass, tree.sensitivity) == (4, 4)
    assert targets(tree, t=2) == {"in": 2 * (1 / 4) / 4, "out": 2 * 3 / 4}


def test_branches_share_the_budget_by_mass_and_add_their_sensitivities():
    tree = linear("a", 1) + (-0.5 * norms.IDENTITY) @ linear("b", 3)
    assert tree.sensitivity == 1.5
    assert targets(tree) == {"a": 1 / 4, "b": 3 / 4 / 0.5}


def test_tare_sets_the_total_mass_and_keeps_proportions():
    tree = (linear("a", 1) @ linear("b", 3)).tare(10)
    assert tree.mass == 10
    assert targets(tree) == pytest.approx({"a": 0.25, "b": 0.75})


def test_a_subtree_tared_to_zero_gets_no_budget():
    tree = linear("a") @ (linear("b") @ linear("c")).tare(0)
    assert targets(tree) == {"a": 1, "b": 0, "c": 0}


def test_power_makes_independent_copies_in_own_or_in_stacked_leaves():
    assert targets(linear("block_{layer}") ** 3) == pytest.approx({f"block_{i}": 1 / 3 for i in range(3)})
    stacked = norms.dry_run((2.0 * norms.IDENTITY @ linear("block")) ** 3)
    assert {t.atom.layer: t.target_norm for t in stacked} == pytest.approx(
        {(i, 3): 1 / 3 / 2 ** (3 - i) for i in range(3)}
    )


def test_target_norm_is_mass_share_over_downstream_sensitivity():
    tree = linear("a") @ bonds.gelu("plain") @ (linear("b", 2) + ATOMS.bias("c", (5,)))
    for target in norms.dry_run(tree, 1.0):
        assert target.target_norm * target.sensitivity * tree.mass == pytest.approx(target.atom.mass, rel=1e-15)


def test_shared_atom_is_an_error_even_when_each_use_is_tared():
    shared = linear("norm")
    with pytest.raises(norms.NormError, match=r"Linear norm is used twice .* its own path"):
        norms.dry_run(shared.tare(1) @ linear("between") @ shared.tare(2))


def test_massful_module_feeding_sensitivity_zero_names_both():
    with pytest.raises(norms.NormError, match=r"Bias b has sensitivity 0.* Linear w has mass 1"):
        _ = ATOMS.bias("b", (5,)) @ linear("w")


def test_zero_sensitivity_after_weightless_modules_is_fine():
    assert targets(ATOMS.bias("b", (5,)) @ bonds.PATCHIFY) == {"b": 1}


@pytest.mark.parametrize("mass", [0.0, -1.0, float("nan"), float("inf")])
def test_atom_without_a_positive_mass_names_itself_and_the_way_to_freeze(mass):
    with pytest.raises(norms.NormError, match=r"Linear w has mass .* never be updated.*config.schedule"):
        norms.Atoms.of(masses={"Linear": mass}).linear("w", (3,), (5,))


def test_unknown_atom_kind_and_conventions_list_what_is_possible():
    with pytest.raises(norms.NormError, match=r"unknown atom kinds \['Gain'\]; possible: Linear, MaxLinear, Embed"):
        norms.Atoms.of(masses={"Gain": 1})
    with pytest.raises(norms.NormError, match=r"'sead'; possible: well_normed, first_attempt"):
        norms.Atoms.of("sead")


def test_power_and_tare_refuse_what_has_no_meaning():
    with pytest.raises(norms.NormError, match="exponent is a depth"):
        _ = linear("a{layer}") ** 0
    with pytest.raises(norms.NormError, match=r"identity has no mass to tare"):
        norms.IDENTITY.tare(3)


def test_tare_relative_multiplies_and_plain_tare_gives_one():
    tree = linear("a", 1) @ linear("b", 3)
    assert tree.tare(relative=0.5).mass == 2
    assert tree.tare().mass == 1
    assert norms.IDENTITY.tare(relative=2).mass == 0
    with pytest.raises(norms.NormError, match=r"absolute=1 and relative=2; give one"):
        tree.tare(1, relative=2)


def test_sizes_are_numbers_or_tuples_and_outputs_may_come_first():
    plain, first = norms.linear("w", 3, (2, 5)), norms.linear("w", (2, 3), 5, out_first=True)
    assert (plain.shape, plain.fan_in, plain.fan_out) == ((3, 2, 5), (0,), (1, 2))
    assert (first.shape, first.fan_in, first.fan_out) == ((5, 2, 3), (1, 2), (0,))
    conv = norms.conv("w", (2, 3), 4, 5)
    assert (conv.shape, conv.fan_in, conv.fan_out) == ((2, 3, 4, 5), (0, 1, 2), (3,))


def test_free_functions_are_those_of_the_usual_atoms():
    for name in ("linear", "embed", "bias", "scale", "conv", "dense", "layer_norm", "rms_norm", "depthwise_conv"):
        free, method = getattr(norms, name), getattr(ATOMS, name)
        assert (free.__func__, free.__self__) == (method.__func__, ATOMS)
    assert norms.rms_norm("n", 4).sensitivity == 1


def test_attention_counts_query_key_and_value_once():
    parts = [linear(name) for name in "qkv"]
    assert norms.attention(*parts, factor=1 / 3).sensitivity == pytest.approx(1)
    sharp = norms.attention(*parts, logits=norms.attention_logits("rsqrt", 16), scale=2)
    assert sharp.sensitivity == 1 + 2 * 4 * 2
    assert targets(sharp)["q"] == pytest.approx(1 / 3 / 8)


def test_residuals():
    assert norms.residual(linear("a")).sensitivity == 2
    assert norms.residual(2.0 * linear("a"), 4).sensitivity == pytest.approx(3 / 4 + 2 / 4)
