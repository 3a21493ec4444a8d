"""Convert published checkpoints to our format and back.

    python -m masksearch_jax.convert --from=HF_FOLDER --to=W/pretrained
    python -m masksearch_jax.convert --from=FILE.gguf --to=HF_FOLDER            a file of llama.cpp, dequantised
    python -m masksearch_jax.convert --from=W/dapo --to=HF_FOLDER --like=HF_FOLDER_IT_STARTED_FROM
    python -m masksearch_jax.convert --from=W/dapo --to=FOLDER --merge      adapters added into their base

What --from holds decides the direction: a .gguf file, safetensors files, or the `checkpoints` folder of a stage.
"""

from pathlib import Path

from absl import app, flags, logging

from masksearch_jax.runtime import cli

_DTYPES = ("float32", "bfloat16")  # model/config.py, DTYPES


def main(argv: list[str]) -> None:
    from masksearch_jax.workflows import command_summary, conversion  # imported here, so that --help needs no JAX

    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax logs every call
    given = flags.FLAGS.flag_values_dict()
    source, target = Path(given["from"]), Path(given["to"])
    like = Path(given["like"]) if given["like"] else None
    try:
        if source.suffix == ".gguf":
            conversion.from_gguf(source, target, given["dtype"] or "float32")
        elif (source / "checkpoints").is_dir():
            size = int(given["shard_gb"] * 1e9)
            conversion.to_published(
                source, target, like, given["dtype"] or "", given["step"], size, given["merge"], given["base"] or ""
            )
        else:
            conversion.from_published(source, target, given["dtype"] or "float32")
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"convert: {cli.sentence(error)}") from error
    print(f"convert: {source} -> {target}")
    command_summary.converted(source, target)


if __name__ == "__main__":
    flags.DEFINE_string("from", None, "A published folder, a .gguf file, or a stage folder of ours.", required=True)
    flags.DEFINE_string("to", None, "The folder to write.", required=True)
    flags.DEFINE_string("like", None, "A published folder to take token ids and the tokenizer from.")
    flags.DEFINE_enum("dtype", None, _DTYPES, "Of the weights written; default float32, or as stored.")
    flags.DEFINE_integer("step", None, "Which checkpoint of the stage; by default the last.")
    flags.DEFINE_bool("merge", False, "Add adapters into their base, and write the whole model.")
    flags.DEFINE_string("base", None, "A published folder, the base of the adapters; by default where it came from.")
    flags.DEFINE_float("shard_gb", 5.0, "Largest safetensors file, in 10^9 bytes.")
    cli.run(main)
