"""Pictures: of all kinds of panels, and of a run."""

import pytest

from rbd_ipu.plots import Line, Panel, draw, plot_run, statistics_of


def test_a_single_run_has_no_deviation():
    assert statistics_of([[1.0, 2.0]]) == ([1.0, 2.0], [0.0, 0.0])


def test_the_picture_has_a_place_for_what_is_not_measured(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    line = Line("a", [1.0, 10.0, 100.0], [0.5, 0.1, 0.01], [0.4, 0.2, 0.0], 10, 2)
    drawn = [Panel(f"panel {i}", "n", "y", [line], log_x=True, log_y=True) for i in range(3)]
    drawn.append(Panel("nothing", "epoch", "y", []))
    draw(tmp_path / "a.png", "A title that is much longer than the picture is wide " * 3, drawn)
    pixels = imread(tmp_path / "a.png")
    assert pixels.shape[1] > 1500 and pixels.shape[0] > 900  # two rows of panels
    assert pixels[..., :3].std() > 0.02
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def _size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def _rows(epochs):
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "loss": 2.0 / epoch, "val_loss": 2.5 / epoch, "correlation": 0.05}
        row.update(accuracy=0.9 - 0.5 / epoch, val_accuracy=0.85 - 0.5 / epoch)
        rows.append(row)
    return rows


@pytest.mark.parametrize("epochs", [1, 30])
def test_the_picture_of_a_run(tmp_path, epochs):
    pytest.importorskip("matplotlib")
    rows = _rows(epochs)
    rows[0]["loss"] = None
    plot_run(tmp_path / "a.png", rows, "a title")
    width, height = _size(tmp_path / "a.png")
    assert width > 1500 and height > 400
