"""The floor plan of a maze, of either package that has mazes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating[Any]]


class Floor(NamedTuple):
    """Square cells in rows along y and columns along x."""

    wall: NDArray[np.bool_]
    """(R, C)"""
    first: Points
    """x and y of the middle of the cell in row 0 and column 0: (2,)"""
    step: Points
    """x from a column to the next, and y from a row to the next, in the observation's unit: (2,)"""

    def cells(self, xy: Points) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column (N,) of the cells in which the points (N, 2) lie."""
        column, row = np.floor((np.asarray(xy) - self.first) / self.step + 0.5).astype(int).T
        return row, column

    def free(self, xy: Points) -> NDArray[np.bool_]:
        """Are the points (N, 2) within the maze and in none of its walls: (N,)"""
        row, column = self.cells(xy)
        rows, columns = self.wall.shape
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return inside & ~self.wall[row.clip(0, rows - 1), column.clip(0, columns - 1)]

    def box(self) -> tuple[Points, Points]:
        """The least and the greatest x and y: (2,), (2,)"""
        ends = self.first - self.step / 2, self.first + self.step * (np.array(self.wall.shape[::-1]) - 0.5)
        return np.minimum(*ends), np.maximum(*ends)


def floor_of(env: Any) -> Floor | None:
    """That of an environment; None if it has no maze."""
    body = env.unwrapped
    if hasattr(body, "maze"):  # gymnasium-robotics: 1 is a wall, letters mark where to begin and to go
        cells, middle = body.maze.maze_map, body.maze.cell_rowcol_to_xy
    elif hasattr(stock := getattr(body, "stock", body), "maze_map"):  # OGBench
        cells, middle = stock.maze_map, stock.ij_to_xy
    else:
        return None
    first, right, below = (np.array(middle(np.array(cell)), float) for cell in ((0, 0), (0, 1), (1, 0)))
    wall = np.array([[str(cell) == "1" for cell in row] for row in cells])
    return Floor(wall, first, np.array([right[0] - first[0], below[1] - first[1]]))
