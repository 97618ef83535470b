"""The tests of que; a package, so that no other distribution's `tests` can take its place."""
