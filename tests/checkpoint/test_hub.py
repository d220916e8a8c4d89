"""simpair.checkpoint.hub from the Hub to a folder, with the real Hub client and a Hub on this machine."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from simpair.checkpoint import hub
from simpair.errors import (
    ModelCorrupt,
    OfflineMiss,
)
from tests.checkpoint.loopback_hub import (
    CHECKPOINT,
    Fault,
    LoopbackHub,
    connected_hub,
    module_list,
    read_files,
    write_files,
)

NAME = "org/name"
STRANGERS = {
    ".gitattributes": b"",
    "README.md": b"# card",
    "model_fp16.safetensors": b"half",
    "onnx/config.json": b"{}",
    "onnx/model.onnx": b"onnx",
    "openvino/openvino_model.xml": b"xml",
    "optimizer.pt": b"pickle",
    "pytorch_model.bin": b"pickle",
    "tf_model.h5": b"h5",
    "training_args.bin": b"pickle",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    with connected_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


def _run(code: str, server: LoopbackHub, home: Path, **env: str) -> subprocess.Popen[str]:
    """A process of its own, where the Hub client reads its settings from the environment."""
    settings = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        **env,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys\nfrom simpair import errors\nfrom simpair.checkpoint import hub\n{code}"],
        env={**kept, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def test_download_brings_the_checkpoint_and_asks_for_nothing_else(server: LoopbackHub) -> None:
    sha = server.commit(NAME, {**CHECKPOINT, **STRANGERS})

    resolved = hub.resolve(NAME)

    assert read_files(resolved.folder) == CHECKPOINT
    assert resolved.source == f"{NAME}@{sha}"
    assert not [asked for asked in server.asked() for name in STRANGERS if asked.endswith(f"/{name}")]


def test_cached_checkpoint_makes_no_request(server: LoopbackHub) -> None:
    server.commit(NAME, CHECKPOINT)
    first = hub.resolve(NAME)
    server.requests.clear()

    assert hub.resolve(NAME) == first
    assert hub.resolve(first.source) == first
    assert hub.resolve(NAME, revision=first.folder.name) == first
    assert hub.resolve(NAME, local_files_only=True) == first
    assert hub.resolve(NAME, revision="main", local_files_only=True) == first
    assert server.requests == []


def test_cached_checkpoint_makes_no_request_in_another_process(server: LoopbackHub, tmp_path: Path) -> None:
    server.commit(NAME, CHECKPOINT)
    first = hub.resolve(NAME)
    server.requests.clear()

    code = f"print(hub.resolve({NAME!r}).source)"
    assert _output(_run(code, server, tmp_path / "cache")).strip() == first.source
    assert server.requests == []


def test_plain_transformers_repository_is_complete_without_modules_json(server: LoopbackHub) -> None:
    plain = {name: CHECKPOINT[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}
    server.commit("bert-base", {**plain, "vocab.txt": b"[PAD]", **STRANGERS})

    assert read_files(hub.resolve("bert-base").folder) == {**plain, "vocab.txt": b"[PAD]"}
    server.requests.clear()
    hub.resolve("bert-base")
    assert server.requests == []


def test_sharded_weights_and_modules_with_weights_come_along(server: LoopbackHub) -> None:
    files = {name: content for name, content in CHECKPOINT.items() if name != "model.safetensors"} | {
        "modules.json": module_list(("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")),
        "model.safetensors.index.json": b"{}",
        "model-00001-of-00002.safetensors": b"1",
        "model-00002-of-00002.safetensors": b"2",
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": b"3",
    }
    server.commit(NAME, {**files, "2_Dense/pytorch_model.bin": b"pickle"})

    assert read_files(hub.resolve(NAME).folder) == files


def test_both_towers_of_a_router_come_along(server: LoopbackHub) -> None:
    types = {f"{role}_0_Transformer": "sentence_transformers.models.Transformer" for role in ("query", "document")}
    structure = {role: [f"{role}_0_Transformer", "pool"] for role in ("query", "document")}
    types["pool"] = "sentence_transformers.models.Pooling"
    files = {
        "modules.json": module_list(("Router", "")),
        "router_config.json": json.dumps({"types": types, "structure": structure, "parameters": {}}).encode(),
        **{f"{path}/{name}": f"{path} {name}".encode() for path in types for name in ("config.json", "tokenizer.json")},
        **{f"{path}/model.safetensors": path.encode() for path in types},
    }
    server.commit(NAME, {**files, **{name: content for name, content in STRANGERS.items() if "/" in name}})

    folder = hub.resolve(NAME).folder
    assert read_files(folder) == files
    server.requests.clear()
    hub.resolve(NAME)
    assert server.requests == []
    (folder / "router_config.json").unlink()
    with pytest.raises(OfflineMiss):
        hub.resolve(NAME, local_files_only=True)


def test_moved_branch_is_followed_only_when_it_is_named(server: LoopbackHub) -> None:
    old = server.commit(NAME, CHECKPOINT)
    hub.resolve(NAME)
    new = server.commit(NAME, {"1_Pooling/config.json": b'{"pooling_mode_cls_token": true}'})

    assert hub.resolve(NAME).source == f"{NAME}@{old}"
    assert hub.resolve(NAME, revision="main").source == f"{NAME}@{new}"
    assert hub.resolve(NAME).source == f"{NAME}@{new}"
    assert read_files(hub.resolve(f"{NAME}@{old}").folder) == CHECKPOINT


def test_tag_and_commit_are_found(server: LoopbackHub) -> None:
    old = server.commit(NAME, CHECKPOINT, branch="v1/beta")
    server.commit(NAME, {"config.json": b"{}"}, branch="main")

    assert hub.resolve(f"{NAME}@v1/beta").source == f"{NAME}@{old}"
    assert hub.resolve(NAME, revision=old).source == f"{NAME}@{old}"


# Offline, and caches that others filled


def test_offline_miss_says_how_to_download(server: LoopbackHub) -> None:
    server.commit(NAME, CHECKPOINT)

    with pytest.raises(OfflineMiss, match=r"TwinTowerEncoder.from_pretrained\(.org/name.\)") as caught:
        hub.resolve(NAME, local_files_only=True)
    assert "\n" not in str(caught.value)
    assert server.requests == []


def test_offline_by_environment_misses_at_once(server: LoopbackHub, tmp_path: Path) -> None:
    server.commit(NAME, CHECKPOINT)
    code = f"""
import time
import huggingface_hub.hf_api
started = time.perf_counter()
try:
    hub.resolve({NAME!r}, revision="main")
except errors.OfflineMiss as error:
    print(time.perf_counter() - started, error)
"""
    seconds, message = _output(_run(code, server, tmp_path / "cache", HF_HUB_OFFLINE="1")).split(" ", 1)
    assert "HF_HUB_OFFLINE" in message
    assert "revision='main'" in message
    assert float(seconds) < 5  # milliseconds, unless the machine is busy; a retry of the Hub client takes longer
    assert server.requests == []


def _leave_as_auto_model_does() -> None:
    """What transformers leaves in the cache: the weights, and no word about the modules."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        huggingface_hub.hf_hub_download(NAME, name)
    with pytest.raises(huggingface_hub.errors.EntryNotFoundError):
        huggingface_hub.hf_hub_download(NAME, "adapter_config.json")


def test_weights_without_modules_in_the_cache_are_not_taken_for_the_checkpoint(server: LoopbackHub) -> None:
    server.commit(NAME, CHECKPOINT)
    _leave_as_auto_model_does()

    with pytest.raises(OfflineMiss):
        hub.resolve(NAME, local_files_only=True)
    assert read_files(hub.resolve(NAME).folder) == CHECKPOINT
    assert hub.resolve(NAME, local_files_only=True) == hub.resolve(NAME)


def test_weights_are_enough_offline_when_modules_are_known_to_be_absent(server: LoopbackHub) -> None:
    server.commit(NAME, {name: CHECKPOINT[name] for name in ("config.json", "tokenizer.json", "model.safetensors")})
    _leave_as_auto_model_does()
    with pytest.raises(OfflineMiss):
        hub.resolve(NAME, local_files_only=True)

    with pytest.raises(huggingface_hub.errors.EntryNotFoundError):
        huggingface_hub.hf_hub_download(NAME, "modules.json")
    assert read_files(hub.resolve(NAME, local_files_only=True).folder).keys() >= {"config.json", "model.safetensors"}


@pytest.mark.parametrize("missing", ["", "1_Pooling/config.json", "model.safetensors", "tokenizer.json", "config.json"])
def test_cache_without_a_listing_serves_offline_if_all_needed_files_are_there(
    server: LoopbackHub, missing: str
) -> None:
    server.commit(NAME, CHECKPOINT)
    optional = {"simpair.json", "sentence_bert_config.json", "config_sentence_transformers.json", missing}
    for name in CHECKPOINT.keys() - optional:
        huggingface_hub.hf_hub_download(NAME, name)
    server.requests.clear()

    if missing:
        with pytest.raises(OfflineMiss):
            hub.resolve(NAME, local_files_only=True)
    else:
        assert read_files(hub.resolve(NAME, local_files_only=True).folder) == {
            name: content for name, content in CHECKPOINT.items() if name not in optional
        }
    assert server.requests == []
    assert read_files(hub.resolve(NAME).folder) == CHECKPOINT


@pytest.mark.parametrize("lost", sorted(CHECKPOINT))
def test_lost_file_is_missed_offline_and_fetched_online(server: LoopbackHub, lost: str) -> None:
    server.commit(NAME, CHECKPOINT)
    folder = hub.resolve(NAME).folder
    (folder / lost).unlink()

    if lost == "simpair.json":  # the digests change no vector
        assert hub.resolve(NAME, local_files_only=True).folder == folder
    else:
        with pytest.raises(OfflineMiss):
            hub.resolve(NAME, local_files_only=True)
    assert read_files(hub.resolve(NAME).folder) == CHECKPOINT


def test_truncated_file_is_named(server: LoopbackHub) -> None:
    server.commit(NAME, CHECKPOINT)
    folder = hub.resolve(NAME).folder
    (folder / "tokenizer.json").resolve().write_bytes(b"{")

    with pytest.raises(ModelCorrupt, match=r"tokenizer\.json has 1 bytes.*delete .*models--org--name"):
        hub.resolve(NAME)


def test_unreachable_hub_is_a_miss_or_the_cached_copy(
    server: LoopbackHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.commit(NAME, CHECKPOINT)
    cached = hub.resolve(NAME)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)

    with pytest.raises(OfflineMiss, match="could not be reached") as caught:
        hub.resolve("org/other")
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING, logger="simpair"):
        assert hub.resolve(NAME, revision="main") == cached
    assert cached.folder.name in caplog.text


def test_folder_needs_neither_the_hub_client_nor_torch(server: LoopbackHub, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "saved", CHECKPOINT)
    code = f"""
loaded = lambda: [name for name in ("huggingface_hub", "torch", "transformers") if name in sys.modules]
hub.resolve({str(folder)!r})
print(loaded())
try:
    hub.resolve({NAME!r}, local_files_only=True)
except errors.OfflineMiss:
    print(loaded())
"""
    assert _output(_run(code, server, tmp_path / "cache")).splitlines() == ["[]", "['huggingface_hub']"]


def test_killed_download_is_finished_by_the_next(server: LoopbackHub, tmp_path: Path) -> None:
    server.commit(NAME, CHECKPOINT)
    server.faults.append(Fault("GET .*model.safetensors", stop_after=1000))
    process = _run(f"hub.resolve({NAME!r})", server, tmp_path / "cache")
    assert server.stopped.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    server.resume.set()
    server.faults.clear()

    with pytest.raises(OfflineMiss):
        hub.resolve(NAME, local_files_only=True)
    assert read_files(hub.resolve(NAME).folder) == CHECKPOINT
