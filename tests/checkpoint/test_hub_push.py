"""simpair.checkpoint.hub from a folder to the Hub, with the real Hub client and a Hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from simpair.checkpoint import hub
from simpair.errors import (
    HubError,
    InputError,
    UnsafeModel,
    UnsupportedModel,
)
from tests.checkpoint.loopback_hub import CHECKPOINT, Fault, LoopbackHub, connected_hub, read_files, write_files

NAME = "org/name"
TOKEN = "hf_canary1234567890"
CARD = {"README.md": b"---\nlicense: apache-2.0\n---\n# card", "LICENSE": b"Apache", "NOTICE.txt": b"terms"}
SAVED = {**CHECKPOINT, **CARD}

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub client's own upload


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    with connected_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


def test_pushed_checkpoint_comes_back_equal(
    server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    saved = write_files(tmp_path / "saved", SAVED)
    waste = {name: b"x" for name in ("optimizer.pt", "training_args.bin", "events.out.tfevents.1", "rng_state.pth")}
    write_files(saved, {**waste, "pytorch_model.bin": b"x", "checkpoint-5/model.safetensors": b"x", ".env": b"x"})

    url = hub.push_folder(saved, NAME, private=True)

    repo = server.repos[NAME]
    assert {name: content for name, content in server.files(NAME).items() if name != ".gitattributes"} == SAVED
    assert repo.private
    assert repo.titles == ["commit", "Upload with simpair"]  # what made the repository, and one more
    assert url == f"{server.url}/{NAME}/commit/{repo.branches['main']}"
    assert read_files(hub.resolve(NAME).folder) == CHECKPOINT
    sent = [request for request in server.requests if TOKEN in str(request.headers)]
    assert sent  # the control: the token was used, and only as a header
    assert not [request.path for request in server.requests if TOKEN.encode() in request.body or TOKEN in request.path]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_second_push_adds_a_commit(server: LoopbackHub, tmp_path: Path) -> None:
    saved = write_files(tmp_path / "saved", SAVED)
    hub.push_folder(saved, NAME)
    assert not server.repos[NAME].private
    write_files(saved, {"config.json": b'{"model_type": "roberta"}'})

    hub.push_folder(saved, NAME, commit_message="second")

    assert server.files(NAME)["config.json"] == b'{"model_type": "roberta"}'
    assert server.repos[NAME].titles == ["commit", "Upload with simpair", "second"]


def test_unfit_folders_are_refused_without_a_request(server: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no README\.md"):
        hub.push_folder(write_files(tmp_path / "bare", CHECKPOINT), NAME)
    with pytest.raises(UnsupportedModel, match=r"expected model\.safetensors"):
        hub.push_folder(write_files(tmp_path / "empty", {"README.md": b"# card"}), NAME)
    with pytest.raises(UnsafeModel, match=r"pytorch_model\.bin"):
        hub.push_folder(write_files(tmp_path / "pickled", {"README.md": b"# card", "pytorch_model.bin": b""}), NAME)
    linked = write_files(tmp_path / "linked", SAVED)
    (linked / "LICENSE").unlink()
    (linked / "LICENSE").symlink_to(write_files(tmp_path, {"secret": b"x"}) / "secret")
    with pytest.raises(InputError, match="links to a file elsewhere"):
        hub.push_folder(linked, NAME)
    assert server.requests == []


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("repos/create", 401), "hf auth login"),
        (Fault("repos/create", 403), "hf auth login"),
        (Fault("validate-yaml", 400), "Invalid metadata in README.md"),
        (Fault("/preupload/", 403), "hf auth login"),
        (Fault("PUT /lfs", 403), "hf auth login"),
        (Fault("/commit/", 500), "answered 500"),
        (Fault("/commit/", 412), "answered 412"),
    ],
    ids=lambda value: f"{value.pattern} {value.status}" if isinstance(value, Fault) else None,
)
def test_refused_push_changes_nothing(server: LoopbackHub, tmp_path: Path, fault: Fault, text: str) -> None:
    server.faults.append(fault)

    with pytest.raises(HubError, match=text) as caught:
        hub.push_folder(write_files(tmp_path / "saved", SAVED), NAME)
    assert str(caught.value).startswith("org/name was not pushed: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert NAME not in server.repos or server.repos[NAME].titles == ["commit"]


@pytest.mark.parametrize("repo_id", ["a b", "a/b/c", "", "../x", "foo--bar"])
def test_push_to_a_name_that_the_hub_forbids_fails(server: LoopbackHub, tmp_path: Path, repo_id: str) -> None:
    with pytest.raises(HubError, match="was not pushed"):
        hub.push_folder(write_files(tmp_path / "saved", SAVED), repo_id)
    assert server.requests == []


def test_server_without_xet_names_the_switch(
    server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)

    with pytest.raises(HubError, match="HF_HUB_DISABLE_XET=1"):
        hub.push_folder(write_files(tmp_path / "saved", SAVED), NAME)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.push_folder(tmp_path / "saved", NAME)
