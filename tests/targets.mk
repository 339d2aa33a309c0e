.PHONY: test-windows

help::
	@echo 'make test-windows    run package and site by a Windows Python, under Wine'

test-windows: .venv/test.stamp servers
	@command -v wine >/dev/null || { $(call apt_install,wine wine64); }
	@exec $(BIN)/python -m tests.windows.wine $(ARGS)
