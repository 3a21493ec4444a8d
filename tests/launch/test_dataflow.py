"""launch/dataflow.py: the commands of a dry run, and that prepare and Beam understand what it passes on."""

import ast
import shlex
from pathlib import Path

import pytest
import yaml

from masksearch_jax.workflows import data_preparation

ROOT = Path(__file__).parents[2]
WHERE = ("--project=p", "--region=us-west1", "--workdir=gs://bucket/runs/demo")
DUMP = ("--dump=gs://bucket/dump.xml.bz2", "--index=gs://bucket/index.txt.bz2", "--image=us-west1-docker.pkg.dev/p/r/m")


def commands_of(done):
    assert done.returncode == 0, done.stderr
    return [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("$ ")]


def test_a_dry_run_shows_every_command_in_order(launcher, tools):
    tools("gcloud", "echo called >&2; exit 1")
    extra = ("--service-account=sa@p", "--subnetwork=regions/us-west1/subnetworks/s", "--max-workers=7")
    done = launcher("dataflow", "run", *WHERE, *DUMP, *extra, "--dry-run", "--", "--config.tasks.epochs=2")
    archive, build, setup, prepared, copied = commands_of(done)
    assert archive[:2] == ["git", "-C"] and build[:3] == ["gcloud", "builds", "submit"]
    assert build[3] == archive[-2].removeprefix("--output=")
    (image,) = (part.removeprefix("--substitutions=_IMAGE=") for part in build if "_IMAGE" in part)
    assert setup[-1] == "beam" and Path(setup[1]) == ROOT / "launch" / "setup.sh"
    assert prepared[1:3] == ["-m", "masksearch_jax.prepare"] and prepared[-1] == "--config.tasks.epochs=2"
    assert copied == ["gcloud", "storage", "rsync", "--recursive", "runs/demo/data", "gs://bucket/runs/demo/data"]
    settings = dict(part.removeprefix("--config.").split("=", 1) for part in prepared if part.startswith("--config."))
    options = ast.literal_eval(settings["beam.options"])
    assert f"--sdk_container_image={image}" in options and image.startswith("us-west1-docker.pkg.dev/p/r/m:")
    assert {"--max_num_workers=7", "--service_account_email=sa@p", "--no_use_public_ips"} <= set(options)
    assert settings["beam.runner"] == "DataflowRunner" and settings["beam.folder"] == "gs://bucket/runs/demo/shards"
    assert settings["dump"] == "gs://bucket/dump.xml.bz2"


def test_the_config_of_a_run_holds_the_settings_in_a_section(launcher):
    run = ("--config=configs/dapo.py:qwen2.5-7b", "--dry-run", "--", "--config.pretrained=HF_FOLDER")
    prepared = commands_of(launcher("dataflow", "run", *WHERE, *DUMP, *run))[3]
    given = [part for part in prepared if part.startswith("--config.")]
    assert given[0] == "--config.prepare.dump=gs://bucket/dump.xml.bz2" and given[-1] == "--config.pretrained=HF_FOLDER"
    assert len(given) == 7 and all(part.startswith("--config.prepare.") for part in given[:-1])


def test_prepare_reads_the_settings_and_beam_the_options(launcher):
    beam_options = pytest.importorskip("apache_beam.options.pipeline_options")
    from absl import flags
    from ml_collections import config_flags

    from masksearch_jax.prep.beam import beam_pipelines

    prepared = commands_of(launcher("dataflow", "run", *WHERE, *DUMP, "--dry-run"))[3]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=prepared[2:])
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(prepared[2:])
    config = values.config
    assert config.beam.shard_mb == 64.0 and config.indices  # the page, with what was overridden
    options = beam_options.PipelineOptions([f"--runner={config.beam.runner}", *config.beam.options])
    cloud = options.view_as(beam_options.GoogleCloudOptions)
    assert (cloud.project, cloud.region, cloud.temp_location) == ("p", "us-west1", "gs://bucket/runs/demo/tmp")
    assert options.view_as(beam_options.WorkerOptions).max_num_workers == 64
    assert options.get_all_options(drop_default=True).get("runner") == "DataflowRunner"
    # No flag is left over that Beam does not know.
    assert options.get_all_options(retain_unknown_options=True).keys() == options.get_all_options().keys()
    assert (
        data_preparation._beam and beam_pipelines.Workers(config, "unused").store.root == "gs://bucket/runs/demo/shards"
    )


def test_local_files_are_refused(launcher):
    done = launcher("dataflow", "run", *WHERE, "--dump=dump.xml.bz2", *DUMP[1:], "--dry-run")
    assert done.returncode == 1 and "gcloud storage cp it to gs://bucket/runs/demo" in done.stderr


def test_status_and_cancel(launcher):
    (shown,) = commands_of(launcher("dataflow", "status", *WHERE, "--dry-run"))
    assert shown[:4] == ["gcloud", "dataflow", "jobs", "list"] and "--filter=labels.masksearch-run=demo" in shown
    (shown,) = commands_of(launcher("dataflow", "cancel", *WHERE, "--job=7", "--dry-run"))
    assert shown[:5] == ["gcloud", "dataflow", "jobs", "cancel", "7"]


def test_image_and_constraints_agree():
    """The image is that of the Beam that the constraints pin, and the pins of the extra replace others of the file."""
    lines = (ROOT / "launch" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    docker = (ROOT / "launch" / "dataflow.Dockerfile").read_text()
    assert f"FROM apache/beam_python3.11_sdk:{pins['apache-beam']}\n" in docker
    own = dict(line.removeprefix("#beam: ").split("==") for line in lines if line.startswith("#beam: "))
    assert own and all(name in pins and pins[name] != version for name, version in own.items())
    build = yaml.safe_load((ROOT / "launch" / "dataflow_image.yaml").read_text())
    assert "--file=launch/dataflow.Dockerfile" in build["steps"][0]["args"]
