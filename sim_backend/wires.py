"""What the wires of a crossbar do to its conductances: voltage drop, and sneak paths.

**Voltage drop** (``effective``).  Row drivers stand at column 0, sense amplifiers (virtual grounds)
at the last row; every line has a segment of wire between neighbouring cells and one more at its
terminal.  The network is linear, so the array acts as a matrix: the current into column j for 1 V
at row i with all other rows at 0 V.  Solving the network exactly takes 2 x rows x columns nodes;
the approximation here (ours) takes four ladders per pair of lines, O(cells):

1. v: node voltages of each row for 1 V at its driver, columns at ground.  u: those of each column
   for 1 V at its sense terminal, rows at 0 V; by reciprocity, also the share of a cell's current
   that reaches the amplifier.  ``v * G * u`` is all that flows without changing lines again.
2. What u counts as lost into other rows partly comes back, because those rows rise, too.  If all
   columns rise alike there, a row takes just ``G * v`` from them (the row sums of its admittance):
   the columns are solved again with that load, and the rows with ``G * u``, which is the same seen
   from the other terminal.  The mean of both gains is what comes back.
3. It arrives through other cells, so a cell's own conductance says little about its share: it is
   spread as (gain of the row) x (gain of the column) / (gain of all).

Where one kind of wire has no resistance, nothing comes back and step 1 is exact.

**Sneak paths** (``sneak``): one cell read while all other lines float.

Conductances are in microsiemens, resistances in ohm.  The compiled functions have their oracle,
with the same bits, in ``effective_numpy``.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: ohm times microsiemens
_OHM_US = 1e-6
#: doubles along a side of the blocks in which an array is transposed: two cache lines
_BLOCK = 16


def effective(conductances: Floats, row_ohm: float, column_ohm: float) -> Floats:
    """The matrix that an array acts as, behind its wires.

    Against the exact network, cells of 4 to 40 uS at random, inputs of 0 to 1 at random:

    ========  ====  ====================  ======================  =====================
    array     ohm   current lost          error of a current      error of an element
                    (all / worst cell)    (largest / rms)         (largest / rms)
    ========  ====  ====================  ======================  =====================
    64 x 64   1     6 % / 9 %             0.01 % / 0.003 %        0.1 % / 0.01 %
    64 x 64   5     23 % / 35 %           0.19 % / 0.06 %         1.5 % / 0.15 %
    256 x 64  1     32 % / 49 %           0.04 % / 0.01 %         1.0 % / 0.10 %
    256 x 64  5     66 % / 88 %           0.35 % / 0.08 %         13 % / 2.2 %
    ========  ====  ====================  ======================  =====================

    Halves or alternate columns at 4 uS, all cells at 40 uS; a tenth or one half of the rows driven,
    or all of them with both signs (error over rms current): up to 3 ohm on 64 x 64 and 1 ohm on
    256 x 64 the largest error of a current is 0.7 %; with 5 and 2 ohm it is 1.5 and 2.2 %.

    Driven from the other side (voltages at the columns' sense terminals, currents measured at the
    rows' drivers), the same array has the transposed matrix: the network is reciprocal.

    Args:
        conductances: (rows, columns), uS, none negative.
        row_ohm, column_ohm: resistance of one segment along a row and along a column.

    Returns:
        (rows, columns), uS: column currents are ``inputs @ matrix``.
    """
    cells = np.ascontiguousarray(conductances, dtype=np.float64)
    matrix: Floats = _effective(cells, row_ohm * _OHM_US, column_ohm * _OHM_US)
    return matrix


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _effective(cells, row_wire, column_wire):  # type: ignore[no-untyped-def]  # numba infers
    rows, columns = cells.shape
    # Rows are solved on the transposed array, so that the loop over lines is always the inner one
    # and runs through memory: it vectorises, the recursion along a line cannot.
    across = _transposed(cells)
    v = _transposed(_ladder(across, row_wire, 0, 1))
    u = _ladder(cells, column_wire, rows - 1, -1)
    loaded_v = _transposed(_ladder(_transposed(cells * u), row_wire, 0, 1))
    loaded_u = _ladder(cells * v, column_wire, rows - 1, -1)
    by_row, by_column = np.zeros(rows), np.zeros(columns)
    for i in range(rows):
        for j in range(columns):
            gain = v[i, j] * (loaded_u[i, j] - u[i, j]) + (loaded_v[i, j] - v[i, j]) * u[i, j]
            # Never negative but for rounding, which must not make the total vanish.
            back = max(0.0, 0.5 * gain * cells[i, j])
            by_row[i] += back
            by_column[j] += back
    total = 0.0
    for j in range(columns):
        total += by_column[j]
    matrix = v * cells * u
    if total > 0.0:
        for j in range(columns):
            by_column[j] /= total
        for i in range(rows):
            for j in range(columns):
                matrix[i, j] += by_row[i] * by_column[j]
    return matrix


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _ladder(load, wire, terminal, step):  # type: ignore[no-untyped-def]  # numba infers
    """Node voltages (nodes, lines) for 1 V at the terminal of every line.

    The line's admittance seen from a node, from its far end on, is ``y = load + y' / (1 + r y')``;
    a segment of wire divides the voltage by ``1 + r y``.  Sums and products of positive numbers
    only: no cancellation, whatever the load.
    """
    nodes, lines = load.shape
    volts = np.empty((nodes, lines))
    admittance, share = np.zeros(lines), np.ones(lines)
    for k in range(nodes - 1, -1, -1):
        node = terminal + k * step
        for i in range(lines):
            admittance[i] = load[node, i] + admittance[i] * share[i]
            share[i] = 1.0 / (1.0 + wire * admittance[i])
            volts[node, i] = share[i]
    for k in range(1, nodes):
        node = terminal + k * step
        for i in range(lines):
            volts[node, i] *= volts[node - step, i]
    return volts


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def _transposed(array):  # type: ignore[no-untyped-def]  # numba infers
    """A copy with the axes swapped, block by block: whole strided lines would evict each other."""
    rows, columns = array.shape
    out = np.empty((columns, rows))
    for top in range(0, rows, _BLOCK):
        for left in range(0, columns, _BLOCK):
            for j in range(left, min(left + _BLOCK, columns)):
                for i in range(top, min(top + _BLOCK, rows)):
                    out[j, i] = array[i, j]
    return out


def effective_numpy(conductances: Floats, row_ohm: float, column_ohm: float) -> Floats:
    """The oracle of ``effective``: same arguments, same bits."""
    cells = np.asarray(conductances, dtype=np.float64)
    row_wire, column_wire = row_ohm * _OHM_US, column_ohm * _OHM_US
    v, u = _along_rows(cells, row_wire), _along_columns(cells, column_wire)
    loaded_v = _along_rows(cells * u, row_wire)
    loaded_u = _along_columns(cells * v, column_wire)
    gain = v * (loaded_u - u) + (loaded_v - v) * u
    back = np.maximum(0.0, 0.5 * gain * cells)
    # cumsum adds one by one, as the compiled loop does; sum would add in pairs
    by_row, by_column = back.cumsum(axis=1)[:, -1], back.cumsum(axis=0)[-1]
    total = by_column.cumsum()[-1]
    matrix: Floats = v * cells * u
    if total > 0.0:
        matrix += np.outer(by_row, by_column / total)
    return matrix


def _along_rows(load: Floats, wire: float) -> Floats:
    """Node voltages (rows, columns) for 1 V at the left of every row."""
    volts = np.empty_like(load)
    admittance, share = np.zeros(load.shape[0]), np.ones(load.shape[0])
    for j in reversed(range(load.shape[1])):
        admittance = load[:, j] + admittance * share
        share = 1.0 / (1.0 + wire * admittance)
        volts[:, j] = share
    passed: Floats = volts.cumprod(axis=1)
    return passed


def _along_columns(load: Floats, wire: float) -> Floats:
    """Node voltages (rows, columns) for 1 V at the bottom of every column."""
    return _along_rows(load[::-1].T, wire).T[::-1]


def sneak(conductances: Floats, off_ratio: float) -> Floats:
    """What sneak paths add to the reading of each cell while all other lines float.

    Three groups of cells in series: the others of its row, the others of its column, and the rest
    between them.  Every group counts as if its lines were tied together, so this is exact for equal
    conductances and otherwise never too low: for 4 to 40 uS at random it is too high by 3 % rms on
    8 x 8 and 0.7 % on 32 x 32; for 4 uS with one cell in ten at 40 uS, by 17 % and 6 %.

    Args:
        conductances: (rows, columns), uS, none negative.
        off_ratio: conductance of an unselected cell as a share of its own: 0 for perfect
            selectors, 1 for an array without any.

    Returns:
        (rows, columns), uS, to be added to the conductance of the cell.
    """
    cells = np.asarray(conductances, dtype=np.float64)
    if min(cells.shape) < 2:
        return np.zeros(cells.shape)
    row = cells.sum(axis=1, keepdims=True)
    column = cells.sum(axis=0, keepdims=True)
    rest = cells.sum() - row - column + cells
    # Differences that should be zero may be a rounding error below it.
    a, b, c = (np.maximum(0.0, group) for group in (row - cells, column - cells, rest))
    pairs = a * b + b * c + c * a
    # 1 / (1/a + 1/b + 1/c) without dividing by an empty group
    path = np.divide(a * b * c, pairs, out=np.zeros(cells.shape), where=pairs > 0.0)
    added: Floats = off_ratio * path
    return added
