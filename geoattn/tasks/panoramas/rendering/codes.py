"""Numbers that stand for shapes and patterns in the arrays of a room."""

BOX, CYLINDER, ELLIPSOID = 0, 1, 2
PLAIN, TILES, PLANKS, MOTTLED, BOOKS, SKY = 0, 1, 2, 3, 4, 5
