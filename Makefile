# One command starts the site (make run) and one proves it (make test). Both set up what is missing, in .venv and, where
# only a Debian package will do, with apt-get. Both may be run again at any time and then start at once.

.DEFAULT_GOAL := help
.PHONY: help run test check lock services services-stop clean chromium servers

# Debian's own Python first: every user of the machine may execute it, so root's tests can start the site as nobody.
PYTHONS := /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(PYTHONS); do $$p -c '$(RECENT)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

# The tests drive Debian's browser, or the one that CHROMIUM names; Playwright never downloads one of its own.
export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD := 1

stop = { echo "$(1)" >&2; exit 1; }

# Shell commands that install a Debian package, or name the command that does and stop. A server's package would start a
# service of the system at once. The tests start servers of their own, so a policy forbids it meanwhile, unless the
# machine has one already.
define apt_install
as=; if [ "$$(id -u)" != 0 ]; then as="sudo -n"; fi; \
if ! command -v apt-get >/dev/null || ! $$as true 2>/dev/null; then \
	$(call stop,$(1) is missing. Install it with: sudo apt-get install $(1)); fi; \
$$as sh -c 'policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then trap "rm -f $$policy" EXIT INT TERM; \
		printf "%s\n" "#!/bin/sh" "exit 101" >$$policy && chmod 755 $$policy; fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq $(1)' || exit
endef

# Shell commands that install a requirements file; an interrupted pip leaves no stamp and is run again.
pip = -m pip --disable-pip-version-check install --quiet
pip_install = $(BIN)/python $(pip) --require-hashes --requirement $(1)

help::
	@echo 'make run          serve http://127.0.0.1:8080 (HOST=, PORT=, PROFILE=)'
	@echo 'make test         run every test              (ARGS="tests/sessions/test_rules.py -k counter")'
	@echo 'make check        lint and check types'
	@echo 'make lock         write the requirements files anew from pyproject.toml'
	@echo 'make services     start Memcached, PostgreSQL and Redis for development; make services-stop ends them'
	@echo 'make clean        remove what these commands made; sessions in var/ stay'

run: .venv/run.stamp
	@exec $(BIN)/python app.py $(ARGS)

test: .venv/test.stamp chromium servers
	@$(BIN)/python -m compileall -qq -x '/[.]' . && exec $(BIN)/python -m pytest --all $(or $(ARGS),-q -n 4 --dist loadfile --no-loadscope-reorder)

check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# A version that is locked stays: delete its lines, or a whole file, to get a newer one.
lock: .venv/test.stamp
	@for group in site dev $(notdir $(wildcard bench)); do \
		$(BIN)/uv pip compile --quiet --universal --generate-hashes --all-extras --group $$group \
			--custom-compile-command 'make lock' pyproject.toml \
			--output-file requirements$$(test $$group = site || echo -$$group).txt || exit; done

services: .venv/run.stamp servers
	@exec $(BIN)/python -m services start

services-stop: .venv/run.stamp
	@exec $(BIN)/python -m services stop

clean:
	rm -rf .venv .venv-bench .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is newer than the requirements that it stands for. A half-made environment has no pip and is made anew.
.venv/run.stamp: requirements.txt pyproject.toml
	@python='$(PYTHON)'; \
	"$${python:-false}" -c '$(RECENT)' 2>/dev/null || $(call stop,Python 3.11 or newer is needed. PYTHON=/path/to/it names one.); \
	venv=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || { $(call apt_install,$$venv); }; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear .venv
	$(call pip_install,$<)
	$(BIN)/python $(pip) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/test.stamp: requirements-dev.txt .venv/run.stamp
	$(call pip_install,$<)
	@touch $@

chromium:
	@missing=; for browser in $${CHROMIUM:-/usr/bin/chromium /usr/bin/chromium-headless-shell}; do \
		command -v "$$browser" >/dev/null || missing=yes; done; \
	test -n "$$missing" || exit 0; \
	if grep -qsx 'ID=ubuntu' /etc/os-release; then \
		$(call stop,The tests need Chromium and Ubuntu only has it as a snap. Install a browser package and name it: \
	CHROMIUM=/usr/bin/google-chrome make test); fi; \
	$(call apt_install,chromium chromium-headless-shell)

servers:
	@command -v memcached >/dev/null || { $(call apt_install,memcached); }
	@command -v redis-server >/dev/null || { $(call apt_install,redis-server); }
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || \
		{ $(call apt_install,postgresql); }
	@command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || { $(call apt_install,pgbouncer); }
	@command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || { $(call apt_install,haproxy); }
	@command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || { $(call apt_install,nginx); }
	@command -v systemd-analyze >/dev/null || { $(call apt_install,systemd); }
	@command -v wrk >/dev/null || { $(call apt_install,wrk); }

-include docs/targets.mk bench/targets.mk deploy/targets.mk tests/targets.mk
