"""Wires of a crossbar: voltage drop and sneak paths against exact solves of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import splu

from sim_backend.wires import effective, effective_numpy, sneak

KINDS = [effective, effective_numpy]


def random_cells(rows: int, columns: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(4.0, 40.0, (rows, columns))


def random_inputs(count: int, rows: int, share: float = 1.0) -> Any:
    """(count, rows) voltages; only a share of the rows is driven."""
    rng = np.random.default_rng(1)
    return rng.uniform(0.0, 1.0, (count, rows)) * (rng.random((count, rows)) < share)


def laplacian(edges: list[tuple[Any, Any, Any]], size: int) -> Any:
    """The matrix of a network of (nodes, nodes, conductances)."""
    ends = [tuple(a.ravel() for a in np.broadcast_arrays(*edge)) for edge in edges]
    one, other, value = (np.concatenate(part) for part in zip(*ends, strict=True))
    half = sparse.coo_matrix((value, (one, other)), shape=(size, size))
    joined = (half + half.T).tocsc()
    return sparse.diags(np.asarray(joined.sum(axis=0)).ravel()).tocsc() - joined


def exact_currents(cells: Any, row_ohm: float, column_ohm: float, volts: Any) -> Any:
    """Current out of every terminal for voltages at the terminals (batch, rows + columns).

    Terminals are the rows' drivers, then the columns' amplifiers; every cell has a node on its row
    and one on its column, which is the line's terminal itself where the wire has no resistance.
    """
    rows, columns = cells.shape
    ports = rows + columns
    nodes = ports + np.arange(2 * rows * columns).reshape(2, rows, columns)
    driver, amplifier = np.arange(rows)[:, None], np.arange(rows, ports)[None, :]
    edges = []
    if row_ohm > 0.0:
        line = np.hstack([driver, nodes[0]])
        edges.append((line[:, :-1], line[:, 1:], 1e6 / row_ohm))
    if column_ohm > 0.0:
        line = np.vstack([nodes[1], amplifier])
        edges.append((line[:-1], line[1:], 1e6 / column_ohm))
    on_row = nodes[0] if row_ohm > 0.0 else driver
    on_column = nodes[1] if column_ohm > 0.0 else amplifier
    edges.append((on_row, on_column, cells))
    matrix = laplacian(edges, ports + 2 * rows * columns)
    used = ports + np.flatnonzero(matrix.diagonal()[ports:])
    inner = matrix[used][:, used]
    fixed = np.asarray(volts, dtype=np.float64).T
    solver = splu(inner, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    free = solver.solve(-(matrix[used][:, :ports] @ fixed)) if used.size else np.zeros((0, 1))
    return -(matrix[:ports][:, :ports] @ fixed + matrix[:ports][:, used] @ free).T


def column_currents(cells: Any, row_ohm: float, column_ohm: float, inputs: Any) -> Any:
    """(batch, columns) for (batch, rows) voltages, from the exact network."""
    rows, columns = cells.shape
    volts = np.hstack([inputs, np.zeros((len(inputs), columns))])
    return exact_currents(cells, row_ohm, column_ohm, volts)[:, rows:]


def patterned(name: str, rows: int, columns: int) -> Any:
    cells = random_cells(rows, columns)
    low: dict[str, Any] = {
        "left half low": np.s_[:, : columns // 2],
        "top half low": np.s_[: rows // 2],
        "alternate columns low": np.s_[:, ::2],
    }
    cells[low[name]] = 4.0
    return cells


@pytest.mark.parametrize(
    ("rows", "ohm", "bound"),
    [(64, 1.0, 0.0002), (64, 5.0, 0.003), (256, 1.0, 0.0006), (256, 5.0, 0.005)],
)
def test_column_currents_are_near_those_of_the_exact_network(
    rows: int, ohm: float, bound: float
) -> None:
    cells, inputs = random_cells(rows, 64), random_inputs(32, rows)
    wanted = column_currents(cells, ohm, ohm, inputs)
    assert np.abs(inputs @ effective(cells, ohm, ohm) / wanted - 1.0).max() < bound


@pytest.mark.parametrize(("row_ohm", "column_ohm"), [(5.0, 0.5), (0.5, 5.0)])
def test_unequal_wires_are_near_the_exact_network(row_ohm: float, column_ohm: float) -> None:
    cells, inputs = random_cells(64, 64), random_inputs(32, 64)
    wanted = column_currents(cells, row_ohm, column_ohm, inputs)
    assert np.abs(inputs @ effective(cells, row_ohm, column_ohm) / wanted - 1.0).max() < 0.001


@pytest.mark.parametrize(("rows", "ohm"), [(64, 3.0), (256, 1.0)])
@pytest.mark.parametrize("name", ["left half low", "top half low", "alternate columns low"])
def test_patterned_arrays_and_sparse_inputs_stay_near_the_exact_network(
    name: str, rows: int, ohm: float
) -> None:
    cells = patterned(name, rows, 64)
    top = random_inputs(16, rows)
    top[:, rows // 2 :] = 0.0
    inputs = np.vstack([random_inputs(16, rows, 0.2), top])
    wanted = column_currents(cells, ohm, ohm, inputs)
    assert np.abs(inputs @ effective(cells, ohm, ohm) / wanted - 1.0).max() < 0.005


@pytest.mark.parametrize(("rows", "ohm", "bound"), [(64, 2.0, 0.006), (64, 5.0, 0.025)])
def test_every_element_is_near_the_exact_network(rows: int, ohm: float, bound: float) -> None:
    cells = random_cells(rows, 64)
    wanted = column_currents(cells, ohm, ohm, np.eye(rows))
    assert np.abs(effective(cells, ohm, ohm) / wanted - 1.0).max() < bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("row_ohm", "column_ohm"), [(5.0, 0.0), (0.0, 5.0), (300.0, 0.0)])
def test_one_kind_of_wire_alone_is_exact(kind: Any, row_ohm: float, column_ohm: float) -> None:
    cells = random_cells(40, 24)
    wanted = column_currents(cells, row_ohm, column_ohm, np.eye(40))
    assert np.abs(kind(cells, row_ohm, column_ohm) / wanted - 1.0).max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (33, 17)])
def test_wires_without_resistance_change_nothing(kind: Any, shape: tuple[int, int]) -> None:
    cells = random_cells(*shape)
    before = cells.copy()
    assert np.array_equal(kind(cells, 0.0, 0.0), before)
    kind(cells, 5.0, 5.0)
    assert np.array_equal(cells, before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_without_conductance_stays_without(kind: Any) -> None:
    assert not kind(np.zeros((5, 3)), 5.0, 5.0).any()


def test_a_cell_alone_is_in_series_with_its_two_segments() -> None:
    wanted = 1e6 / (1e6 / 40.0 + 3.0 + 5.0)
    assert effective(np.array([[40.0]]), 3.0, 5.0)[0, 0] == pytest.approx(wanted, rel=1e-7)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    row_ohm=st.sampled_from((0.0, 1e-9, 0.1, 5.0, 1e5)),
    column_ohm=st.sampled_from((0.0, 1e-9, 0.1, 5.0, 1e5)),
    dead=st.sampled_from((0.0, 0.5)),
    layout=st.sampled_from(("whole", "transposed", "strided", "single")),
    seed=st.integers(0, 2**32 - 1),
)
def test_compiled_wires_have_the_bits_of_the_oracle(
    rows: int, columns: int, row_ohm: float, column_ohm: float, dead: float, layout: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cells: Any = random_cells(2 * rows, 2 * columns, seed)
    cells[rng.random(cells.shape) < dead] = 0.0
    view: dict[str, Any] = {
        "whole": lambda a: a,
        "transposed": lambda a: a.T,
        "strided": lambda a: a[::-2, 1::2],
        "single": lambda a: a.astype(np.float32),
    }
    cells = view[layout](cells)
    compiled = effective(cells, row_ohm, column_ohm)
    assert compiled.tobytes() == effective_numpy(cells, row_ohm, column_ohm).tobytes()
    assert np.isfinite(compiled).all() and (compiled >= 0.0).all()


def test_driven_from_the_columns_the_array_has_the_transposed_matrix() -> None:
    cells, row_ohm, column_ohm = random_cells(48, 32), 4.0, 6.0
    volts = np.hstack([np.zeros((32, 48)), np.eye(32)])
    backwards = exact_currents(cells, row_ohm, column_ohm, volts)[:, :48]
    forwards = column_currents(cells, row_ohm, column_ohm, np.eye(48))
    assert np.allclose(backwards, forwards.T, rtol=1e-9, atol=0.0)
    matrix = effective(cells, row_ohm, column_ohm)
    assert np.abs(matrix.T / backwards - 1.0).max() < 0.01


def test_the_approximation_is_reciprocal_itself() -> None:
    cells = random_cells(48, 32)
    # the same array with the drivers at the old sense terminals, at the left as ever
    turned = effective(cells[::-1, ::-1].T, 6.0, 4.0).T[::-1, ::-1]
    assert np.allclose(turned, effective(cells, 4.0, 6.0), rtol=1e-12, atol=0.0)


def exact_sneak(cells: Any, off_ratio: float) -> Any:
    """What the network of all other cells conducts from the row to the column of each cell."""
    rows, columns = cells.shape
    found = np.empty(cells.shape)
    for i, j in np.ndindex(*cells.shape):
        others = cells * off_ratio
        others[i, j] = 0.0
        lines = np.arange(rows)[:, None], rows + np.arange(columns)[None, :]
        matrix = laplacian([(*lines, others)], rows + columns).toarray()
        floating = np.delete(np.arange(rows + columns), [i, rows + j])
        volts = np.zeros(rows + columns)
        volts[i] = 1.0
        volts[floating] = np.linalg.solve(matrix[np.ix_(floating, floating)], -matrix[floating, i])
        found[i, j] = -(matrix @ volts)[rows + j]
    return found


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (12, 8)])
@pytest.mark.parametrize("off_ratio", [1.0, 1e-3])
def test_sneak_paths_of_equal_cells_are_exact(shape: tuple[int, int], off_ratio: float) -> None:
    cells = np.full(shape, 22.0)
    assert np.allclose(sneak(cells, off_ratio), exact_sneak(cells, off_ratio), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize(("size", "bound"), [(8, 0.08), (24, 0.02)])
def test_sneak_paths_of_random_cells_are_near_and_never_too_low(size: int, bound: float) -> None:
    cells = random_cells(size, size)
    ratio = sneak(cells, 1.0) / exact_sneak(cells, 1.0)
    assert ratio.min() > 1.0 - 1e-9
    assert ratio.max() < 1.0 + bound


def test_perfect_selectors_leave_no_sneak_path() -> None:
    assert not sneak(random_cells(6, 9), 0.0).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_a_single_line_has_no_sneak_path(shape: tuple[int, int]) -> None:
    assert np.array_equal(sneak(random_cells(*shape), 1.0), np.zeros(shape))


def test_an_empty_group_of_cells_cuts_the_sneak_path() -> None:
    cells = random_cells(4, 5)
    cells[0, 1:] = 0.0
    assert sneak(cells, 1.0)[0, 0] == pytest.approx(0.0, abs=1e-9)
    assert not sneak(np.zeros((4, 5)), 1.0).any()
