# Thin wrappers around meson.
BUILD ?= build
CHECK_BUILD ?= build-check
MESON ?= meson
C_FILES = $(wildcard $(addsuffix /*.[ch],src/* src/*/* src/*/*/* include tests/* bench))

.PHONY: all demo check install clean format bench torture fuzz faults analyze

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@command -v $(MESON) >/dev/null || { echo "membox: build: meson is missing (run 'make demo' or tools/install-deps)" >&2; exit 1; }
	$(MESON) setup $(BUILD)

# Installs what is missing, builds, and shows a real program in far less memory than it needs.
demo:
	@tools/install-deps build
	@$(MAKE) --no-print-directory all
	@tools/demo $(BUILD)/membox

# The same, then all tests.
check:
	@tools/install-deps check
	@tools/check $(BUILD) $(CHECK_BUILD)

install: all
	$(MESON) install -C $(BUILD)

# Everything that is measured, against the kernel's swap (as root): BENCH="--quick" or "--only NAME..." for less.
bench:
	@tools/install-deps bench
	@$(MAKE) --no-print-directory all
	@MEMBOX_BUILD=$(BUILD) bench/run $(BENCH)

# Random operations on memory, in containers whose limit changes all the time: TORTURE="--minutes 60", --seed N ... (tests/torture/torture.py --help)
torture: all
	@MEMBOX=$(BUILD)/membox tests/torture/torture.py $(TORTURE)

# What reads what others have written, with inputs made up by libFuzzer (tests/fuzz): FUZZ="-max_total_time=1800" for each, FUZZERS="image reply" only.
FUZZERS ?= $(basename $(notdir $(wildcard tests/fuzz/corpus/*)))
FUZZ ?= -max_total_time=60
fuzz:
	@tools/install-deps check
	@[ -e $(CHECK_BUILD)/fuzz/build.ninja ] || CC=clang $(MESON) setup $(CHECK_BUILD)/fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false -Dwerror=false
	@ninja -C $(CHECK_BUILD)/fuzz $(FUZZERS:%=tests/fuzz/fuzz_%)
	@for name in $(FUZZERS); do echo "== $$name"; tests/fuzz/run $(CHECK_BUILD)/fuzz/tests/fuzz/fuzz_$$name tests/fuzz/corpus/$$name $(FUZZ) || exit 1; done

# What happens when something fails inside membox, and the table of it in docs/reliability.md: FAULTS="--kills 1000", "--only NAME" ... (tests/faults/faults.py --help)
FAULTS ?= --write
faults:
	@tools/install-deps check
	@[ -e $(CHECK_BUILD)/clang/build.ninja ] || CC=clang $(MESON) setup $(CHECK_BUILD)/clang -Dfaults=true
	@ninja -C $(CHECK_BUILD)/clang
	@MEMBOX_FAULTS=$(CHECK_BUILD)/clang/membox tests/faults/faults.py $(FAULTS)

# gcc -fanalyzer, clang-tidy and cppcheck over src/; what they find is mended, or known with its reason (tools/analyze.known).
analyze:
	@tools/install-deps analyze
	@tools/analyze $(CHECK_BUILD)/analyze

format:
	clang-format -i $(C_FILES)

clean:
	rm -rf $(BUILD) $(CHECK_BUILD)
