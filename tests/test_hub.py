"""Models by name on the hub: the real client against a local server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from ldm.checkpoint import load_weights
from ldm.doctor import weights_check
from ldm.errors import UserError
from ldm.hub import PUBLISHED, check_there, hub_name, locate, open_source, save_model, weights_file
from ldm.model_card import Card
from ldm.pipeline import ZoomLDM
from tests import local_hub
from tests.local_hub import Hub, Repo

SAVED = "lab/toy"
ROOT = Path(__file__).parents[1]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and an empty cache; what is written goes to a folder of its own."""
    with local_hub.running() as server:
        local_hub.use(monkeypatch, server.url, tmp_path / "cache")
        (tmp_path / "cwd").mkdir()
        monkeypatch.chdir(tmp_path / "cwd")
        yield server


@pytest.fixture(scope="module")
def files(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What `save_pretrained` writes of the toy model."""
    folder = tmp_path_factory.mktemp("saved") / "toy"
    ZoomLDM.load(world / "zoomldm", cdm=world / "cdm").save_pretrained(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def saved(hub: Hub, files: dict[str, bytes]) -> Repo:
    hub.repos[SAVED] = Repo(files)
    return hub.repos[SAVED]


def refusal(source: str) -> str:
    with pytest.raises(UserError) as error:
        open_source(source, "zoomldm")
    assert "\n" not in str(error.value)
    return str(error.value)


def same(a: ZoomLDM, b: ZoomLDM) -> bool:
    pairs = [(a.unet, b.unet), (a.summarizer, b.summarizer), (a.autoencoder, b.autoencoder)]
    if a.cdm and b.cdm:
        pairs.append((a.cdm.network, b.cdm.network))
    return (a.cdm is None) == (b.cdm is None) and all(
        torch.equal(one, two)
        for left, right in pairs
        for one, two in zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    )


def test_a_saved_model_is_read_back_bit_equal(tmp_path: Path, world: Path) -> None:
    model = ZoomLDM.load(world / "zoomldm", cdm=world / "cdm")
    folder = model.save_pretrained(tmp_path / "saved", Card("ten slides", {"FID at 20x": 12.5}, "mit"))
    again = ZoomLDM.load(folder)
    assert same(model, again)
    assert again.ladder == model.ladder
    assert torch.equal(again.alpha_bar, model.alpha_bar)
    assert (model.sample("10x", seed=3, steps=2) == again.sample("10x", seed=3, steps=2)).all()
    card = (folder / "README.md").read_text()
    for told in ("license: mit", "ten slides", "| FID at 20x | 12.5 |", "Not for diagnosis", f'load("{folder}")'):
        assert told in card
    assert "data" not in (folder / "config.yaml").read_text()
    assert same(model, ZoomLDM.load(again.save_pretrained(tmp_path / "twice")))


def test_a_card_says_what_is_known_and_what_is_not(demo: ZoomLDM, tmp_path: Path) -> None:
    text = (demo.save_pretrained(tmp_path / "demo") / "README.md").read_text()
    for told in ("trained for at most 1,204 steps", "Not stated by whoever saved", "license: unknown", "4,459,907"):
        assert told in text
    assert str(ROOT) not in (tmp_path / "demo" / "config.yaml").read_text()


def test_a_saved_file_that_changes_is_refused(tmp_path: Path, world: Path) -> None:
    folder = ZoomLDM.load(world / "zoomldm").save_pretrained(tmp_path / "saved")
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        ZoomLDM.load(folder)


def test_a_model_comes_by_name_with_its_cdm_and_then_from_the_cache(hub: Hub, saved: Repo, world: Path) -> None:
    model = ZoomLDM.load(SAVED)
    assert same(model, ZoomLDM.load(world / "zoomldm", cdm=world / "cdm"))
    assert model.id.startswith("toy-")
    first = [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    assert len(first) == len(saved.files) - 1  # all but the card
    assert same(model, ZoomLDM.load(f"hf:{SAVED}@main"))
    assert [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path] == first


def test_a_subfolder_a_revision_and_a_file_are_named(hub: Hub, files: dict[str, bytes]) -> None:
    hub.repos["lab/many"] = Repo({f"small/{name}": content for name, content in files.items()})
    for name in ("lab/many/small", f"hf:lab/many/small@{local_hub.COMMIT}"):
        assert open_source(name, "zoomldm").name == "small"
    assert locate("hf:lab/many/small/weights.safetensors", "zoomldm")[0].is_file()
    assert weights_file("lab/many/small").read_bytes() == files["weights.safetensors"]


def test_a_bare_name_is_told_the_subfolders(hub: Hub) -> None:
    hub.repos["StonyBrook-CVLab/ZoomLDM"] = Repo({f"{name}/{PUBLISHED}": b"x" for name in ("naip", "brca")})
    told = refusal("StonyBrook-CVLab/ZoomLDM")
    assert "choose StonyBrook-CVLab/ZoomLDM/brca or StonyBrook-CVLab/ZoomLDM/naip" in told
    assert "holds neither weights.safetensors nor weights.ckpt" in refusal("StonyBrook-CVLab/ZoomLDM/brac")


def test_a_published_file_is_checked_strictly(hub: Hub, tmp_path: Path) -> None:
    torch.save({"cond_stage_model.mag_embedding.weight": torch.zeros(8, 512)}, tmp_path / "weights.ckpt")
    content = (tmp_path / "weights.ckpt").read_bytes()
    hub.repos["StonyBrook-CVLab/ZoomLDM"] = Repo({f"brca/{PUBLISHED}": content, "brca/config.yaml": b"model: {}"})
    found = open_source("StonyBrook-CVLab/ZoomLDM/brca", "zoomldm")
    assert found.published
    assert found.id.startswith("brca-")
    with pytest.raises(UserError, match="holds no denoiser"):
        ZoomLDM.load("StonyBrook-CVLab/ZoomLDM/brca")


def test_a_path_that_is_here_wins(hub: Hub, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    assert hub_name("zoomldm/weights.safetensors") is None
    assert hub_name("zoomldm/missing") is None  # of a folder that is here
    assert hub_name("hf:zoomldm/weights.safetensors") is not None
    assert hub_name(Path("lab/toy")) is hub_name("../lab/toy") is hub_name("/lab/toy") is hub_name("lab") is None
    assert hub_name("runs/weights.ckpt") is None
    assert hub.asked == []


def test_what_is_no_name_is_refused(hub: Hub) -> None:
    assert "expected hf:ORG/NAME[/SUBFOLDER][@REVISION]" in refusal("hf:toy")
    assert "expected hf:ORG/NAME" in refusal("hf:../toy/x")


def test_a_cut_download_goes_on_where_it_stopped(
    hub: Hub, saved: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is written at a time
    hub.cut_after, hub.cuts = 10_000, 2
    found = open_source(SAVED, "zoomldm")
    assert hub.cuts == 0
    ranges = [begin for method, path, begin in hub.asked if path.endswith("/weights.safetensors") and begin]
    assert ranges
    assert all(begin.startswith("bytes=") and begin != "bytes=0-" for begin in ranges)
    (tmp_path / "direct.safetensors").write_bytes(saved.files["weights.safetensors"])
    direct = load_weights(tmp_path / "direct.safetensors")
    assert all(torch.equal(value, direct[name]) for name, value in found.tensors.items())


def test_a_download_that_stays_cut_is_told(hub: Hub, saved: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cut_after, hub.cuts = 0, 10**6
    assert "gives no whole answer" in refusal(SAVED)


def test_a_gated_repository_is_told_its_page(hub: Hub, saved: Repo) -> None:
    saved.gated = True
    try:
        assert f"{hub.url}/{SAVED} is gated; accept its licence there and run `hf auth login`" in refusal(SAVED)
    finally:
        saved.gated = False


def test_what_the_hub_does_not_have_is_told(hub: Hub, saved: Repo) -> None:
    told = refusal("lab/typo")
    assert told.startswith("lab/typo (no file or folder here)")
    assert "does not exist or is private" in told
    assert f"{SAVED} has no revision v9" in refusal(f"hf:{SAVED}@v9")
    with pytest.raises(UserError, match="does not exist or is private"):
        check_there("lab/typo", "autoencoder")
    check_there(SAVED, "autoencoder")


def test_a_file_that_is_not_what_the_hub_states_is_refused(hub: Hub, files: dict[str, bytes]) -> None:
    content = bytearray(files["weights.safetensors"])
    content[-1] ^= 1
    hub.repos[SAVED] = Repo(files, sent={"weights.safetensors": bytes(content)})
    told = refusal(SAVED)
    assert "its sha256 is not the one that" in told
    blob = Path(told.split(": ")[1].split(" is damaged")[0].removeprefix(f"{SAVED} (no file or folder here): "))
    hub.repos[SAVED].sent = {}
    blob.unlink()
    assert open_source(SAVED, "zoomldm").name == "toy"


def test_offline_with_and_without_cache(hub: Hub, saved: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = refusal(SAVED)
    assert "is not in the cache" in told
    assert "unset HF_HUB_OFFLINE" in told
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    model = ZoomLDM.load(SAVED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert same(ZoomLDM.load(SAVED), model)
    assert len(hub.asked) == asked


def test_a_hub_that_is_not_there(hub: Hub, saved: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ZoomLDM.load(SAVED)
    local_hub.use(monkeypatch, "http://127.0.0.1:1", tmp_path / "cache")
    assert same(ZoomLDM.load(SAVED), model)
    told = refusal("lab/other")
    assert "http://127.0.0.1:1 gives no whole answer" in told


def test_a_network_that_wants_a_login_is_no_hub(hub: Hub, saved: Repo) -> None:
    hub.page = b"<html>Welcome to the hotel</html>"
    assert "gives no whole answer" in refusal(SAVED)


def test_a_missing_path_of_a_folder_that_is_here_is_told_how_to_mean_the_hub(
    hub: Hub, saved: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    assert f"write hf:{SAVED} for the hub" in refusal(SAVED)
    assert open_source(f"hf:{SAVED}", "zoomldm").name == "toy"


def test_the_doctor_looks_at_a_model_of_the_hub(hub: Hub, saved: Repo) -> None:
    found = list(weights_check.model(SAVED))
    assert {finding.status for finding in found} == {"ok"}
    assert any("denoiser of" in finding.told for finding in found)


@pytest.mark.parametrize("system", ["zoomldm", "cdm"])
def test_what_is_saved_of_a_published_file_is_a_config_of_its_system(tmp_path: Path, system: str) -> None:
    torch.save({"cond_stage_model.mag_embedding.weight": torch.zeros(4, 512)}, tmp_path / "weights.ckpt")
    published = open_source(tmp_path / "weights.ckpt", system)
    save_model(tmp_path / "saved", published.config, published.tensors, system)
    again = open_source(tmp_path / "saved", system)
    assert again.config.system == system
    assert (again.config.ladder, again.config.tile_px) == (published.config.ladder, 256)


def test_a_model_is_pushed_and_read_back(hub: Hub, world: Path) -> None:
    model = ZoomLDM.load(world / "zoomldm", cdm=world / "cdm")
    assert model.push_to_hub("lab/mine", Card(licence="mit")) == f"{hub.url}/lab/mine"
    assert same(ZoomLDM.load("lab/mine"), model)
    assert 'ZoomLDM.load("lab/mine")' in hub.repos["lab/mine"].files["README.md"].decode()


def test_the_environment_names_the_hub(hub: Hub, saved: Repo, tmp_path: Path) -> None:
    """A process of its own, as users run it: HF_ENDPOINT and HF_HOME are read when the client is imported."""
    program = "from ldm.support.hub_files import *; print(fetch(Repository('lab/toy'), 'config.yaml', 'toy'))"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert Path(done.stdout.strip()).read_bytes() == saved.files["config.yaml"]
