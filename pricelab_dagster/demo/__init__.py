"""The demo: real grocery sales, six experiments and effects planted where the truth is known."""
