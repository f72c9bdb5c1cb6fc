"""Speed against one grouped sum and against peers, run by `make bench`; never part of the tests."""
