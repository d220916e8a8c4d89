"""What simpair.checkpoint.hub refuses: names of nothing, unsafe files, and what the Hub itself refuses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simpair.checkpoint import hub
from simpair.errors import (
    HubError,
    InputError,
    ModelCorrupt,
    ModelNotFound,
    OfflineMiss,
    SimpairError,
    UnsafeModel,
    UnsupportedModel,
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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    with connected_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


# The Hub refuses, fails, or breaks off


@pytest.mark.parametrize(
    ("fault", "expected", "text"),
    [
        (Fault("/api/models", 404, "RepoNotFound"), ModelNotFound, "org/name"),
        (Fault("/api/models", 404, "RevisionNotFound"), ModelNotFound, "no branch, tag or commit None"),
        (Fault("/api/models", 404), ModelNotFound, "org/name"),
        (Fault("/api/models", 401, "RepoNotFound"), ModelNotFound, "hf auth login"),  # the Hub's answer without a login
        (Fault("/api/models", 401), HubError, "hf auth login"),
        (Fault("/api/models", 403), HubError, "hf auth login"),
        (Fault("/api/models", 403, "GatedRepo"), HubError, "ask on its page"),
        (Fault("/resolve/", 403, "GatedRepo"), HubError, "ask on its page"),
        (Fault("/resolve/.*/model.safetensors", 403), HubError, "hf auth login"),
        (Fault("/tree/", 403), HubError, "did not give|hf auth login"),  # older clients give the reason
        (Fault("/api/models", 500), HubError, "answered 500"),
        (Fault("/api/models", 429), HubError, "answered 429"),
    ],
    ids=lambda value: f"{value.pattern} {value.status} {value.code}" if isinstance(value, Fault) else None,
)
def test_refusals_have_one_typed_line(
    server: LoopbackHub, fault: Fault, expected: type[SimpairError], text: str
) -> None:
    server.commit(NAME, CHECKPOINT)
    server.faults.append(fault)

    with pytest.raises(expected, match=text) as caught:
        hub.resolve(NAME)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None or "did not give" in str(caught.value)
    with pytest.raises(OfflineMiss):  # nothing half-done is taken for a checkpoint
        hub.resolve(NAME, local_files_only=True)

    server.faults.clear()
    assert read_files(hub.resolve(NAME).folder) == CHECKPOINT


def test_answer_that_is_not_a_hub_s_is_a_hub_error(server: LoopbackHub) -> None:
    server.commit(NAME, CHECKPOINT)
    server.faults.append(Fault("/api/models", stop_after=10))
    server.resume.set()

    with pytest.raises((HubError, OfflineMiss)):
        hub.resolve(NAME)


def test_broken_connection_is_resumed(server: LoopbackHub) -> None:
    server.commit(NAME, CHECKPOINT)
    server.faults.append(Fault("GET .*model.safetensors", stop_after=1000, times=2))
    server.resume.set()

    assert read_files(hub.resolve(NAME).folder) == CHECKPOINT
    assert sum("GET" in asked and "model.safetensors" in asked for asked in server.asked()) == 3


# Files that must not be trusted


@pytest.mark.parametrize(
    "pickle", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "2_Dense/pytorch_model.bin"]
)
def test_pickled_weights_are_refused_and_never_fetched(server: LoopbackHub, pickle: str) -> None:
    files = {
        **CHECKPOINT,
        "modules.json": module_list(("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")),
        pickle: b"pickle",
    }
    if "/" not in pickle:
        del files["model.safetensors"]
    server.commit(NAME, files)

    for _ in range(2):
        with pytest.raises(UnsafeModel, match=rf"{pickle} .*SentenceTransformer.*save_pretrained"):
            hub.resolve(NAME)
    assert not [asked for asked in server.asked() if ".bin" in asked]


def test_pickled_weights_in_the_cache_are_refused(server: LoopbackHub) -> None:
    server.commit(NAME, {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"})
    huggingface_hub.snapshot_download(NAME)

    with pytest.raises(UnsafeModel):
        hub.resolve(NAME, local_files_only=True)


def test_repository_without_weights_is_unsupported(server: LoopbackHub) -> None:
    server.commit(NAME, {"config.json": b"{}", "tf_model.h5": b"h5", "onnx/model.onnx": b"onnx"})

    with pytest.raises(UnsupportedModel, match=r"expected model\.safetensors"):
        hub.resolve(NAME)


@pytest.mark.parametrize("path", ["../1_Pooling", "/etc", "1_Pooling/../../x", "C:\\x", "..\\x", "a\0b"])
def test_module_outside_the_checkpoint_is_refused(server: LoopbackHub, path: str, tmp_path: Path) -> None:
    modules = module_list(("Transformer", ""), ("Pooling", path))
    server.commit(NAME, {**CHECKPOINT, "modules.json": modules})

    with pytest.raises(UnsafeModel, match="leaves the checkpoint's folder"):
        hub.resolve(NAME)
    with pytest.raises(UnsafeModel, match="leaves the checkpoint's folder"):
        hub.push_folder(
            write_files(tmp_path / "saved", {**CHECKPOINT, "README.md": b"# card", "modules.json": modules}), NAME
        )
    assert not [asked for asked in server.asked() if "safetensors" in asked]


@pytest.mark.parametrize("content", [b"", b"{", b"3", b"[3]", b'[{"path": ""}]', b'{"a": 1}', b"[" * 10**5, b"\xff"])
def test_damaged_list_of_modules_is_corrupt(server: LoopbackHub, content: bytes) -> None:
    server.commit(NAME, {**CHECKPOINT, "modules.json": content})

    with pytest.raises(ModelCorrupt, match=r"modules\.json"):
        hub.resolve(NAME)


# Names


def test_folder_is_taken_before_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_files(tmp_path / "org" / "name", CHECKPOINT)
    monkeypatch.chdir(tmp_path)

    for name in (folder, str(folder), "org/name", Path("org/name")):
        assert hub.resolve(name) == hub.Resolved(folder, str(folder))


def test_bundled_name_and_none_are_the_bundled_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_PRETRAINED", tmp_path)
    with pytest.raises(ModelNotFound, match="install simpair again"):
        hub.resolve()

    folder = write_files(tmp_path / hub.BUNDLED, CHECKPOINT)
    assert hub.resolve() == hub.resolve("simpair-mini") == hub.Resolved(folder, "simpair-mini")


def test_folder_and_bundled_name_open_no_socket(
    server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[object] = []

    def connect(_: socket.socket, address: object) -> None:
        attempts.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(hub, "_PRETRAINED", tmp_path)
    folder = write_files(tmp_path / hub.BUNDLED, CHECKPOINT)

    hub.resolve(folder)
    hub.resolve()
    assert attempts == []
    with pytest.raises(OfflineMiss):
        hub.resolve(NAME)
    assert attempts  # the control: a Hub name does connect


NOTHING = ["", " ", "a b", "a\0b", "org/name\n", "C:\\x", "模型", "a" * 5000]
NOTHING += ["../x", "x/../y", "~/x", "/no/such", "-x", ".x", "foo--bar", "org/", "org//name", "org/.x", "org/name/more"]
NOTHING += ["n@", "org/name@..", "org/name@a..b", "org/name@/x", "@main"]


@pytest.mark.parametrize("name", NOTHING)
def test_names_of_nothing_are_not_found(server: LoopbackHub, name: str) -> None:
    with pytest.raises(ModelNotFound, match="neither an existing folder"):
        hub.resolve(name)
    assert server.requests == []


@pytest.mark.parametrize("name", ["a" * 97, "org/name-", "org/name.git", "name."])
def test_names_that_the_hub_forbids_are_not_found(server: LoopbackHub, name: str) -> None:
    with pytest.raises(ModelNotFound, match="neither an existing folder"):
        hub.resolve(name)
    assert server.requests == []


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters() | st.sampled_from("./@-_~\\ \0aZ9"), max_size=40))
def test_any_text_ends_in_a_typed_error(server: LoopbackHub, tmp_path: Path, name: str) -> None:
    assume(name != hub.BUNDLED)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(SimpairError):
            hub.resolve(name, local_files_only=True)
    finally:
        os.chdir(before)
    assert server.requests == []


def test_paths_that_hold_no_checkpoint_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelNotFound, match="is a file: give the folder"):
        hub.resolve(file)
    with pytest.raises(ModelNotFound, match="there is no folder"):
        hub.resolve(tmp_path / "none")
    with pytest.raises(ModelNotFound, match="holds no checkpoint"):
        hub.resolve(tmp_path)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with pytest.raises(ModelNotFound, match="holds no checkpoint"):
        hub.resolve("..")


def test_invalid_revisions_are_refused(server: LoopbackHub, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "saved", CHECKPOINT)
    for name in (folder, str(folder)):
        with pytest.raises(InputError, match="not on the Hub"):
            hub.resolve(name, revision="main")
    with pytest.raises(InputError, match="two revisions"):
        hub.resolve(f"{NAME}@main", revision="v1")
    for revision in ("", "../../x", "a b", "/x", "a\n"):
        with pytest.raises(InputError, match="cannot be a branch"):
            hub.resolve(NAME, revision=revision)
    assert server.requests == []
