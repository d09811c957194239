// One main for every test executable, for Catch2 2 and 3.
#define CATCH_CONFIG_RUNNER
#include <stdlib.h>

#include "support/catch.h"

int main(int argc, char** argv) {
  ::setenv("SSA_CACHE_DIR", "", 0);  // no test depends on what earlier ones left in the user's directory
  return Catch::Session().run(argc, argv);
}
