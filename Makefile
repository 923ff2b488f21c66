# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Relative paths only, so that a path with a space in it works.
python := .venv/bin/python
DEMO := examples/sunspots
# Most tests wait for a sandbox, so more of them than there are cores; without what needs the machine to itself.
SIDE_BY_SIDE := -n 6

# Else each of the thousand processes that the tests start would compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test matrix check images bench endurance setup clean

demo: setup ## solve a real task in the real sandbox, with the model's side played back from a recording
	$(python) -m agentexec solve "$$(cat $(DEMO)/task.txt)" --model replay:$(DEMO)/recorded.jsonl \
	  --file $(DEMO)/sunspots.csv --workspace demo-output

test: setup ## run the tests; AGENTEXEC_REQUIRE_ENGINES=1 makes a missing engine a failure
	@sh .ci/tests $(SIDE_BY_SIDE) -m "not machine and not matrix"
	@sh .ci/tests -m "machine and not matrix"

matrix: test ## run the tests, and then each case on every backend; `test` runs it on the first and on one more
	@sh .ci/tests $(SIDE_BY_SIDE) -m matrix

check: setup ## lint, format, types, layering
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) -m pytest -q tests/test_layering.py

images: setup ## build the images of the Docker sandbox
	$(python) -m agentexec images build

bench: setup ## measure speed and memory beside their floors
	$(python) -m tests.bench

endurance: setup ## kill owners, call everything at once, run thousands of blocks, feed the parsers: an hour
	$(python) -m tests.crash --kills 200
	$(python) -m tests.lifecycle --seconds 60
	$(python) -m tests.soak --blocks 10000 --backend local
	$(python) -m tests.fuzz --seconds 60

setup:
	@sh .ci/setup

clean:
	rm -rf .venv dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
