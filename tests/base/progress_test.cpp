#include "ssa/base/progress.h"

#include "support/catch.h"

TEST_CASE("clock text has hours only from one hour on") {
  CHECK(ssa::clock_text(0) == "0:00");
  CHECK(ssa::clock_text(59.9) == "0:59");
  CHECK(ssa::clock_text(3599) == "59:59");
  CHECK(ssa::clock_text(3600) == "1:00:00");
  CHECK(ssa::clock_text(93784) == "26:03:04");
}

TEST_CASE("quiet progress is never due") { CHECK_FALSE(ssa::ProgressLine(true).due()); }
