"""The reader of traces, on one that this process writes."""

import jax
import jax.numpy as jnp

from benchmarks import trace


def test_times_go_to_stages_programs_and_named_parts(tmp_path):
    @jax.jit
    def program(x):
        with jax.named_scope("attention"):
            x = jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x @ x), x)
        return x

    x = jnp.ones((64, 64))
    program(x).block_until_ready()
    jax.profiler.start_trace(tmp_path)
    with jax.profiler.TraceAnnotation("update"):
        program(x).block_until_ready()
    jax.profiler.stop_trace()
    (path,) = tmp_path.rglob("*.xplane.pb")
    found = trace.measure(path)
    assert found["stage"]["update"] > 0
    # The loop itself is left out: its time is that of what it runs.
    assert found["program"]["jit_program"] < found["stage"]["update"]
    inside = found["part"]["jit_program: attention"]
    assert inside > 0.5 * found["program"]["jit_program"]


def test_parts_of_names():
    assert trace.part_of("jit(step)/jvp(blocks)/attention/attend/dot_general") == "attend"
    assert trace.part_of("jit(step)/transpose(jvp(mlp))/dot_general") == "mlp, backward"
    assert trace.part_of("jit(step)/while/body/add") == "other"
