"""What a session costs, measured: `make bench`, and `make bench-peers` beside other frameworks."""
