# Builds, installs and tests walsafe_archive. `make help` lists the targets.

# Debian keeps each major's programs in a directory of its own; the pg_config in
# the PATH there belongs to libpq's version, which may be another.
PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)
CARGO ?= cargo
INSTALL ?= install
DESTDIR ?=

# Deferred, so that targets which need no server do not ask for one.
PG_MAJOR = $(shell $(PG_CONFIG) --version | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
pkglibdir = $(shell $(PG_CONFIG) --pkglibdir)
sharedir = $(shell $(PG_CONFIG) --sharedir)
bindir = $(shell $(PG_CONFIG) --bindir)
# For packages: where manual pages and completions go.
datadir ?= /usr/share
zsh_completions ?= $(datadir)/zsh/vendor-completions

# The packages that `make deb` builds are for these.
PG_MAJORS ?= 15 16 17 18

# The tests install what WALSAFE_PROFILE=tested builds in less time (see Cargo.toml).
WALSAFE_PROFILE ?= release
# Which object storage: s3, azure, and gcs, which was not tested against the real service and so is left out. Without
# any: make FEATURES=
FEATURES ?= s3 azure
target = $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
built = $(target)/$(WALSAFE_PROFILE)
# The builder's home directory stays out of the binaries: they are the same whoever builds them.
release_flags = RUSTFLAGS="$$RUSTFLAGS --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}/registry/src/="
extension_files = walsafe_archive.control $(wildcard sql/*.sql)

.PHONY: all build extension program install install-extension install-program install-manual uninstall uninstall-manual \
	test test-all test-packages demo demo-s3 bench soak lint deb dist clean help

all: build

build: extension program

# Majors share one target directory: only pgrx's bindings and this crate differ.
# cargo rebuilds pgrx when PGRX_PG_CONFIG_PATH changes for a major, so the path
# of the server's headers stays the same between builds and tests.
extension:
	@test -n "$(PG_MAJOR)" || { echo "no PostgreSQL found; set PG_CONFIG" >&2; exit 1; }
	$(release_flags) PGRX_PG_CONFIG_PATH="$(PG_CONFIG)" $(CARGO) build --profile $(WALSAFE_PROFILE) --locked \
		-p walsafe_archive --no-default-features --features "pg$(PG_MAJOR) $(FEATURES)"

program:
	$(release_flags) $(CARGO) build --profile $(WALSAFE_PROFILE) --locked -p walsafe \
		--no-default-features --features "$(FEATURES)"

# Written beside and renamed: a running server has the old library mapped, and
# writing into that file would crash it.
define install_file
$(INSTALL) -m $(1) "$(2)" "$(DESTDIR)$(3).new" && mv -f "$(DESTDIR)$(3).new" "$(DESTDIR)$(3)"
endef

install: install-extension install-program
	@$(left_to_do)

# Where a server looks for programs: the PATH that Debian's pg_ctlcluster and systemd give it.
define left_to_do
test -n "$(DESTDIR)" || case :/usr/local/bin:/usr/bin:/bin: in \
*":$(bindir):"*) echo "Left to do: the settings, as docs/operations.md has them under \"Configure\"." ;; \
*) echo "Left to do: the settings, as docs/operations.md has them under \"Configure\". A server does not look in" \
	"$(bindir) unless that is in its PATH, so write: restore_command = '$(bindir)/walsafe restore --from" \
	"ARCHIVE_DIRECTORY %f \"%p\"'" ;; \
esac
endef

install-extension: extension
	$(INSTALL) -d "$(DESTDIR)$(pkglibdir)" "$(DESTDIR)$(sharedir)/extension"
	$(call install_file,755,$(built)/libwalsafe_archive.so,$(pkglibdir)/walsafe_archive.so)
	set -e; for file in $(extension_files); do test -e "$$file" || continue; \
		to="$(sharedir)/extension/$${file##*/}"; \
		$(call install_file,644,$$file,$$to); done

install-program: program
	@$(found_server)
	$(INSTALL) -d "$(DESTDIR)$(bindir)"
	$(call install_file,755,$(built)/walsafe,$(bindir)/walsafe)

# Manual pages and completions, which the program prints itself.
manual = $(DESTDIR)$(datadir)/man/man1
bash_completions = $(DESTDIR)$(datadir)/bash-completion/completions
fish_completions = $(DESTDIR)$(datadir)/fish/vendor_completions.d
install-manual: program
	$(INSTALL) -d "$(manual)" "$(bash_completions)" "$(DESTDIR)$(zsh_completions)" "$(fish_completions)"
	$(built)/walsafe man >"$(manual)/walsafe.1"
	set -e; for command in $$(sed -n 's/^walsafe\\-\(.*\)(1)$$/\1/p' "$(manual)/walsafe.1"); do \
		$(built)/walsafe man $$command >"$(manual)/walsafe-$$command.1"; done
	$(built)/walsafe completions bash >"$(bash_completions)/walsafe"
	$(built)/walsafe completions zsh >"$(DESTDIR)$(zsh_completions)/_walsafe"
	$(built)/walsafe completions fish >"$(fish_completions)/walsafe.fish"

# Without a server found, the directories would be empty, and the paths the root's.
found_server = test -n "$(pkglibdir)" -a -n "$(sharedir)" -a -n "$(bindir)" || \
	{ echo "no PostgreSQL found; set PG_CONFIG" >&2; exit 1; }

uninstall:
	@$(found_server)
	rm -f "$(DESTDIR)$(pkglibdir)/walsafe_archive.so" "$(DESTDIR)$(bindir)/walsafe" \
		"$(DESTDIR)$(sharedir)/extension/walsafe_archive.control" \
		"$(DESTDIR)$(sharedir)/extension"/walsafe_archive--*.sql

uninstall-manual:
	rm -f "$(manual)"/walsafe.1 "$(manual)"/walsafe-*.1 "$(bash_completions)/walsafe" \
		"$(DESTDIR)$(zsh_completions)/_walsafe" "$(fish_completions)/walsafe.fish"

test:
	tools/run-tests

test-all:
	tools/run-tests --all

test-packages:
	tools/test-packages $(PG_MAJORS)

demo:
	tools/setup build test
	tools/demo

demo-s3:
	tools/setup build test
	tools/demo s3

# As for the tests, the server is a copy of this tree's own.
bench:
	tools/setup build bench
	set -e; server=$$(tools/test-server "$(PG_CONFIG)"); \
	$(MAKE) --no-print-directory install pkglibdir="$$("$$server" --pkglibdir)" \
		sharedir="$$("$$server" --sharedir)" bindir="$$("$$server" --bindir)"; \
	WALSAFE_PG_CONFIG="$$server" bench/run $(BENCH)

soak:
	WALSAFE_SOAK_SECONDS="$${WALSAFE_SOAK_SECONDS:-3600}" tools/run-tests 15 -- soak::

lint:
	tools/lint

deb:
	tools/deb $(PG_MAJORS)

# The sources of the last commit, as PGXN and rpmbuild want them.
version = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
dist:
	mkdir -p target/dist
	set -e; for format in zip tar.gz; do git archive --format=$$format \
		--prefix=walsafe_archive-$(version)/ --output=target/dist/walsafe_archive-$(version).$$format HEAD; done
	@ls target/dist/walsafe_archive-$(version).*

clean:
	$(CARGO) clean

help:
	@echo 'make [build]   the extension for the server of PG_CONFIG, and the program walsafe'
	@echo 'make install   both, into that server (PG_CONFIG=..., DESTDIR=...)'
	@echo '               object storage: FEATURES="s3 azure", and gcs, not tested against Google itself'
	@echo 'make uninstall removes them again'
	@echo 'make test      all tests on PostgreSQL 15; on 16, 17 and 18, where they are installed, those that depend on the version'
	@echo 'make test-all  the same with more random testing; also gets the servers that are missing'
	@echo 'make deb       Debian packages for all versions in target/deb (PG_MAJORS=15 for one)'
	@echo 'make test-packages  installs, uses and purges them in clean Debians of their own'
	@echo 'make dist      the sources as an archive for PGXN and rpmbuild, in target/dist'
	@echo 'make demo      a cluster is lost and recovered from its archive'
	@echo 'make demo-s3   the same with a bucket of object storage on this machine'
	@echo 'make bench     this module and other tools, measured side by side (BENCH=--look for a look of two minutes)'
	@echo 'make soak      an hour of archiving with faults (WALSAFE_SOAK_SECONDS=3600)'
	@echo 'make lint      formatting, clippy for each server version, documentation, scripts'
	@echo 'make clean     removes what cargo built'
	@echo 'PG_CONFIG is now: $(PG_CONFIG)'
