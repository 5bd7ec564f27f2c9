"""R1 at its full count: it is cheap."""

from benchmarks.robustness.odd_slides import measure


def test_every_odd_slide_becomes_what_it_was_labelled(tmp_path):
    assert measure(tmp_path) == "44 of 44 as labelled, 5 of 5 good byte-equal"
