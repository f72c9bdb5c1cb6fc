"""The demo: real grocery sales, five experiments and effects planted where the truth is known."""
