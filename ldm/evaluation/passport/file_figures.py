"""Differences of the files of two folders, and what folders of real images have in common.

Size, JPEG and resampling move distances whatever the images show; a patient or an image in training and test images
makes every measurement too good.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import scipy.stats

from ldm.evaluation.passport.duplicates import Pair, near_duplicates
from ldm.evaluation.passport.figures import LIMIT, PassportFigure, Verdict, counted, signatures
from ldm.evaluation.passport.reading import Folder
from ldm.evaluation.passport.resampling_traces import LINE, SpectralLine, interpolation_line

DETAIL_DB = 2.0
"""difference of fine detail that is reported"""
QUALITY = 5
"""difference of JPEG quality that is reported"""


def leaks(training: Folder, held_out: Folder) -> tuple[list[PassportFigure], list[Pair]]:
    """Patients and images that two folders of real images have in common."""
    shared = sorted({image.patient for image in training.images} & {image.patient for image in held_out.images})
    pairs = near_duplicates(signatures(held_out), signatures(training))
    shown = f"{len(shared)} ({', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''})" if shared else "0"
    images = [*training.images, *held_out.images]
    unsaid = sum(not image.says_patient for image in images)
    if unsaid:
        shown += f"; the names of {unsaid} of {len(images)} images say no patient"
    by_name = counted("shared_patients", len(shared), shown, names=", ".join(shared), without_patient=unsaid)
    if not shared and unsaid == len(images):
        by_name = replace(by_name, verdict="unknown", value="-; no file name says a patient")
    return [by_name, counted("shared_images", len(pairs), str(len(pairs)))], pairs


def files(generated: Folder, real: Folder) -> Iterator[PassportFigure]:
    """Differences of the files that move distances whatever the images show: size, JPEG, resampling."""
    sizes, real_sizes = _sizes(generated), _sizes(real)
    alike = generated.sizes.keys() == real.sizes.keys()
    yield PassportFigure(
        "size", sizes, real_sizes, "as real" if alike else "look", {"value": sizes, "real": real_sizes}
    )
    (share, quality), (real_share, real_quality) = _jpeg(generated), _jpeg(real)
    apart = abs(share - real_share) > 0.1 or abs(quality - real_quality) > QUALITY
    numbers = {"value": share, "quality": quality, "real": real_share, "real_quality": real_quality}
    value, other = _told_jpeg(share, quality), _told_jpeg(real_share, real_quality)
    yield PassportFigure("jpeg", value, other, "look" if apart else "as real", {**numbers})
    yield _detail(generated, real)
    yield _interpolation(generated, real)


def _detail(generated: Folder, real: Folder) -> PassportFigure:
    a, b = (np.array([traces.detail for traces in folder.traces]) for folder in (generated, real))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if not len(a) or not len(b):
        return PassportFigure("detail", "-")
    p = float(scipy.stats.mannwhitneyu(a, b).pvalue)
    gap = float(np.median(a) - np.median(b))
    apart = abs(gap) > DETAIL_DB and p < LIMIT
    value, real_value = f"{np.median(a):.1f} dB", f"{np.median(b):.1f} dB"
    return PassportFigure("detail", value, real_value, "look" if apart else "as real", {"value": gap, "p_value": p})


def _interpolation(generated: Folder, real: Folder) -> PassportFigure:
    lines = [interpolation_line([s for t in folder.traces for s in t.spectra]) for folder in (generated, real)]
    heights = [math.nan if line is None else line.height for line in lines]
    apart = (heights[0] > LINE) != (heights[1] > LINE)
    verdict: Verdict = "unknown" if None in lines else "look" if apart else "as real"
    numbers = {"value": heights[0], "real": heights[1]}
    return PassportFigure("interpolation", _told_line(lines[0]), _told_line(lines[1]), verdict, {**numbers})


def _told_line(line: SpectralLine | None) -> str:
    if line is None:
        return "- (few or small images)"
    if line.height <= LINE:
        return "none"
    return f"enlarged {1 / line.frequency:.3g} or {1 / (1 - line.frequency):.3g} times"


def _sizes(folder: Folder) -> str:
    (height, width), _ = folder.sizes.most_common(1)[0]
    others = len(folder.sizes) - 1
    return f"{width}x{height} px" + (f" and {others} other{'s' * (others > 1)}" if others else "")


def _jpeg(folder: Folder) -> tuple[float, float]:
    """Share of images with traces, and their median quality (100 for none)."""
    searched = [traces.jpeg for traces in folder.traces if traces.searched]
    found = [trace.quality for trace in searched if trace is not None]
    return len(found) / len(searched), float(np.median(found)) if found else 100.0


def _told_jpeg(share: float, quality: float) -> str:
    return f"{share:.0%} at quality {quality:.0f}" if share else "none"
