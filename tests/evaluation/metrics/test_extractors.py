"""Features of many images: in order, for any batches and processes; Inception reads its weights safely."""

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from benchmarks.robustness.hostile_files import MARK, Payload
from ldm.encoders.tile_encoders import load_encoder
from ldm.errors import UserError
from ldm.evaluation.metrics import extractors
from ldm.evaluation.metrics.extractors import Inception, Loader, describe, features_of
from ldm.support.processes import Processes


class Means:
    """Mean colour, its square, and how large the batches were."""

    id, width, preprocessing = "means", 4, "none"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        means = images.float().mean((1, 2))
        return torch.cat([means, means.square().sum(1, keepdim=True)], 1)


def loaders(count: int, size: int = 8) -> Sequence[Loader]:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [partial(lambda image: image, image) for image in images]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_statistics_do_not_depend_on_the_batches(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "CHUNK", 10)
    images, extractor = loaders(23), Means()
    found = describe(images, extractor, "5x", batch=batch)
    expected = extractor(torch.from_numpy(np.stack([load() for load in images]))).double().numpy()
    np.testing.assert_allclose(found.statistics.mean, expected.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.statistics.covariance, np.cov(expected.T), rtol=1e-5)
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    assert (found.statistics.extractor, found.statistics.scale) == ("means", "5x")
    assert max(extractor.batches[:-1]) <= batch


def test_only_the_first_features_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "CHUNK", 4)
    monkeypatch.setattr(extractors, "KEPT", 6)
    found = describe(loaders(11), Means())
    assert found.features is not None
    assert (len(found.features), found.statistics.n) == (6, 11)


def test_processes_share_the_images_and_all_get_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "CHUNK", 10)
    count, images = 3, loaders(21)
    barrier, shelf = Barrier(count, timeout=20), dict[int, Tensor]()

    def play(rank: int) -> tuple[np.ndarray, int]:
        def total(x: Tensor) -> Tensor:
            shelf[rank] = x
            barrier.wait()
            found = torch.stack([shelf[i] for i in range(count)]).sum(0)
            barrier.wait()
            return found

        extractor = Means()
        processes = Processes(lambda n: range(rank, n, count), total)
        return np.concatenate(list(features_of(images, extractor, processes))), sum(extractor.batches)

    alone = np.concatenate(list(features_of(images, Means())))
    with ThreadPoolExecutor(count) as threads:
        found = list(threads.map(play, range(count)))
    for features, _ in found:
        np.testing.assert_array_equal(features, alone)
    assert sum(done for _, done in found) == len(images)


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="of 8x8, 12x12 px in one set"):
        describe([*loaders(2), *loaders(1, size=12)], Means())


def test_inception_without_weights_says_where_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"is missing; download https://\S+ there or give --weights inception=PATH"):
        Inception()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        any_file = tmp_path_factory.mktemp("inception") / "weights.pth"
        torch.save({}, any_file)
        network = FeatureExtractorInceptionV3("", ["2048"], feature_extractor_weights_path=str(any_file))
    torch.save(network.state_dict(), any_file)
    return any_file


def test_inception_sees_images_of_any_size_shrunk_with_antialiasing(inception_weights: Path) -> None:
    extractor = Inception(inception_weights)
    stripes = torch.zeros(1, 1196, 1196, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 200  # finer than 299 px can show: they become their mean
    flat = torch.full_like(stripes, 100)
    assert extractor(flat).shape == (1, extractor.width)
    middle = torch.nn.functional.cosine_similarity(extractor(stripes), extractor(flat)).item()
    assert middle > 0.999
    same = torch.randint(256, (2, 299, 299, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = extractor.network(same.permute(0, 3, 1, 2))[0]
    torch.testing.assert_close(extractor(same), network)


def test_files_that_run_code_or_hold_another_network_are_refused_as_inception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(Payload()))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    for name in ("hostile", "other"):
        with pytest.raises(UserError, match=name) as refusal:
            Inception(tmp_path / f"{name}.pth")
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / MARK).exists()


def test_clip_gives_its_projection_and_shrinks_whole_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("vit_base_patch32_clip_quickgelu_224", pretrained=False, num_classes=512)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "clip.safetensors")
    clip = load_encoder("clip", tmp_path / "clip.safetensors")
    assert clip(torch.zeros(1, 300, 700, 3, dtype=torch.uint8)).shape == (1, clip.width) == (1, 512)
    assert "224x224" in clip.preprocessing
