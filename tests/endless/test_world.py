"""An endless slide of a plain model: the same bytes however it is visited."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.fixtures.plain_model import PlainModel
from ldm.data.tokens import normalize_tokens
from ldm.diffusion.samplers import log_snr_timesteps, seeded_noise
from ldm.endless.decoded_areas import MARGIN
from ldm.endless.drawn_map import nearest_grid
from ldm.endless.endless_world import NOISE, STEPS, World, usual_settings
from ldm.endless.lattice import Area
from ldm.endless.memo import Memo
from ldm.endless.plane import HIDING, PARTS, ScalePlane, beginning, groups_of, walk
from ldm.errors import UserError
from ldm.images.tensors import from_uint8
from ldm.multiscale.conditions import Unconditional
from ldm.multiscale.inversion_loss import ContextLoss
from ldm.multiscale.joint import FOR_START, Joint
from ldm.multiscale.presets import PRESETS

SETTINGS = replace(PRESETS["default"], steps=3)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Few steps for the conditions of a cell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldm.endless.drawn_map.DRAW_STEPS", 2)
        patch.setattr("ldm.endless.drawn_map.INVERT_STEPS", 2)
        yield


def worlds(model: PlainModel | None = None, **changes: Any) -> World:
    """A world of two scales; `changes` are to its arguments."""
    return World(model or PlainModel(), ["20x", "5x"], **{"seed": 3, "settings": SETTINGS} | changes)


@pytest.fixture(scope="module")
def plain(quick: None) -> World:
    """One world, which keeps what any test has seen of it."""
    return worlds(threads=1)


def test_the_order_of_visits_changes_no_byte(plain: World) -> None:
    places = [("20x", -160, -160), ("5x", -40, -50), ("20x", -120, -150)]
    there = worlds(threads=3)
    forth = {at: plain[at[0], at[1] : at[1] + 40, at[2] : at[2] + 40] for at in places}
    back = {at: there[at[0], at[1] : at[1] + 40, at[2] : at[2] + 40] for at in reversed(places)}
    assert all(np.array_equal(forth[at], back[at]) for at in places)
    assert all(image.std() > 0 for image in forth.values())


def test_region_by_region_equals_at_once(plain: World) -> None:
    whole = plain["20x", -160:-90, -150:-90]
    other = worlds()
    parts = [[other["20x", r : r + 35, c : c + 30] for c in (-150, -120)] for r in (-125, -160)]
    assert np.array_equal(np.block([[[part] for part in row] for row in reversed(parts)]), whole)
    assert np.array_equal(np.concatenate(list(other.bands("20x", Area(-160, -150, -90, -90)))), whole)


def test_a_restart_equals_and_computes_nothing(plain: World, tmp_path: Path) -> None:
    first = worlds(cache=tmp_path)["20x", -128:-64, -128:-64]
    assert np.array_equal(plain["20x", -128:-64, -128:-64], first)
    model = PlainModel()
    assert np.array_equal(worlds(model, cache=tmp_path)["20x", -128:-64, -128:-64], first)
    assert model.windows == 0


def test_closing_ends_what_runs_after_the_windows_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, closing, walked = threading.Event(), threading.Event(), ScalePlane._walked
    calls = []

    def waits(plane: ScalePlane, *given: Any) -> Tensor:
        calls.append(plane.scale)
        begun.set()
        assert closing.wait(60)
        return walked(plane, *given)

    monkeypatch.setattr(ScalePlane, "_walked", waits)
    world = worlds(threads=1)
    running, waiting = (world.submit("20x", row, 0) for row in (0, 9))
    assert begun.wait(60)
    world.memo.stop()
    closing.set()
    world.close()
    assert len(calls) == 1  # of the dozens of windows that the chunk needs
    for chunk in (running, waiting):
        with pytest.raises(CancelledError):
            chunk.result(timeout=60)


def test_a_cache_that_forgets_changes_no_byte(plain: World) -> None:
    forgetful = worlds()
    forgetful.memo.limit = 40_000
    assert np.array_equal(forgetful["20x", -100:-70, -128:-64], plain["20x", -100:-70, -128:-64])


def test_seeds_and_places_differ(plain: World) -> None:
    here = plain["5x", -64:-32, -64:-32]
    assert not np.array_equal(here, plain["5x", -32:0, -32:0])
    assert not np.array_equal(here, worlds(seed=4)["5x", -64:-32, -64:-32])


def test_windows_in_batches_give_the_same_image_but_for_rounding(plain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = plain["20x", -120:-70, -128:-64].astype(int)
    monkeypatch.setattr(World, "_batches", property(lambda _: True))
    batches = worlds()["20x", -120:-70, -128:-64].astype(int)
    assert np.abs(alone - batches).max() <= 1
    assert (alone != batches).mean() < 0.001


def test_a_finer_image_is_constrained_by_the_coarser_one(plain: World) -> None:
    def gap(world: World) -> float:
        fine, coarse = (
            from_uint8(image[None]) for image in (world["20x", -128:-64, -128:-64], world["5x", -32:-16, -32:-16])
        )
        return (torch.nn.functional.avg_pool2d(fine, 4) - coarse).square().mean().item()

    free = replace(SETTINGS, rule=replace(SETTINGS.rule, inner=0), rounds=0)
    assert gap(plain) < 0.5 * gap(worlds(settings=free))


@pytest.mark.parametrize("steps", [3, 6, 10, 20])
def test_a_constrained_scale_begins_where_noise_just_hides_what_the_coarser_one_lacks(steps: int) -> None:
    model = PlainModel()
    table = walk(replace(SETTINGS, steps=steps), model.alpha_bar)
    first = beginning(table)
    sigmas = [((1 - step.a_t) / step.a_t).sqrt() for step in table]
    assert 0 < first < steps
    assert sigmas[first] >= HIDING > sigmas[first + 1]
    assert beginning(table[first + 1 :]) == 0


def test_a_constrained_scale_begins_with_the_coarser_image(plain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScalePlane, "_walked", lambda _, z_t, *given: z_t)
    plane, place = plain.planes["20x"], Area(-32, -32, 0, 0)
    begun = replace(plane, memo=Memo()).latents(place, 0)
    a_t = plane.walk[plane.groups[0].steps.start].a_t
    noise = plane.latents(place, -1)
    image = plain.model.decode(((begun - (1 - a_t).sqrt() * noise) / a_t.sqrt())[None])
    coarse = from_uint8(plain["5x", -32:0, -32:0][None])
    gap = torch.nn.functional.avg_pool2d(image, 4) - coarse
    assert gap.square().mean() < 0.1 * coarse.var()


@pytest.mark.parametrize(("margin", "share"), [(1, 0.002), (MARGIN, 0.1)])
def test_chunks_have_no_borders_of_their_own(margin: float, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> np.ndarray:
        return worlds()["20x", -80:-16, -80:-16].astype(int)

    monkeypatch.setattr("ldm.endless.decoded_areas.MARGIN", margin)
    small = seen()
    monkeypatch.setattr("ldm.endless.endless_world.CHUNK", 2)
    off = np.abs(small - seen())
    assert off.max() <= 1
    assert (off > 0).mean() < share


def test_a_decoder_with_statistics_decodes_overlapping_windows(plain: World) -> None:
    place = ("5x", slice(-50, -10), slice(-64, 0))
    local = plain[place].astype(int)
    blended = worlds(PlainModel(reach=None))[place]
    assert 0 < np.abs(local - blended).mean() < 8


def test_a_model_without_a_preview_head_works() -> None:
    world = worlds(PlainModel(preview=None), settings=replace(PRESETS["exact"], steps=2))
    assert world["20x", -128:-120, -128:-120].std() > 0


def test_visitors_at_the_same_time_share_the_work() -> None:
    alone, shared = PlainModel(), PlainModel()
    worlds(alone, threads=1)["5x", -64:0, -64:0]
    world = worlds(shared, threads=2)
    visitors = [threading.Thread(target=lambda: world["5x", -64:0, -64:0]) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert shared.windows == alone.windows


def test_noise_at_places_of_an_image_is_that_of_joint_sampling(plain: World) -> None:
    model = plain.model
    joint = Joint(model=model, scales=["20x"], height=64, width=64, conditions=Unconditional(model), seed=3)
    noise: Tensor = plain.planes["20x"].latents(Area(0, 0, 16, 16), -1)
    assert torch.equal(noise, joint._noise("20x", FOR_START)[:, :16, :16])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("3x", slice(0, 8), slice(0, 8)), "scale 3x"),
        (("20x", slice(None, 8), slice(0, 8)), "two ends"),
        (("20x", slice(8, 8), slice(0, 8)), "two ends"),
        (("20x", slice(0, 8, 2), slice(0, 8)), "two ends"),
        (("20x", slice(2**45, 2**45 + 8), slice(0, 8)), "expected places between"),
    ],
)
def test_what_is_no_place_is_refused(plain: World, place: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plain[place]


def test_a_model_without_a_cdm_is_refused() -> None:
    with pytest.raises(UserError, match="cdm"):
        worlds(PlainModel(cdm=False))


def test_drafts_are_images_of_the_coarsest_scale_and_cost_less() -> None:
    model = PlainModel()
    world = worlds(model, settings=None)
    draft = world.submit_draft(-1, 0).result()
    side = world.draft_px
    assert draft.shape == (side, side, 3)
    assert draft.std() > 0
    before = model.windows
    offset = world.draft_offset_px
    image = world["5x", offset - side : offset, offset : offset + side]
    assert before * 5 < model.windows
    other = world.submit_draft(0, 0).result()

    def blurred(picture: np.ndarray) -> np.ndarray:
        """Means of the pixels of a latent."""
        return picture.reshape(side // 4, 4, side // 4, 4, 3).mean((1, 3)).ravel()

    alike, unlike = (np.corrcoef(blurred(each), blurred(image))[0, 1] for each in (draft, other))
    assert alike > 0.4
    assert alike > 2 * abs(unlike)


def test_a_distilled_model_takes_its_own_steps_without_guidance_and_the_last_one_is_free() -> None:
    world = worlds(PlainModel(evaluations=3), settings=None)
    plane = world.planes["20x"]
    assert [group.steps for group in world.planes["5x"].groups] == [range(1), range(1, 3)]
    assert [group.steps for group in plane.groups] == [range(1, 2), range(2, 3)]
    assert [step.t for step in plane.walk] == log_snr_timesteps(3, world.model.alpha_bar)
    assert {plane.guidance for plane in world.planes.values()} == {1.0}
    assert [plane._constrained(number) for number in range(3)] == [True, True, False]
    default = PRESETS["default"]
    expected = replace(default, steps=STEPS, rule=replace(default.rule, noise=NOISE))
    assert worlds(PlainModel(), settings=None).settings == expected


@pytest.mark.parametrize("steps", range(1, 17))
def test_any_number_of_steps_is_divided_among_the_groups(steps: int) -> None:
    settings = usual_settings(PlainModel(evaluations=steps))
    groups = groups_of(PARTS, range(steps), 32, 1)
    assert [number for group in groups for number in group.steps] == list(range(steps))
    assert len(groups) == min(steps, len(PARTS))
    plane = worlds(PlainModel(), settings=settings).planes["20x"]
    assert sum(map(plane._constrained, range(steps))) == max(1, steps - 1)


def test_a_grid_is_found_whose_summary_is_near_the_context() -> None:
    model = PlainModel()
    there = normalize_tokens(seeded_noise((1, model.embedding_width, 4, 4), 1))
    loss = ContextLoss(lambda grids: model.context(grids, "5x"), model.context(there, "5x"))
    start = 0.1 * seeded_noise(there.shape, 2)
    found = nearest_grid(loss, start, 20)
    torch.testing.assert_close(found, normalize_tokens(found))
    assert loss(found, 0) < 0.1 * loss(normalize_tokens(start), 0)
