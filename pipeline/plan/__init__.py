"""A study as data: arms, bases, grids, questions; reading, checking, walking it. Runs nothing itself."""
