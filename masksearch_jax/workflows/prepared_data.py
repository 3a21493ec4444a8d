"""Check that the data of a workdir is what a run asks for: compare the run's prepare settings with the manifest.

Data is often prepared by its own command, and then trained on with a config whose prepare settings are mere defaults.
So a setting that the run leaves at its default is taken as the data has it, and the difference is printed. A setting
that the config or the command line states must be the one that made the data. For a published tokenizer its content
counts and not its path, since the machine that prepares and the hosts of a slice keep the folder in different places.
"""

import runpy
import sys
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.runtime import json_files, settings_history
from masksearch_jax.runtime.config_files import find_config
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.text import added_tags, chat_template, instructions, published_tokenizer, tokenizer
from masksearch_jax.text.tokenizer_protocol import Tokenizer
from masksearch_jax.workflows import llm_connection
from masksearch_jax.workflows.problems import Problems

_BASE_CONFIG = "configs/common.py"


def recorded(settings: ConfigDict) -> JsonObject:
    """Return the settings that the data depends on; of `llm` those that decide a reply, if it is asked for spans."""
    found = settings.to_dict()
    del found["overwrite"], found["llm"], found["beam"]  # who does the work changes no record
    if settings.spans == "llm":
        found["llm"] = llm_connection.deciding(settings.llm)
    if settings.spans != "perplexity":
        del found["perplexity"]
    # The manifests of older data lack these settings, so a setting at its old value is not recorded.
    for name, older in (("spans", "rules"), ("corroborated", False), ("search_only", "")):
        if found[name] == older:
            del found[name]
    if not any(found["corpus"].values()):
        del found["corpus"]
    if not found["tokenizer"]["added_tags"]:
        del found["tokenizer"]["added_tags"]
    if not found["tasks"]["titles"]:
        del found["tasks"]["titles"]
    if found["tasks"]["instruction_place"] == "after":  # as above
        del found["tasks"]["instruction_place"]
    if not found["tasks"]["chat_variables"]:
        del found["tasks"]["chat_variables"]
    return found


def check_sources(cfg: ConfigDict) -> None:
    """Check what `cfg.prepare` makes data from, before the process that prepares starts.

    Raises ValueError or FileNotFoundError that names every file which is not there, and a tokenizer or a chat template
    that cannot be used.
    """
    settings, problems = cfg.prepare, Problems()
    problems.check(_check_files, "dump", settings.dump, ("", "toy"))
    if not settings.dump:
        problems.check(_refuse_no_dump)
    for name in ("questions", "search_only", "newer_dump"):
        problems.check(_check_files, name, settings[name], ("", "toy"))
    for name, file in settings.benchmarks.items():
        problems.check(_check_files, f"benchmarks.{name}", file, ("",))
    problems.check(_check_tokenizer, cfg)
    problems.raise_found()


def _refuse_no_dump() -> None:
    raise ValueError(
        "prepare.dump='': name the corpus to learn from, --config.prepare.dump=FILE (docs/data_formats.md has the "
        "forms), or 'toy' for the toy encyclopedia"
    )


def _check_files(name: str, setting: str, without: tuple[str, ...]) -> None:
    """Raise FileNotFoundError for the first file that is not here. What names several files or none is not judged."""
    for entry in () if setting in without else map(str.strip, setting.split(",")):
        if "://" not in entry and not set("*?[") & set(entry) and not Path(entry).exists():
            raise FileNotFoundError(f"prepare.{name}={entry!r}: no such file; give one that is there")


def _check_tokenizer(cfg: ConfigDict) -> None:
    settings = cfg.prepare
    if cfg.pretrained and not settings.tokenizer_dir:
        raise ValueError(
            f"prepare.tokenizer_dir='' with pretrained={cfg.pretrained!r}: the data would have a tokenizer that the "
            f"model has never seen; give --config.prepare.tokenizer_dir={cfg.pretrained}"
        )
    if not settings.tokenizer_dir or not Path(settings.tokenizer_dir).is_dir():
        return
    opened = published_tokenizer.PublishedTokenizer(settings.tokenizer_dir, settings.tasks.chat)
    variables = chat_template.read_variables(settings.tasks.chat_variables)
    system = instructions.text_of("system", settings.tasks.system)
    chat_template.open_chat_template(opened, settings.tasks.chat, system, variables)


def check_prepared(cfg: ConfigDict, workdir: Path, again: str, warn: bool = True) -> None:
    """Compare `cfg.prepare` with the manifest of `workdir`/data; if `warn`, print on stderr how the data differs.

    again: the command that prepares the data with the settings of this run. Raises ValueError that names each setting
    that this run states and the data was not made with.
    """
    data = workdir / "data"
    manifest = json_files.read_json_object(data / "manifest.json", f"remove {data} and prepare it again:\n  {again}")
    if "settings" not in manifest:
        return
    there = dict(settings_history.leaves(manifest["settings"]))
    here, default = _leaves(cfg.prepare), _leaves(runpy.run_path(find_config(_BASE_CONFIG))["base_config"]().prepare)
    stated = {name for name in here.keys() | default.keys() if here.get(name) != default.get(name)}
    if here.get("seed") == cfg.seed:  # it follows the run's seed, and nobody asked for other data
        stated.discard("seed")
    if here.get("dump") == "":  # a config that leaves the dump to the command line
        stated.discard("dump")
    if here.get("tokenizer_dir") != there.get("tokenizer_dir") and _is_tokenizer_of(data, manifest, cfg.prepare):
        stated.discard("tokenizer_dir")  # the same folder in another place, as on another machine
    # A setting that only this run has, at its default, is newer than the data.
    different = {name for name in there.keys() | stated if there.get(name) != here.get(name)}
    if refused := sorted(different & stated):
        raise ValueError(
            f"{data} was prepared with other settings than this run asks for: "
            + "; ".join(f"prepare.{n} is {_shown(there, n)} there and {_shown(here, n)} here" for n in refused)
            + ". Leave them out to train on the data as it is, take another --workdir, or replace the data:\n  "
            + f"{again} --config.overwrite=True"
        )
    _check_dump(data, manifest, stated, again)
    if different and warn:
        listed = ", ".join(f"prepare.{n} {_shown(there, n)} (here {_shown(here, n)})" for n in sorted(different))
        print(f"{data} is used as it was prepared: {listed}", file=sys.stderr, flush=True)


def _is_tokenizer_of(data: Path, manifest: JsonObject, settings: ConfigDict) -> bool:
    """Return True if the folder `settings.tokenizer_dir` would give the tokenizer that the data has."""
    folder = Path(settings.tokenizer_dir)
    if not (folder / "tokenizer.json").is_file() or not (data / tokenizer.PUBLISHED).is_dir():
        return False
    template = data / tokenizer.PUBLISHED / chat_template.FILE  # maybe another one than the folder's, by tasks.chat
    with tempfile.TemporaryDirectory() as copy:
        chat = str(template) if template.is_file() else chat_template.AUTO
        found: Tokenizer = published_tokenizer.copy(folder, Path(copy) / tokenizer.PUBLISHED, chat)
        if manifest["settings"].get("tokenizer", {}).get("added_tags") and added_tags.add_tags(found.path):
            found = tokenizer.load(copy)
        return found.fingerprint == tokenizer.load(data).fingerprint


def _check_dump(data: Path, manifest: JsonObject, stated: set[str], again: str) -> None:
    """Raise ValueError if the dump that the run states has another size than when the data was made."""
    source = manifest.get("source", {})
    dump, size = str(source.get("path", "")), source.get("bytes")
    files = [Path(name.strip()) for name in dump.split(",")]
    if "dump" not in stated or not all(file.is_file() for file in files):
        return
    now = sum(file.stat().st_size for file in files)
    if now != size:
        raise ValueError(
            f"{data} was prepared from prepare.dump={dump} when it had {size} bytes, and it has {now} now. Take "
            f"another --workdir, or replace the data:\n  {again} --config.overwrite=True"
        )


def _leaves(settings: ConfigDict) -> JsonObject:
    return dict(settings_history.leaves(settings_history.plain(recorded(settings))))


def _shown(settings: JsonObject, name: str) -> str:
    return settings_history.shown(settings[name]) if name in settings else "the default"
