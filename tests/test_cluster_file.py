"""The cluster launcher file is what Ray's own schema asks for, and names only what exists."""

import copy
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray._private.runtime_env.packaging import _dir_travel
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
FILE = ROOT / "ray_cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(FILE)
    return loaded


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` does before it talks to a cloud; returns the file with Ray's defaults filled in."""
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def commands(config: dict[str, Any]) -> list[str]:
    """Every command of the file, in the order in which a machine runs them."""
    parts = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return [command for part in parts for command in config[f"{part}_commands"]]


def ray_starts(config: dict[str, Any]) -> list[str]:
    return [command for command in commands(config) if "ray start" in command]


def test_cluster_file_passes_rays_own_validation(config: dict[str, Any]) -> None:
    prepared = validate(config)
    assert set(prepared) >= {"file_mounts", "available_node_types", "head_start_ray_commands"}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda c: c.update(idle_timeout=5), "idle_timeout"),
        (lambda c: c.update(max_workers="four"), "four"),
        (lambda c: c.update(initialization_commands="apt-get"), "apt-get"),
        (lambda c: c["provider"].pop("type"), "type"),
        (lambda c: c["available_node_types"]["worker"].pop("resources"), "resources"),
        (lambda c: c["available_node_types"]["worker"]["resources"].update(GPU=0.5), "0.5"),
        (lambda c: c["available_node_types"]["worker"].update(min_workers=9), "max_workers"),
        (lambda c: c.update(head_node_type="hed"), "head_node_type"),
    ],
)
def test_broken_copy_fails_the_same_validation(
    config: dict[str, Any], break_it: Callable[[dict[str, Any]], object], message: str
) -> None:
    break_it(config)
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError), match=message):
        validate(config)


def test_workers_have_gpus_and_come_and_go_while_the_head_takes_no_trials(config: dict[str, Any]) -> None:
    head, worker = (config["available_node_types"][name] for name in ("head", "worker"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert worker["resources"]["GPU"] >= 1
    assert worker["min_workers"] == 0 < worker["max_workers"] == config["max_workers"]
    assert config["idle_timeout_minutes"] > 0
    start_head, start_worker = ray_starts(config)
    assert "--num-cpus=0" in start_head and "--num-gpus=0" in start_head
    assert "--num-" not in start_worker  # Ray counts what is there


def test_every_node_asks_for_the_token_and_the_dashboard_listens_on_loopback(config: dict[str, Any]) -> None:
    assert all("RAY_AUTH_MODE=token" in command for command in ray_starts(config))
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    start_head, start_worker = ray_starts(config)
    assert "--dashboard-host=127.0.0.1" in start_head
    assert "dashboard" not in start_worker


def test_no_secret_stands_in_the_file(config: dict[str, Any]) -> None:
    text = FILE.read_text()
    assert not re.search(r"RAY_AUTH_TOKEN\b|AKIA[0-9A-Z]{16}|PRIVATE KEY|(?i:password|secret)", text)
    assert not re.search(r"\b[0-9a-f]{32,}\b", text)
    assert "ssh_private_key" not in config["auth"]


def test_commands_are_shell_and_name_files_that_were_put_there(config: dict[str, Any]) -> None:
    mounts = config["file_mounts"]
    own = [local for local in mounts.values() if not local.startswith("~")]
    assert own == ["requirements.lock"]
    assert all((ROOT / local).is_file() for local in own)
    there = {*mounts, "~/.bashrc", "~/ray_bootstrap_config.yaml"}  # a user's, and the launcher's own
    for command in commands(config):
        subprocess.run(["bash", "-n", "-c", command], check=True)
        if "-m venv ~/rungwise/venv" in command:
            there |= {f"~/rungwise/venv/bin/{program}" for program in ("pip", "ray", "python")}
        named = {word.rstrip(";") for word in re.findall(r"~/[^\s'\";]+", command)} - {"~/rungwise/venv"}
        assert named <= there, f"{command!r} names {named - there}, which nothing has put there"


def test_commands_install_packages_of_the_lock(config: dict[str, Any]) -> None:
    locked = {line.partition("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().split()}
    assert "ray" in locked  # the program that the start commands call
    installs = [command for command in commands(config) if "pip install" in command]
    assert all("requirements.lock" in command or "boto3" in command for command in installs)
    extra = [word for command in installs for word in shlex.split(command) if "[" in word]
    assert extra and all(word.partition("[")[0] in locked for word in extra)


def test_options_of_ray_start_exist(config: dict[str, Any]) -> None:
    known = {option for parameter in start.params for option in parameter.opts}
    for command in ray_starts(config):
        given = {word.partition("=")[0] for word in shlex.split(command) if word.startswith("--")}
        assert given and given <= known


def test_job_upload_leaves_environment_and_runs_at_home(tmp_path: Path) -> None:
    for name in (".gitignore", ".rayignore"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    kept = ["search/cli.py", "spaces/catalog/digits/cnn.yaml"]
    left = [
        ".venv/bin/ray",
        "runs/demo/events.jsonl",
        "search/__pycache__/cli.pyc",
        "rungwise.egg-info/PKG-INFO",
    ]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(name))
    sent: list[str] = []
    for include_gitignore in (True, False):  # a variable of Ray's turns .gitignore off; ours must do alone
        _dir_travel(tmp_path, [], lambda path: sent.append(str(path)), include_gitignore=include_gitignore)
    names = [str(Path(path).relative_to(tmp_path)) for path in sent if Path(path).is_file()]
    assert sorted({name for name in names if not name.startswith(".")}) == kept
