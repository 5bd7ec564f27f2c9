"""Batches are functions of (seed, k); ranks share them; slides are split and checked."""

import json
import pickle
import re
from collections import Counter
from pathlib import Path

import h5py
import pytest
import torch

from benchmarks.fixtures import toy
from ldm.data.batch import BatchRNG
from ldm.data.cohort import open_cohort
from ldm.data.datamodule import CohortData
from ldm.data.dataset import Cohort, ImageBatches, LatentBatches, split_slides
from ldm.data.h5 import SlideFile
from ldm.doctor import cohort_check as doctor
from ldm.doctor.finding import checked
from ldm.errors import UserError
from ldm.evaluation.experiments.image_sets import cohort as evaluated


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(4):
        toy.slide(folder / f"s{number}.h5")
    return folder


@pytest.fixture
def cohort(folder: Path) -> Cohort:
    return Cohort(open_cohort(folder))


def test_batch_k_depends_on_seed_and_k_alone(cohort: Cohort) -> None:
    batches = LatentBatches(cohort, seed=1, batch_size=6)
    again = pickle.loads(pickle.dumps(batches))
    later = [batches[number] for number in (3, 0)]
    for number, batch in zip((3, 0), later, strict=True):
        assert torch.equal(again[number].z_0, batch.z_0)
        assert torch.equal(again[number].scale, batch.scale)
    assert not torch.equal(later[0].z_0, later[1].z_0)
    assert not torch.equal(LatentBatches(cohort, seed=2, batch_size=6)[3].z_0, later[0].z_0)


def test_ranks_read_disjoint_parts_of_one_global_batch(cohort: Cohort) -> None:
    whole = LatentBatches(cohort, 0, 6)[5]
    parts = [LatentBatches(cohort, 0, 2, rank, 3)[5] for rank in range(3)]
    assert torch.equal(torch.cat([part.z_0 for part in parts]), whole.z_0)
    crops = ImageBatches(cohort, 0, 6, crop_px=16)[5]
    shared = [ImageBatches(cohort, 0, 3, crop_px=16, rank=rank, world=2)[5] for rank in range(2)]
    assert torch.equal(torch.cat(shared), crops)


def test_scales_are_drawn_uniformly_whatever_their_number_of_regions(cohort: Cohort) -> None:
    counts = Counter(scale.name for number in range(200) for _, scale, _ in cohort.draw(0, number, 15))
    assert all(abs(count / 3000 - 1 / 3) < 0.03 for count in counts.values()), counts


def test_scales_are_drawn_as_often_as_their_weights_say(cohort: Cohort) -> None:
    weights = [1.0, 3.0] + [1e-9] * (len(cohort.scales) - 2)
    weighted = Cohort(cohort.slides, scale_weights=weights)
    counts = Counter(scale.name for number in range(200) for _, scale, _ in weighted.draw(0, number, 15))
    shares = [counts[scale.name] / 3000 for scale in cohort.scales]
    assert shares[:2] == pytest.approx([0.25, 0.75], abs=0.03)
    with pytest.raises(UserError, match=f"scale_weights: 1 found, expected {len(cohort.scales)}"):
        Cohort(cohort.slides, scale_weights=[1.0])


def test_every_region_can_be_drawn(cohort: Cohort) -> None:
    picks = [pick for number in range(60) for pick in cohort.draw(0, number, 20)]
    drawn = {(slide.path, row) for slide, scale, row in picks if scale.name == "5x"}
    assert len(drawn) == cohort.count(cohort.ladder["5x"])


def test_a_grid_is_the_region_s_window(cohort: Cohort) -> None:
    batch = LatentBatches(cohort, 0, 12)[0]
    for grid, scale in zip(batch.embedding, batch.scale.tolist(), strict=True):
        assert grid.shape == (toy.EMBEDDING, 2**scale, 2**scale)


def test_streams_differ_between_batches_and_agree_between_ranks() -> None:
    draws = [torch.randn(4, generator=BatchRNG(0, number, 0, 4).generator()) for number in range(50)]
    assert len({tuple(draw.tolist()) for draw in draws}) == 50
    assert torch.equal(torch.randn(4, generator=BatchRNG(0, 3, 2, 4).generator()), draws[3])


def test_slides_are_split_as_the_file_says(folder: Path, tmp_path: Path) -> None:
    slides = open_cohort(folder)
    path = tmp_path / "splits.csv"
    path.write_text("slide,patient,part\ns0,A,train\ns1,B,validation\ns2,A,train\ns3,C,test\ns9,D,train\n")
    training, validation = split_slides(slides, path)
    assert [slide.path.stem for slide in training] == ["s0", "s2"]
    assert [slide.path.stem for slide in validation] == ["s1"]
    data = CohortData(cohort=str(folder), batch_size=2, split=str(path))
    assert [slide.path.stem for slide in data.training.slides] == ["s0", "s2"]
    path.write_text("slide,patient,part\ns0,A,train\ns1,B,test\n")
    assert split_slides(slides[:2], path) == (slides[:1], slides[:1])
    with pytest.raises(UserError, match="lacks 2 of 4 slides, s2 first"):
        split_slides(slides, path)
    with pytest.raises(UserError, match="none of the 1 slides is for training"):
        split_slides(slides[1:2], path)


def test_a_validation_slide_without_the_coarsest_scale_validates_the_others(tmp_path: Path) -> None:
    for name in "ab":
        path = toy.slide(tmp_path / f"{name}.h5")
    with h5py.File(path, "r+") as file:
        for table in file["scales/5x"].values():
            table.resize(0, axis=0)
    (tmp_path / "splits.csv").write_text("slide,patient,part\na,A,train\nb,B,validation\n")
    data = CohortData(cohort=str(tmp_path), batch_size=2)
    assert [scale.name for scale in data.training.scales] == ["20x", "10x", "5x"]
    assert [scale.name for scale in data.validation.scales] == ["20x", "10x"]
    (tmp_path / "splits.csv").write_text("slide,patient,part\na,A,validation\nb,B,train\n")
    with pytest.raises(UserError, match="no region at 5x"):
        CohortData(cohort=str(tmp_path), batch_size=2)


def test_mixed_cohorts_and_missing_parts_are_refused(folder: Path, tmp_path: Path) -> None:
    other = toy.slide(tmp_path / "other" / "x.h5", encoder="another-0123456789ab", autoencoder="", images=False)
    with pytest.raises(UserError, match="encoder is another"):
        Cohort(open_cohort(folder) + open_cohort(other.parent))
    toy.slide(tmp_path / "mixed" / "a.h5")
    toy.slide(tmp_path / "mixed" / "b.h5", encoder="imported-toy-6")
    (tmp_path / "mixed" / "splits.csv").write_text("slide,patient,part\na,A,train\nb,B,validation\n")
    with pytest.raises(UserError, match="encoder is imported-toy-6"):
        CohortData(cohort=str(tmp_path / "mixed"), batch_size=2)
    with pytest.raises(UserError, match="holds no prepared slide"):
        open_cohort(tmp_path / "empty")
    with pytest.raises(UserError, match="is no split"):
        CohortData(cohort=str(other.parent), batch_size=2)
    with pytest.raises(UserError, match="not on the histology ladder"):
        Cohort(open_cohort(folder), ["7x"])


def of_cohort(**settings: object) -> str:
    return json.dumps({"cohort": {"version": 1, **settings}, "slide": {}})


def test_a_cohort_is_of_one_setting_and_holds_a_slide_once(tmp_path: Path) -> None:
    one, other = of_cohort(seed=0, tissue_share=0.1, images="png"), of_cohort(seed=0, tissue_share=0.5, images=None)
    first = toy.slide(tmp_path / "a.h5", settings=one)
    second = toy.slide(tmp_path / "b.h5", settings=one)
    (tmp_path / "splits.csv").write_text("slide,patient,part\na,A,train\nb,B,validation\n")
    assert len(open_cohort(tmp_path)) == 2
    mixed = f"{second}: tissue_share is 0.5, but {first} has 0.1; images is nothing, but there has png; prepare both"
    older = f"{second}: an earlier version prepared it and did not record its settings, as {first} does"
    twice = f"{second}: slide_id is a, as in {first}; remove one of them"
    for changes, message in (
        ({"settings": other}, mixed),
        ({"settings": '{"source": ["b.svs"]}'}, older),
        ({"settings": one, "slide_id": "a"}, twice),
    ):
        toy.slide(second, **changes)
        for opened in (
            lambda: open_cohort(tmp_path),
            lambda: CohortData(cohort=str(tmp_path), batch_size=2),
            lambda: evaluated(tmp_path),
            lambda: Cohort([SlideFile(first), SlideFile(second)]),
        ):
            with pytest.raises(UserError, match=re.escape(message)):
                opened()
        told = [
            finding.told for finding in checked("cohort", lambda: doctor.cohort(tmp_path)) if finding.status == "FAIL"
        ]
        assert any(line.startswith(message) for line in told), told
    for path in (first, second):  # all of an earlier version: compared by what they record
        toy.slide(path, settings="")
    assert len(open_cohort(tmp_path)) == 2
    assert any("settings: not recorded" in finding.told for finding in doctor.cohort(tmp_path))


def test_the_doctor_names_slides_without_a_region_and_counts_those_drawn_at_random(tmp_path: Path) -> None:
    toy.slide(tmp_path / "a.h5", eligible=json.dumps({"20x": 1000, "10x": 16, "5x": 4}))
    assert "20x: 64 of 1,000 regions with tissue, drawn at random (regions_per_scale)" in [
        finding.told for finding in doctor.cohort(tmp_path)
    ]
    path = toy.slide(tmp_path / "b.h5")
    with h5py.File(path, "r+") as file:
        for scale in toy.SCALES:
            for table in file[f"scales/{scale}"].values():
                table.resize(0, axis=0)
    assert f"{path}: holds no region of any scale; lower tissue_share, or take the slide out" in [
        finding.told for finding in doctor.cohort(tmp_path) if finding.status == "FAIL"
    ]


def test_weights_of_scales_count_by_their_ratios_alone(tmp_path: Path) -> None:
    slides = [SlideFile(toy.slide(tmp_path / "a.h5"))]
    drawn = [
        [pick[1:] for pick in Cohort(slides, scale_weights=[of, 2 * of, of]).draw(0, 3, 64)]
        for of in (1.0, 8e307, 1e-300)
    ]
    assert drawn[0] == drawn[1] == drawn[2]
