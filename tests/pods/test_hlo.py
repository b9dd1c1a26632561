"""Program texts: hand-written ones for the ways of writing, compiled ones for the counts."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.pods import hlo, topologies

LOOP = """\
HloModule jit_f, is_scheduled=true

%fused (param_0: f32[8,16]) -> f32[8,32] {
  %param_0 = f32[8,16]{1,0:T(8,128)} parameter(0)
  %weights = f32[16,32]{1,0} constant({...})
  ROOT %dot = f32[8,32]{1,0:T(8,128)} convolution(%param_0, %weights), dim_labels=bf_io->bf
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[]{:T(128)}, /*index=1*/f32[8,16]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%p), index=1
  %y = f32[8,32]{1,0} fusion(%x), kind=kOutput, calls=%fused, backend_config={"estimated_cycles":"100"}
  %sum = f32[8,32]{1,0} all-reduce(%y), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %next = (s32[], f32[8,16]{1,0}) tuple(%x, %x)
}

%condition (q: (s32[], f32[8,16])) -> pred[] {
  %q = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%logged (r: f32[8,16]) -> f32[8,16] {
  %r = f32[8,16]{1,0} parameter(0)
  ROOT %r2 = f32[8,16]{1,0} all-reduce(%r), channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add
}

%quiet (t: f32[8,16]) -> f32[8,16] {
  ROOT %t = f32[8,16]{1,0} parameter(0)
}

ENTRY %main (a: f32[8,16], c: pred[]) -> f32[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %c = pred[] parameter(1)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,16]{1,0}) tuple(%zero, %a)
  %loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%condition, body=%body
  %gathered = f32[32,16]{1,0} all-gather(%a), channel_id=3, replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  %moved = f32[8,16]{1,0} collective-permute(%a), channel_id=4, source_target_pairs={{0,1},{1,0}}
  ROOT %out = f32[8,16]{1,0} conditional(%c, %a, %a), true_computation=%logged, false_computation=%quiet
}
"""


def test_loop_bodies_count_as_often_as_they_run_and_branches_as_not_run():
    program = hlo.Program(LOOP)
    matmul = 2.0 * 8 * 16 * 32
    assert program.costs(program.executions()).flops == 5 * matmul
    assert program.costs(program.executions()).cycles == 500
    assert program.costs(program.executions(loops=False, branches=True)).flops == matmul
    assert program.unknown_loops == 0


def test_collectives_have_kind_bytes_group_and_times():
    found = {c.kind: (c.bytes, c.group_size, c.times) for c in hlo.Program(LOOP).collectives()}
    assert found == {
        "all-reduce": (8 * 32 * 4, 4, 5),
        "all-gather": (32 * 16 * 4, 4, 1),
        "collective-permute": (8 * 16 * 4, 2, 1),
    }


def test_a_loop_without_a_limit_in_its_condition_counts_once_and_is_told():
    program = hlo.Program(LOOP.replace("s32[]{:T(128)} constant(5)", "s32[] get-tuple-element(%q), index=0"))
    assert program.unknown_loops == 1
    assert program.executions()["body"] == 1


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="as_text"):
        hlo.Program("not HLO")


def test_types_have_their_widths():
    assert list(hlo.arrays("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, pred[], s32[7], f8e4m3fn[4])")) == [
        (2, (2, 3)),
        (1, ()),
        (4, (7,)),
        (1, (4,)),
    ]


@pytest.fixture(scope="module")
def compiled(libtpu):  # noqa: ARG001
    """x <- tanh(psum(x @ w)) seven times, a batched product, a scatter and a gather, on a v5e 2x2."""
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=topologies.devices(topologies.parse("v5e-4")))

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P()), out_specs=(P(), P("data"), P()), check_vma=False
    )
    def program(w_NxN, x_BxN, stack_SxNxN):
        def body(x, _):
            return jnp.tanh(jax.lax.psum(x @ w_NxN, "data")), None

        x, _ = jax.lax.scan(body, x_BxN, length=7)
        products = jnp.einsum("sij,sjk->sik", stack_SxNxN, stack_SxNxN)
        scattered = jax.lax.psum_scatter(stack_SxNxN[0] + x[0, 0], "data", tiled=True)
        return x, scattered, jax.lax.all_gather(jnp.exp(x), "data") + products.sum()

    shapes = [((128, 128), P()), ((64, 128), P("data")), ((12, 128, 128), P())]
    arguments = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, spec)) for s, spec in shapes]
    return jax.jit(program).lower(*arguments).compile()


def test_flops_of_a_compiled_program_are_those_of_its_products(compiled):
    program = hlo.Program(compiled.as_text())
    loop, batched = 2.0 * 16 * 128 * 128, 2.0 * 12 * 128**3
    assert program.costs(program.executions()).flops == 7 * loop + batched
    # XLA adds element-wise FLOPs; measured: 1.5 % here.
    ours = program.costs(program.executions(loops=False, branches=True)).flops
    assert ours == loop + batched
    assert compiled.cost_analysis()["flops"] == pytest.approx(ours, rel=0.03)


def test_collectives_of_a_compiled_program(compiled):
    found = {(c.kind, c.group_size, c.times): c.bytes for c in hlo.Program(compiled.as_text()).collectives()}
    assert found == {
        ("all-reduce", 4, 7.0): 16 * 128 * 4,
        ("reduce-scatter", 4, 1.0): 128 * 128 * 4,
        ("all-gather", 4, 1.0): 4 * 16 * 128 * 4,
    }
