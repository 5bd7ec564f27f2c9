"""The ladder in um per pixel."""

from ldm.scales import ladder


def test_viewers_read_um_whatever_the_unit() -> None:
    histology, satellite = ladder("histology"), ladder("satellite")
    assert [histology.um(name) for name in ("20x", "5x", "0.15625x")] == [0.5, 2.0, 64.0]
    assert [satellite.um(name) for name in satellite.names] == [1e6, 2e6, 4e6, 8e6]
