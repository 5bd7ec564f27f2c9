"""The MIL command, end to end on toy bags with a planted answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.fixtures import toy
from ldm.cli import mil as train_mil
from ldm.commands.mil import bag_of, labelled
from ldm.data.bags import Bag, write_bag
from ldm.errors import UserError
from ldm.evaluation.mil import classifier
from ldm.evaluation.mil.attention_map import attention_regions
from ldm.images.geojson_writer import write_regions

SLIDES = 60


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bags of 16 base tiles; in those of label b, region (1, 2) stands out. Two slides a patient. Two are prepared."""
    folder = tmp_path_factory.mktemp("mil")
    rng = np.random.default_rng(0)
    lines = ["slide,label,patient"]
    ij = np.argwhere(np.ones((4, 4))).astype(np.int32)
    for number in range(SLIDES):
        label = number // 2 % 2
        features = rng.normal(size=(16, 4)).astype(np.float32)
        features[6, 0] += 8 * label
        coords = ij[:, ::-1].astype(np.int64) * toy.TILE_PX
        write_bag(folder / f"planted/s{number}.h5", Bag(f"s{number}", ("20x",), features, coords, ij, toy.TILE_PX))
        write_bag(folder / f"two/s{number}.h5", Bag(f"s{number}", ("20x",), features[:, :2], coords, ij, toy.TILE_PX))
        lines.append(f"s{number},{'ab'[label]},p{number // 2}")
    (folder / "labels.csv").write_text("\n".join([*lines, "s99,a,p99"]) + "\n")
    for number in range(6):
        toy.slide(folder / f"cohort/s{number}.h5")
    return folder


@pytest.mark.slow
def test_a_planted_answer_is_found_shuffled_labels_are_not_and_attention_is_shown(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm.commands.mil.SHOWN", 2)
    write_regions(tmp_path / "regions/earlier.geojson", [])
    (tmp_path / "regions/mine.geojson").write_text("my own")
    given = ["--features", str(toys / "planted"), "--labels", str(toys / "labels.csv"), "--out", str(tmp_path)]
    train_mil.main([*given, "--cohort", str(toys / "cohort"), "--folds", "5,4", "--shuffles", "2", "--repeats", "1"])
    told = capsys.readouterr().out
    assert "1 of 61 labelled slides have no bag: left out" in told
    results = json.loads((tmp_path / "results.json").read_text())["auc"]
    assert {name: [len(results[name][k]) for k in ("5", "4")] for name in results} == {
        "planted": [5, 4],
        "planted, shuffled labels": [10, 8],
    }
    for k in ("5", "4"):
        assert np.mean(results["planted"][k]) > 0.95
    text = (tmp_path / "table.md").read_text()
    assert "| features | 5-fold | 4-fold |" in text
    assert "30 and 30 slides of 30 patients" in text
    for k in ("5", "4"):
        shuffled = results["planted, shuffled labels"][k]
        assert abs(np.mean(shuffled) - 0.5) < 0.2
        assert f"{np.mean(shuffled):.3f} ± " in text.splitlines()[-1]
    assert {path.name for path in (tmp_path / "attention").iterdir()} == {f"s{i}.jpg" for i in range(4)}
    assert {path.stem for path in (tmp_path / "regions").iterdir()} == {*(f"s{i}" for i in range(4)), "mine"}
    picture = np.asarray(Image.open(tmp_path / "attention/s2.jpg")).astype(int)
    side = 8 * toy.TILE_PX
    assert picture.shape == (side, 2 * side, 3)
    redness = picture[:, side:, 0] - picture[:, side:, 2]
    i, j = (np.array([1, 2]) + 0.5) * toy.TILE_PX
    assert redness[int(i), int(j)] > 50  # the planted tile draws the attention
    assert redness[int(i), int(j) - toy.TILE_PX] < 0


def test_two_folders_of_one_name_are_two_rows(toys: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "planted"
    other.parent.mkdir()
    other.symlink_to(toys / "planted")
    given = ["--labels", str(toys / "labels.csv"), "--out", str(tmp_path), "--folds", "3", "--shuffles", "0"]
    train_mil.main([*given, "--repeats", "1", "--features", str(toys / "planted"), str(other)])
    results = json.loads((tmp_path / "results.json").read_text())["auc"]
    assert list(results) == [str(toys / "planted"), str(other)]


def test_splits_are_repeated_and_features_compared_at_one_width(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    widths = set()
    build = classifier.build_network
    monkeypatch.setattr(classifier, "build_network", lambda width: widths.add(width) or build(width))
    given = ["--labels", str(toys / "labels.csv"), "--out", str(tmp_path), "--folds", "3", "--shuffles", "0"]
    train_mil.main([*given, "--features", str(toys / "planted"), str(toys / "two"), "--repeats", "3"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: len(of["3"]) for name, of in results["auc"].items()} == {"planted": 9, "two": 9}
    assert results["repeats"] == 3
    assert len(set(results["auc"]["two"]["3"])) > 3  # the splits differ
    assert widths == {2}
    assert "over the folds of 3 splits" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--labels", ""], "--labels: missing"),
        (["--folds", "two"], "--folds: two; expected"),
        (["--folds", "2"], "--folds: 2; expected"),
        (["--features", "nowhere"], "0 of 61 slides have bags"),
        (["--features", "nowhere", "nowhere"], "--features: nowhere is named twice"),
        (["--folds", "16"], "label a has 15 patients, expected at least 16"),
        (["--cohort", "nowhere"], "nowhere/s2.h5"),
    ],
)
def test_mistakes_are_told(toys: Path, tmp_path: Path, changes: list[str], message: str) -> None:
    given = ["--features", str(toys / "planted"), "--labels", str(toys / "labels.csv"), "--out", str(tmp_path)]
    with pytest.raises(UserError, match=message):
        train_mil.main([*given, *changes])
    assert not (tmp_path / "table.md").exists()  # told before any training


def test_slides_are_labelled_by_their_files_names_too() -> None:
    bags = {"Patiente_Zoé_01", "a/b_c", "1.5"}
    assert [bag_of(name, bags) for name in ("Patiente Zoé 01.tif", "Patiente Zoé 01", "a/b c.svs", "1.5", "x")] == [
        *("Patiente_Zoé_01", "Patiente_Zoé_01", "a/b_c", "1.5", "x"),
    ]


def test_a_folder_of_bag_folders_is_told(tmp_path: Path) -> None:
    (tmp_path / "features" / "denoiser-20x").mkdir(parents=True)
    for name in ("s1", "s2"):
        (tmp_path / "features" / "denoiser-20x" / f"{name}.h5").touch()
    (tmp_path / "labels.csv").write_text("slide,label\ns1,A\ns2,B\n")
    with pytest.raises(UserError, match=r"holds folders of bags; name one, for example .*denoiser-20x"):
        labelled(str(tmp_path / "labels.csv"), [tmp_path / "features"])


def test_attention_becomes_regions_of_the_tiles_at_full_resolution() -> None:
    coords = np.array([[64 * k + 7, 100] for k in range(20)])
    bag = Bag("s", ("20x",), np.zeros((20, 1), np.float32), coords, np.zeros((20, 2), np.int32), 64)
    attention = np.full(20, 0.01)
    attention[[3, 11]] = 0.41
    regions = attention_regions(bag, attention)
    assert [number for number, region in enumerate(regions) if region.name] == [3, 11]
    assert regions[3].geometry.bounds == (64 * 3 + 7, 100, 64 * 4 + 7, 164)
    assert np.mean([region.values["attention"] for region in regions]) == pytest.approx(1)
    assert regions[3].values["attention"] == pytest.approx(41 * regions[0].values["attention"])
