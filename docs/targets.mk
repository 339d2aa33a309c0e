# For the Makefile above: it includes this file where the documents are there.

.PHONY: docs screenshots

help::
	@echo 'make docs         put the tables and figures into the documents'
	@echo 'make screenshots  take the pictures of the documents from the running site'

docs: .venv/run.stamp
	@exec $(BIN)/python -m docs.generate

screenshots: .venv/test.stamp chromium
	@exec $(BIN)/python -m tests.docs.screenshots
