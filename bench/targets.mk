# For the Makefile above: it includes this file where the benchmark is there.

.PHONY: bench bench-peers

help::
	@echo 'make bench        measure what a session costs; minutes   (ARGS="cost pages", or --size full)'
	@echo 'make bench-peers  the same beside Flask-Session and Django'

bench: .venv-bench/stamp servers
	@exec .venv-bench/bin/python -m bench $(ARGS)

bench-peers: .venv-bench/stamp servers
	@exec .venv-bench/bin/python -m bench peers $(ARGS)

# What is compared with has an environment of its own, made by the Python of the other one.
.venv-bench/stamp: requirements-bench.txt .venv/run.stamp
	@.venv-bench/bin/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m venv --clear .venv-bench
	.venv-bench/bin/python $(pip) --require-hashes --requirement $<
	@touch $@
