#include "src/comm/cores.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "support/catch.h"
#include "support/environment.h"
#include "support/error_of.h"

using namespace ssa;

namespace {

cpu_set_t cores_of_this_thread() {
  cpu_set_t set;
  REQUIRE(sched_getaffinity(0, sizeof(set), &set) == 0);
  return set;
}

}  // namespace

TEST_CASE(
    "each rank of a machine gets the same number of adjacent cores, and one core if there are more ranks than cores") {
  using Cores = std::vector<int>;
  CHECK(share_of_cores({0, 1, 2, 3}, 0, 2) == Cores{0, 1});
  CHECK(share_of_cores({0, 1, 2, 3}, 1, 2) == Cores{2, 3});
  CHECK(share_of_cores({4, 5, 6, 9, 11}, 1, 2) == Cores{6, 9});
  CHECK(share_of_cores({7}, 0, 1) == Cores{7});
  CHECK(share_of_cores({2, 3}, 2, 3) == Cores{2});
  CHECK(share_of_cores({2, 3}, 1, 3) == Cores{3});
}

TEST_CASE("a rank bound to one core takes its share of the cores, and a rank with its share keeps its binding") {
  std::thread([] {  // bindings and OpenMP's number of threads belong to a thread
    cpu_set_t all;
    std::fill_n(reinterpret_cast<unsigned char*>(&all), sizeof(all), 0xff);
    REQUIRE(sched_setaffinity(0, sizeof(all), &all) == 0);  // as many as the machine allows
    all = cores_of_this_thread();
    const int ranks = 2, share = CPU_COUNT(&all) / ranks;
    int first = 0;
    while (!CPU_ISSET(first, &all)) ++first;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    REQUIRE(sched_setaffinity(0, sizeof(one), &one) == 0);
    take_share_of_cores(ranks - 1, ranks);
    cpu_set_t taken = cores_of_this_thread();
    CHECK(CPU_COUNT(&taken) == std::max(1, share));
    CHECK(CPU_ISSET(first, &taken) == (share > 1 ? 0 : 1));  // the last rank's cores are not the first ones

    REQUIRE(sched_setaffinity(0, sizeof(all), &all) == 0);
    take_share_of_cores(0, ranks);
    taken = cores_of_this_thread();
    CHECK(CPU_EQUAL(&taken, &all));
  })
      .join();
}

TEST_CASE("an only rank that mpirun has bound to one core takes all cores, and a binding to several is kept") {
  std::thread([] {
    cpu_set_t all;
    std::fill_n(reinterpret_cast<unsigned char*>(&all), sizeof(all), 0xff);
    REQUIRE(sched_setaffinity(0, sizeof(all), &all) == 0);
    all = cores_of_this_thread();
    cpu_set_t bound;
    CPU_ZERO(&bound);
    int core = 0;
    const auto bind_to = [&](int count) {
      for (; CPU_COUNT(&bound) < std::min(count, CPU_COUNT(&all)); ++core)
        if (CPU_ISSET(core, &all)) CPU_SET(core, &bound);
      REQUIRE(sched_setaffinity(0, sizeof(bound), &bound) == 0);
      take_share_of_cores(0, 1);
      return cores_of_this_thread();
    };
    cpu_set_t taken = bind_to(1);
    CHECK(CPU_EQUAL(&taken, &all));
    taken = bind_to(3);
    CHECK(CPU_EQUAL(&taken, &bound));
  }).join();
}

TEST_CASE("a rank runs as many threads as its share of the cores, with any binding") {
  if (std::getenv("OMP_NUM_THREADS")) {
    WARN("OMP_NUM_THREADS is set: it says how many threads there are");
    return;
  }
  std::thread([] {
    cpu_set_t all;
    std::fill_n(reinterpret_cast<unsigned char*>(&all), sizeof(all), 0xff);
    REQUIRE(sched_setaffinity(0, sizeof(all), &all) == 0);
    all = cores_of_this_thread();
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int core = 0; CPU_COUNT(&one) == 0; ++core)
      if (CPU_ISSET(core, &all)) CPU_SET(core, &one);
    for (const cpu_set_t& binding : {all, one})
      for (const int ranks : {1, 2, 3}) {
        INFO(CPU_COUNT(&binding) << " cores, " << ranks << " ranks");
        REQUIRE(sched_setaffinity(0, sizeof(binding), &binding) == 0);
        take_share_of_cores(0, ranks);
        CHECK(omp_get_max_threads() == std::max(1, CPU_COUNT(&all) / ranks));
      }
  }).join();
}

TEST_CASE("an OMP_NUM_THREADS without a number counts as none, and one beyond any machine is an error") {
  std::thread([] {
    const auto threads = [](const char* text) {
      const test::Environment variable({{"OMP_NUM_THREADS", text}});
      omp_set_num_threads(7);
      take_share_of_cores(0, 1000);
      return omp_get_max_threads();
    };
    CHECK(threads("7") == 7);
    CHECK(threads("7,2") == 7);
    for (const char* text : {"", "0", "-3", "many"}) CHECK(threads(text) == 1);
    omp_set_num_threads(100000);
    CHECK(test::error_of([] { check_thread_count(); }) == "OMP_NUM_THREADS: found 100000, expected at most 4096");
  }).join();
}
