# For the Makefile above.

.PHONY: test-container

help::
	@echo 'make test-container  build the image and try it (needs root)'

test-container: .venv/test.stamp
	@command -v buildah >/dev/null || { $(call apt_install,buildah); }
	@command -v debootstrap >/dev/null || { $(call apt_install,debootstrap); }
	@exec $(BIN)/python -m pytest --all -q tests/deploy/container.py $(ARGS)
