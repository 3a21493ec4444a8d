"""The recipes: each page fits its mesh and its shapes; and, compiled, each fits the chip."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs import dapo, evaluate, language_model, recipes, sft, stage2_sft
from masksearch_jax.aot import topologies
from masksearch_jax.model import transformer
from masksearch_jax.model.config import from_config
from masksearch_jax.trainers import updates
from masksearch_jax.workflows import training

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_page_fits_its_mesh(name):
    config, slice_ = dapo.get_config(name), topologies.parse(recipes.RECIPES[name].topology)
    model = from_config(config.model)
    assert (model.dtype, model.param_dtype, model.remat) == ("bfloat16", "float32", "full")
    mesh = config.mesh
    assert mesh.tensor in transformer.tensor_sizes(model)
    assert math.prod(slice_.host_bounds) % mesh.tensor == 0  # within a host
    chips = slice_.chips * mesh.dcn_data
    assert chips == recipes.RECIPES[name].chips and chips % (mesh.data * mesh.tensor) == 0
    fsdp = chips // (mesh.data * mesh.tensor)
    assert model.embed % fsdp == 0 and mesh.data % mesh.dcn_data == 0
    shards = mesh.data * fsdp
    # Every axis that is cut over the shards of the batch: rows, slots, prompts and appends.
    for size in (config.rollout.slots, config.rollout.prompt_rows, *config.rollout.extend_rows, config.dapo.rows):
        assert size % shards == 0
    updates.batch_shape(
        config.dapo, config.episode.total_tokens, SimpleNamespace(shape={"data": mesh.data, "fsdp": fsdp})
    )
    own = sft.get_config(name)
    assert own.sft.rows % (own.sft.micro_batches * shards) == 0
    assert own.model == config.model and own.stage == "sft"
    assert config.trajectories.rate and not config.trajectories.after_update  # kept, without a forward pass more


@pytest.mark.parametrize("page", [sft, dapo, stage2_sft, evaluate], ids=lambda page: page.__name__)
def test_a_recipe_has_the_prompts_of_a_published_model(page):
    config, other = page.get_config("qwen2.5-1.5b"), language_model.get_config()
    config.pretrained = "HF_FOLDER"
    assert config.prepare.tokenizer_dir == "HF_FOLDER"
    for name in ("titles", "chat", "system", "instruction", "question_instruction", "epochs"):
        assert config.prepare.tasks[name] == other.prepare.tasks[name]
    assert config.synthesize.wording == other.synthesize.wording != "words"
    assert config.synthesize.styles == other.synthesize.styles
    config.prepare.tokenizer_dir = "another"
    assert config.pretrained == "HF_FOLDER"


def test_a_recipe_without_a_published_model_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"would train fresh parameters; give its folder, --config.pretrained"):
        training.run(dapo.get_config("qwen2.5-1.5b"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_family_and_generation_is_there():
    models = {recipe.model for recipe in recipes.RECIPES.values()}
    sizes = ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b", "llama3.2-1b", "llama3.2-3b", "llama3.1-8b"]
    assert models == set(sizes)
    slices = [topologies.parse(recipe.topology) for recipe in recipes.RECIPES.values()]
    assert {one.generation.name for one in slices} == {"v5e", "v6e", "v5p"}
    assert max(one.chips for one in slices) == 4096


def test_the_default_of_a_policy_from_scratch_is_untouched():
    page = dapo.get_config()
    assert (page.model.embed, page.model.dtype, page.rollout.slots, page.dapo.rows) == (128, "float32", 64, 4)
    assert "topology" not in page and "vocab_size" not in page.model


def test_tables_are_of_what_compile_writes(tmp_path, capsys):
    """The driver on results as compile.summary gives them: one row a page, the arithmetic by hand."""
    from benchmarks import recipes as driver
    from masksearch_jax.aot import programs as compile_

    def result(page, name, **programs):
        slice_ = topologies.parse(recipes.RECIPES[name].topology)
        reports = [
            compile_.Report(program, "p", arguments, 0, temporaries, 2 << 30, 1 << 30, flops, {}, 90.0, 45.0)
            for program, (arguments, temporaries, flops) in programs.items()
        ]
        config = {"sft.py": sft, "dapo.py": dapo}[page].get_config(name)
        found = compile_.summary(config, f"configs/{page}:{name}", slice_, {"state": 2 << 30}, reports)
        driver.result_file(tmp_path, f"{page}:{name}").write_text(json.dumps(found))
        return config

    config = result("sft.py", "qwen2.5-7b@2xv5p-128", sft_step=(4 << 30, 5 << 30, 459e12))
    decode = {"decode": (3 << 30, 1 << 29, 1e12), "decode_copy": (1 << 30, 0, 0.0)}
    result("dapo.py", "qwen2.5-0.5b", dapo_step=(1 << 30, 1 << 30, 2e12), prefill=(1 << 30, 0, 0.0), **decode)
    driver.main([f"--folder={tmp_path}", "--tables", "--price=v5p:4"])
    printed = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in printed if line.startswith("| ")]
    cells = {row[0]: row for row in reversed(rows)}  # of a page that heads a table of its own, the first
    assert cells["sft.py:qwen2.5-7b@2xv5p-128"][1:] == [
        "2 x v5p-128", "128", "2.00", "10.00", "10%", "sft_step", "459", "45 of 45"
    ]  # fmt: skip
    assert cells["dapo.py:qwen2.5-0.5b"][3:7] == ["2.00", "4.50", "14%", "decode"]
    assert cells["decode"][2:6] == ["3.00", "0.00", "0.50", "4.50"] and "prefill" in cells  # the page with most
    bills = [row for row in rows if row[0] in ("training", "sampling")]
    # 459 TFLOP are 1 s at peak, 2.5 s at 40 %; the whole step is of both slices and so are the chips.
    hours = 14e9 / (config.sft.rows * config.sft.row_length) * 2.5 * 128 / 3600
    assert bills[0][2:] == [f"{hours:,.0f}", f"{hours / 128 / 24:.1f}", "4.00", f"{4 * hours:,.0f}"]
    sampled = 14e9 / (8 * 16) * (3 << 30) / 820e9 * 8 / 3600
    assert bills[1][1:] == ["dapo.py:qwen2.5-0.5b", f"{sampled:,.0f}", f"{sampled / 8 / 24:.1f}", "-", "-"]
    with pytest.raises(ValueError, match="v7:3: generations are v4, v5e"):
        driver.read_prices(["v7:3"])


def test_a_page_that_fails_to_compile_is_told(tmp_path, capsys):
    from benchmarks import recipes as driver

    assert not driver.compile_page("sft.py:nonsense", tmp_path, "")
    assert "sft.py:nonsense: exit status 1" in capsys.readouterr().err and not list(tmp_path.glob("*.json"))


# Recipe -> GiB a chip that its largest program may need, resident trees included: a little over what docs/recipes.md
# lists. A change that costs memory shows here before it shows on a slice.
BUDGETS = {
    "sft.py:qwen2.5-7b": 7.0,
    "dapo.py:qwen2.5-7b": 20.0,
    "dapo.py:qwen2.5-0.5b": 8.0,
    "dapo.py:qwen2.5-1.5b": 20.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", BUDGETS)
def test_compiled_recipe_keeps_to_its_budget(page, tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -c launch/constraints.txt -e '.[tpu]'")
    out = tmp_path / "out.json"
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
    command = [sys.executable, "-m", "masksearch_jax.compile", f"--config=configs/{page}", f"--json={out}"]
    subprocess.run([*command, "--only=_step|decode"], cwd=ROOT, env=environment, check=True)
    found = json.loads(out.read_text())
    assert found["peak_bytes"] < BUDGETS[page] * topologies.GIB < found["hbm_limit_bytes"]
    steps = [program for program in found["programs"] if program["name"].endswith("_step")]
    # Of CPU: what the wall would show on a machine with nothing else to do.
    assert len(steps) == 1 and steps[0]["compile_cpu_seconds"] < 300
