// Lines of the log.
#include "ssa/train/run_log.h"

#include "support/catch.h"

using namespace ssa;

TEST_CASE("the log says how the algorithms of matrix products were chosen") {
  CHECK(choices_line({}).empty());
  CHECK(choices_line({.measured = 3, .from_file = 26, .seconds = 1.23, .file = "/c/matmul-0.txt", .problem = ""}) ==
        "matrix products: 26 algorithms from /c/matmul-0.txt, 3 timed; 1.2 s");
  CHECK(choices_line({.measured = 29, .from_file = 0, .seconds = 10, .file = "", .problem = ""}) ==
        "matrix products: 29 timed; 10.0 s, not kept (no cache directory)");
}
