# dess_batch: batch inference with language models from SQL
#
#   make demo     install what is missing, build, show one job from start to end
#   make test     install what is missing, build, run every test that is not long
#   make test-versions   the tests that depend on the version of PostgreSQL, in
#                        roots of other releases of Debian; needs root
#   make deb      Debian packages, built in such a root, into dist; "make test-deb"
#                 installs, upgrades and purges one
#   make dist     the archive for PGXN, into dist
#   make test-long       what takes longer than minutes: test/long, and ten
#                        million runs of the fuzz targets; see test/RESULTS.md
#   make test-valgrind   the regression tests and some jobs under valgrind
#   make bench    install what is missing, build, measure: test/bench/RESULTS.md
#   make          build;  "make install" puts it into the PostgreSQL of PG_CONFIG
#
# demo, bench, the tests and install-dependencies work on a machine without PostgreSQL:
# they install it and call make again.  Neither installs anything of ours: they
# run a private copy of the PostgreSQL installation in a scratch directory.
#
#   WERROR=1                                make warnings errors
#   TESTS="unit test/t/001_layers.pl ..."   run parts (unit fuzz regress
#                                           isolation tap; long valgrind) or
#                                           single files only
#   BENCH="prepare merge" ROWS=100000       which benchmarks, and how many rows
#   MODEL=... PROVIDER=...                  the model that the demo asks for, and
#                                           where (openai, vertex, gemini)

EXTENSION = dess_batch
MODULE_big = dess_batch
PGFILEDESC = "dess_batch - batch inference with language models"

# the folder of this file; not "." in a VPATH build
source_dir := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
SOURCES := $(sort $(wildcard $(foreach depth,* */* */*/*,$(source_dir)/src/$(depth).c)))
OBJS = $(patsubst $(source_dir)/%.c,%.o,$(SOURCES))
DISTVERSION = $(shell sed -n 's/^   "version": "\(.*\)",/\1/p' $(source_dir)/META.json)
DATA = $(patsubst $(source_dir)/%,%,$(sort $(wildcard $(source_dir)/sql/dess_batch--*.sql)))

# what a provider in another module includes; what provider.h itself includes
# lies in folders beside it, as it does in src
HEADERS = src/provider/provider.h
NESTED_HEADERS = http/http.h text/json.h

PG_CPPFLAGS = -I$(source_dir)/src
PG_CFLAGS = -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers $(if $(WERROR),-Werror)
# PGXS hands on the warnings of the compiler that built PostgreSQL
PG_CFLAGS += $(if $(findstring clang,$(CC)),-Wno-unknown-warning-option)
SHLIB_LINK = -lcurl -lcjson -lcrypto

# "make installcheck" runs against a server that has the settings of test/regress.conf
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
REGRESS_OPTS = --inputdir=test
ISOLATION_OPTS = --inputdir=test --outputdir=.
EXTRA_CLEAN = results output_iso

# no function here is worth inlining into a query, so LLVM is not needed
override with_llvm = no

.DEFAULT_GOAL := all

PG_CONFIG ?= pg_config
export PG_CONFIG

# empty as long as PostgreSQL's development files are missing
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))

ifneq ($(PGXS),)
include $(PGXS)
$(OBJS): $(wildcard $(foreach depth,* */* */*/*,$(source_dir)/src/$(depth).h)) $(source_dir)/Makefile

# the folders of a VPATH build; a rule would find those of the sources instead
$(shell mkdir -p $(sort $(dir $(OBJS))))

installed_headers = $(DESTDIR)$(includedir_server)/$(incmoduledir)/$(MODULE_big)

install: install-nested-headers

install-nested-headers:
	$(MKDIR_P) $(addprefix '$(installed_headers)'/,$(sort $(dir $(NESTED_HEADERS))))
	$(foreach header,$(NESTED_HEADERS),$(INSTALL_DATA) '$(source_dir)/src/$(header)' '$(installed_headers)/$(header)' &&) :

uninstall: uninstall-nested-headers

uninstall-nested-headers:
	rm -f $(addprefix '$(installed_headers)'/,$(NESTED_HEADERS))

.PHONY: install-nested-headers uninstall-nested-headers

clean: clean-test
else
all install uninstall installcheck clean:
	@echo '$@: PostgreSQL development files not found by "$(PG_CONFIG) --pgxs"; run "make install-dependencies"' >&2
	@exit 1
endif

install-dependencies:
	@test/bootstrap.sh test

demo:
	@test/bootstrap.sh demo
	@$(MAKE) -s -j$$(nproc) --no-print-directory all simulator
	@test/demo.sh

test:
	@test/bootstrap.sh test
	@$(MAKE) -s -j$$(nproc) --no-print-directory all simulator
	@test/run.sh $(TESTS)

test-versions:
	@test/roots/versions.sh

deb:
	@test/roots/deb.sh build

test-deb: deb
	@test/roots/deb.sh test

# what stands in the last commit, for pgxn.org
dist:
	@mkdir -p dist
	git archive --format=zip --prefix=dess_batch-$(DISTVERSION)/ -o dist/dess_batch-$(DISTVERSION).zip HEAD

test-long: LONG_TESTS = $(or $(TESTS),fuzz long)
test-long:
	@test/bootstrap.sh test
	@$(MAKE) -s -j$$(nproc) --no-print-directory all simulator
	@FUZZ_RUNS=$${FUZZ_RUNS:-1250000} FUZZ_SEED=$${FUZZ_SEED:-0} PART_TIMEOUT=$${PART_TIMEOUT:-7200} \
		test/run.sh $(LONG_TESTS)

test-valgrind:
	@test/bootstrap.sh valgrind
	@$(MAKE) -s -j$$(nproc) --no-print-directory all simulator
	@test/run.sh valgrind

bench:
	@test/bootstrap.sh bench
	@$(MAKE) -s -j$$(nproc) --no-print-directory all simulator
	@ROWS="$(ROWS)" test/bench/run.sh $(BENCH)

simulator:
	@$(MAKE) --no-print-directory -C test/simulator

clean-test:
	$(MAKE) --no-print-directory -C test/simulator clean
	$(if $(wildcard test/unit/Makefile),$(MAKE) --no-print-directory -C test/unit clean)
	$(MAKE) --no-print-directory -C test/fuzz clean

.PHONY: all install-dependencies demo test test-versions deb test-deb dist test-long test-valgrind bench simulator clean-test
