"""One file per backend. Each is a `Store` (and a `Hold` where it has locks of its own), plain Python without CherryPy."""
