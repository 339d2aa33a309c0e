"""One file per backend: a `Store`, and a `Hold` where it has locks of its own. Plain Python, without CherryPy."""
