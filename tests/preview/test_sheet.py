"""A contact sheet shows every image at every fidelity."""

import numpy as np

from pcrstore.preview.sheet import Row, contact_sheet


def test_a_contact_sheet_has_a_cell_for_every_fidelity():
    black, white = np.zeros((50, 90, 3), np.uint8), np.full((90, 50, 3), 255, np.uint8)
    row = Row(title="\u96ea.jpg", pixels=(black, white), captions=("1 kB", "2 kB"))
    sheet = np.asarray(contact_sheet(["dc", "full"], [row, row]))
    dark = (sheet < 8).all(axis=-1)
    assert dark.sum() >= 2 * 232 * 232  # two black cells, and some text
    assert dark[:, sheet.shape[1] // 2 :].sum() < 1000
