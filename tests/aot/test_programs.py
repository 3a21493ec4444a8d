"""Reading optimized programs, and the whole path to a slice for a tiny model where libtpu is installed."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from masksearch_jax.aot import hlo

ROOT = Path(__file__).parent.parent.parent

# Cut from a program of libtpu 0.0.42.1 (v5e:2x2, a scan over 8 layers), with an asynchronous all-reduce, a branch and a
# loop that depends on data put in, and with a counter that goes in twos, as in a loop that XLA unrolled.
PROGRAM = """HloModule jit_f, is_scheduled=true, num_partitions=4

%fused (param_0.1: bf16[256,1024], param_1.1: bf16[1,1024,512]) -> bf16[256,512] {
  %param_0.1 = bf16[256,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %param_1.1 = bf16[1,1024,512]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %bitcast = bf16[1024,512]{1,0:T(8,128)(2,1)} bitcast(%param_1.1)
  ROOT %convolution.5 = bf16[256,512]{1,0:T(8,128)(2,1)} convolution(%param_0.1, %bitcast), dim_labels=bf_io->bf
}

%body (arg: (s32[], bf16[256,512], bf16[8,512,512])) -> (s32[], bf16[256,512], bf16[8,512,512]) {
  %arg = (s32[]{:T(128)}, bf16[256,512]{1,0}, /*index=2*/bf16[8,512,512]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %x = bf16[256,512]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%arg), index=1
  %w = bf16[8,512,512]{2,1,0} get-tuple-element(%arg), index=2
  %slice = bf16[1,512,512]{2,1,0:T(8,128)(2,1)S(1)} dynamic-slice(%w, %i), dynamic_slice_sizes={1,512,512}
  %one = s32[] constant(1)
  %add.1 = s32[] add(%i, %one)
  %add = s32[] add(%add.1, %one)
  %all-gather.22 = bf16[256,1024]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), channel_id=1, dimensions={1}
  %all-gather.23 = bf16[1,1024,512]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%slice), channel_id=5, dimensions={1}
  %fusion.11 = bf16[256,512]{1,0} fusion(%all-gather.22, %all-gather.23), kind=kOutput, calls=%fused
  ROOT %tuple = (s32[], bf16[256,512]{1,0}, bf16[8,512,512]{2,1,0}) tuple(%add, %fusion.11, %w)
}

%condition (arg.1: (s32[], bf16[256,512], bf16[8,512,512])) -> pred[] {
  %arg.1 = (s32[], bf16[256,512]{1,0}, bf16[8,512,512]{2,1,0}) parameter(0)
  %end = s32[]{:T(128)} constant(15)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt.3 = pred[]{:T(512)} compare(%i.1, %end), direction=LT
}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.9 = f32[] add(%a, %b)
}

%left (p: f32[64,64]) -> f32[64,64] {
  ROOT %p = f32[64,64]{1,0} parameter(0)
}

%right (p.1: f32[64,64]) -> f32[64,64] {
  %p.1 = f32[64,64]{1,0} parameter(0)
  ROOT %convolution.6 = f32[64,64]{1,0} convolution(%p.1, %p.1), dim_labels=bf_io->bf
}

%open_body (s: (pred[], f32[8,64,64])) -> (pred[], f32[8,64,64]) {
  %s = (pred[], f32[8,64,64]{2,1,0}) parameter(0)
  %go = pred[] get-tuple-element(%s), index=0
  %y = f32[8,64,64]{2,1,0} get-tuple-element(%s), index=1
  %batched = f32[8,64,64]{2,1,0} convolution(%y, %y), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf
  ROOT %t = (pred[], f32[8,64,64]{2,1,0}) tuple(%go, %batched)
}

%open_condition (s.1: (pred[], f32[8,64,64])) -> pred[] {
  %s.1 = (pred[], f32[8,64,64]{2,1,0}) parameter(0)
  ROOT %go.1 = pred[] get-tuple-element(%s.1), index=0
}

ENTRY %main (x: bf16[256,512], w: bf16[8,512,512], z: f32[64,64], y: f32[8,64,64], p: pred[]) -> f32[64,64] {
  %x.1 = bf16[256,512]{1,0} parameter(0)
  %w.1 = bf16[8,512,512]{2,1,0} parameter(1)
  %z = f32[64,64]{1,0} parameter(2)
  %y.1 = f32[8,64,64]{2,1,0} parameter(3)
  %p.2 = pred[] parameter(4)
  %zero = s32[]{:T(128)} constant(0)
  %copy = s32[]{:T(128)} copy(%zero)
  %tuple.1 = (s32[], bf16[256,512]{1,0}, bf16[8,512,512]{2,1,0}) tuple(%copy, %x.1, %w.1)
  %while.10 = (s32[], bf16[256,512]{1,0}, bf16[8,512,512]{2,1,0}) while(%tuple.1), condition=%condition, body=%body
  %all-reduce-start = f32[64,64]{1,0} all-reduce-start(%z), channel_id=7, to_apply=%sum
  %all-reduce-done = f32[64,64]{1,0} all-reduce-done(%all-reduce-start)
  %cond = f32[64,64]{1,0} conditional(%p.2, %z, %z), branch_computations={%left, %right}
  %tuple.2 = (pred[], f32[8,64,64]{2,1,0}) tuple(%p.2, %y.1)
  %while.11 = (pred[], f32[8,64,64]{2,1,0}) while(%tuple.2), condition=%open_condition, body=%open_body
  ROOT %reduce-scatter = f32[16,64]{1,0} reduce-scatter(%all-reduce-done), channel_id=8, dimensions={0}, to_apply=%sum
}
"""


def test_loops_branches_and_collectives_of_a_stored_program():
    found = hlo.work(PROGRAM, trips=3)
    scanned = 8 * 2 * 256 * 1024 * 512
    branch, batched = 2 * 64**3, 3 * 2 * 8 * 64**3
    assert found.flops == scanned + branch + batched
    assert found.collectives == {
        "all-gather": (16, 8 * (256 * 1024 + 1024 * 512) * 2),
        "all-reduce": (1, 64 * 64 * 4),
        "reduce-scatter": (1, 64 * 64 * 4),
    }
    assert found.open_loops == 1
    with pytest.raises(ValueError, match="no HLO text"):
        hlo.work("module {}")


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "stride", "pad", "dilate", "pairs"),
    [(8, 8, 8, 7, 0, 8, 8), (5, 5, 3, 1, 1, 1, 13), (4, 2, 2, 2, 0, 1, 4)],  # a batch axis; a padded window; strides
)
def test_valid_window_positions(inputs, outputs, size, stride, pad, dilate, pairs):
    assert hlo._valid_pairs(inputs, outputs, size, stride, pad, dilate, 1) == pairs


def test_flops_of_a_compiled_program_count_every_layer():
    def program(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    x, weights = jnp.zeros((16, 32)), jnp.zeros((7, 32, 32))
    text = jax.jit(program).lower(x, weights).compile().as_text()
    assert hlo.work(text).flops == 7 * 2 * 16 * 32 * 32


SPLASH = """HloModule jit_f, is_scheduled=true

ENTRY %main (t: s8[1], q: bf16[2], k: bf16[2], i: s32[2]) -> bf16[2] {
  %copy-done.2 = s8[TABLE]{2,1,0:T(4,128)(4,1)} parameter(0)
  %bitcast.13 = bf16[2,4,ROWS,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %bitcast.17 = bf16[2,2,LENGTH,64]{3,2,1,0:T(8,128)(2,1)} parameter(2)
  %broadcast.1 = s32[2,ROWS,128]{2,1,0:T(8,128)} parameter(3)
  ROOT %splash_mha_NAME.1 = (f32[128,128]{1,0:T(8,128)}, bf16[2,4,ROWS,64]{3,2,1,0:T(8,128)(2,1)S(1)}) custom-call(\
%copy-done.2, %copy-done.2, %bitcast.13, %bitcast.17, %bitcast.17, /*index=5*/%broadcast.1), custom_call_target=\
"tpu_custom_call", operand_layout_constraints={s8[TABLE]{2,1,0}}, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512, \\"block_kv\\": 512}"
}}, metadata={op_name="jit(f)/pallas_call" stack_frame_id=5}
}
"""


@pytest.mark.parametrize(("window", "parts"), [(0, 1), (300, 1), (700, 1), (0, 2), (300, 2)])
def test_flops_of_a_splash_kernel_are_of_the_tiles_that_it_visits(window, parts):
    """Told from the shapes of the call alone; the kernel's own table says which tiles it visits."""
    from masksearch_jax.model import packed_attention
    from masksearch_jax.model.config import ModelConfig

    length, tile = 4096, 512
    mesh = jax.sharding.AbstractMesh((parts,), ("sequence",))
    with jax.sharding.use_abstract_mesh(mesh):
        kernel = packed_attention._kernel(ModelConfig(vocab_size=8), 4, length, window, interpret=True)
    tables = {
        "fwd_segmented_residuals": (kernel.fwd_mask_info, 2),
        "dq_segmented_no_residuals": (kernel.dq_mask_info, 3),
        "dkv_segmented_no_residuals": (kernel.dkv_mask_info, 4),
    }
    for name, (info, products) in tables.items():
        last = info.block_mask[:, -(info.block_mask.shape[1] // parts) :]
        text = SPLASH.replace("NAME", name).replace("ROWS", str(length // parts)).replace("LENGTH", str(length))
        text = text.replace("TABLE", ",".join(map(str, last.shape)))
        visited = int((last > 0).sum())
        assert hlo.work(text).flops == products * 2 * 2 * 4 * visited * tile * tile * 64, name


def test_decode_copy_is_bfloat16_but_for_norms():
    from masksearch_jax.model import transformer
    from masksearch_jax.model.config import ModelConfig
    from masksearch_jax.model.policy import Policy
    from masksearch_jax.runtime import mesh as mesh_lib

    cfg = ModelConfig(vocab_size=64, layers=2, embed=16, heads=2, kv_heads=1, head_dim=8, ff=16, dtype="bfloat16")
    mesh = mesh_lib.make_mesh(1, 1, 1)
    params = transformer.init_params(cfg, 0, mesh)
    copied = Policy(cfg, mesh).decode_copy()(params)
    wide = mesh_lib.make_mesh(1, 4, 2)
    cut = Policy(cfg, wide).decode_copy()(transformer.init_params(cfg, 0, wide))
    axes = transformer.logical_axes(cfg)
    ids, counts = jnp.arange(8, dtype=jnp.int32).reshape(1, 8), jnp.array([8])

    def last(tree):
        from masksearch_jax.model import kv_cache

        return jax.jit(functools.partial(transformer.extend, cfg))(
            tree, kv_cache.init_cache(cfg, 1, 8, mesh), ids, counts
        )

    for name, leaf in {"embedding": copied["embedding"], "final_norm": copied["final_norm"]}.items():
        assert leaf.dtype == (jnp.float32 if "norm" in axes[name] else jnp.bfloat16)
    assert cut["blocks"]["mlp"]["up"].sharding.spec == jax.P(None, None, "tensor")
    # The sampler reads the very numbers that the trainer computes with.
    assert (last(params)[0] == last(copied)[0]).all()


def test_the_compilers_overflow_is_told_in_numbers():
    from masksearch_jax.aot import programs as compile_

    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (1.5T) exceeds "
        "available HBM (15.75G)."
    )
    assert compile_.overflow(message) == "it needs 1536.00 GiB and there are 15.75, 1520.25 too little"
    assert compile_.overflow("RESOURCE_EXHAUSTED: else\nmore") == "RESOURCE_EXHAUSTED: else"


def test_chip_hours_by_hand():
    from masksearch_jax.aot import costs, topologies
    from masksearch_jax.aot import programs as compile_

    report = compile_.Report("x", "sft", int(4e9), 0, 0, 0, 0, 459e12, {}, 0.0, 0.0)
    slice_ = topologies.parse("v5p-8")
    # 459 TFLOP a chip and step are 1 s at peak, 2.5 s at 40 %; 1000 steps on 4 chips.
    assert costs.training_hours(report, 1e6, 1e9, slice_, 0.4) == pytest.approx(1000 * 2.5 * 4 / 3600)
    # 4 GB at half of 2765 GB/s are 2.893 ms a step of 64 tokens.
    assert costs.sampling_hours(report, 64, 64e6, slice_, 0.5) == pytest.approx(1e6 * 8 / 2765 * 4 / 3600)


def compiled(tmp_path, *flags):
    """Runs the entry as a person would; returns (stdout, the JSON or None, stderr)."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -c launch/constraints.txt -e '.[tpu]'")
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "masksearch_jax.compile", *flags, f"--json={out}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout, json.loads(out.read_text()) if out.exists() else None, done.stderr


def test_tiny_step_compiles_for_a_slice(tmp_path):
    page = ("--config=configs/sft.py", "--config.sft.rows=8", "--config.mesh.data=2", "--config.mesh.fsdp=-1")
    printed, result, errors = compiled(tmp_path, *page, "--topology=v6e-8", "--config.model.scan_unroll=1")
    assert result, errors
    assert "v6e-8 (v6e:2x4, 8 chips on 1 host): mesh data 2, fsdp 4" in printed
    assert (result["topology"], result["config"]) == ("v6e:2x4", "configs/sft.py")
    (step,) = result["programs"]
    assert 0 < result["resident_bytes"] < result["peak_bytes"] == step["peak_bytes"]
    assert step["collectives"] and step["compile_seconds"] > 0
    # Forward and backward of the matrix products, one row of 256 tokens a chip: at least 6 FLOPs a weight and token.
    assert step["flops"] > 6 * 256 * 3 * (4 * 128 * 128 + 2 * 128 * 256)


@pytest.mark.slow
@pytest.mark.parametrize("slice_", ["v5e-8", "v6e-8", "v5p-16"])
def test_splash_compiles_for_a_slice_with_its_flops(slice_, tmp_path):
    """Two query heads on two tensor shards that share one key-value head, float32, two tiles a row; 'auto' takes it."""
    page = ["--config=configs/sft.py", f"--topology={slice_}", "--config.sft.rows=4", "--config.sft.row_length=1024"]
    page += ["--config.mesh.data=1", "--config.mesh.fsdp=-1", "--config.mesh.tensor=2", "--config.model.kv_heads=1"]
    flops = {}
    for attention, runs in (("auto", "splash"), ("xla", "xla")):
        printed, result, errors = compiled(
            tmp_path, *page, "--config.model.scan_unroll=1", f"--config.model.attention={attention}"
        )
        assert result, errors
        assert f"attention {runs}" in printed
        flops[runs] = result["programs"][0]["flops"]
    # 9 products of the 3 tiles of 4 at or below the diagonal against 6 of whole squares; a row and a head a chip.
    square = 2 * 1024**2 * 64
    assert flops["splash"] - flops["xla"] == 3 * (9 * 3 / 4 - 6) * square


def test_an_overflow_names_the_program(tmp_path):
    _, result, errors = compiled(
        tmp_path,
        "--config=configs/sft.py",
        "--topology=v5e-1",
        "--config.sft.rows=65536",
        "--config.sft.row_length=512",
    )
    assert result is None
    assert "Traceback" not in errors and "sft_step" in errors and "v5e:1x1" in errors and "too " in errors


def test_adapters_and_their_base_are_counted_once():
    """Resident trees of a page with adapters, in bytes by hand; and its programs lower from shapes alone."""
    from configs import dapo, sft
    from masksearch_jax.aot import programs as compile_
    from masksearch_jax.runtime import mesh as mesh_lib

    def size(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    mesh = mesh_lib.make_mesh(1, 2, 2)
    resident = {}
    for rank in (0, 4):
        for page in (sft, dapo):
            cfg = page.get_config()
            cfg.lora.rank, cfg.sft.optimizer.kind, cfg.model.layers = rank, "adamw", 1
            cfg.sft.rows = 8
            if cfg.stage == "dapo":
                cfg.dapo.share_prefixes = bool(rank)  # the update then has three more arrays
            work = compile_.stage_programs(cfg, mesh)
            resident[rank, cfg.stage] = {name: size(tree) for name, tree in work.resident.items()}
            if cfg.stage == "dapo":  # any prompt that an episode may have fits the prefix
                cache, prefix = (resident[rank, "dapo"][name] for name in ("cache", "prefix"))
                assert prefix == cache * cfg.rollout.prompt_rows / cfg.rollout.slots
            if rank:
                with jax.set_mesh(mesh):
                    for program in work.programs:
                        if program.name in ("sft_step", "decode_copy", "old_logprobs", "dapo_step"):
                            program.lower()
                            assert "base" in program.uses
                assert all(kept.count("base") == 1 for kept in work.phases.values())
    weights = 1362 * 128 + 128 + 2 * 128 + 2 + 4 * 128 * 128 + 2 * 128 * 256
    adapters = 4 * (4 * (128 + 128) + 2 * (128 + 256))
    # float32 weights and two moments, or these of the adapters; a few bytes are counters.
    assert resident[0, "sft"]["state"] == pytest.approx(12 * weights, abs=32)
    assert resident[4, "sft"]["state"] == pytest.approx(12 * adapters, abs=32)
    assert resident[4, "sft"]["base"] == resident[4, "dapo"]["base"] == 4 * weights
    assert resident[4, "dapo"]["start"] == resident[4, "dapo"]["params"] == 4 * adapters
    assert resident[4, "dapo"]["weights"] == resident[0, "dapo"]["weights"] == 4 * weights
