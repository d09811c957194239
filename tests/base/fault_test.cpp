#include "ssa/base/fault.h"

#include <chrono>
#include <cstdlib>
#include <thread>

#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// SSA_FAULT for the length of a test.
struct Faults {
  explicit Faults(const char* text, int rank = 0) {
    ::setenv("SSA_FAULT", text, 1);
    arm_faults(rank);
  }
  ~Faults() {
    ::unsetenv("SSA_FAULT");
    arm_faults(0);
  }
};

void check_refused(const char* text, const char* found, const char* expected) {
  INFO(text);
  CHECK_THROWS_AS(parse_faults(text), UsageError);
  check_error(error_of([&] { parse_faults(text); }), "SSA_FAULT: ", found, expected);
}

}  // namespace

TEST_CASE("SSA_FAULT: several faults, each with its place and keys") {
  CHECK(parse_faults("").empty());
  CHECK(parse_faults(" ; ").empty());
  const std::vector<Fault> faults = parse_faults(
      "kill@step:7,rank:1; slow@save:2,seconds:0.5;stop@start;bitflip@save:3,bit:77,operation:2;nan@step:9;"
      "enospc@save:1,operation:4;read@eval:2");
  REQUIRE(faults.size() == 7);
  CHECK((faults[0].kind == FaultKind::kill && faults[0].place == FaultPlace::step && faults[0].number == 7));
  CHECK((faults[0].rank == 1 && faults[0].operation == 0 && faults[0].text == "kill@step:7,rank:1"));
  CHECK((faults[1].kind == FaultKind::slow && faults[1].place == FaultPlace::save && faults[1].seconds == 0.5));
  CHECK((faults[1].rank == -1 && faults[1].text == "slow@save:2,seconds:0.5"));
  CHECK((faults[2].kind == FaultKind::stop && faults[2].place == FaultPlace::start));
  CHECK((faults[3].kind == FaultKind::bitflip && faults[3].bit == 77 && faults[3].operation == 2));
  CHECK((faults[4].kind == FaultKind::nan && faults[4].number == 9));
  CHECK((faults[5].kind == FaultKind::enospc && faults[5].operation == 4));
  CHECK((faults[6].kind == FaultKind::read && faults[6].place == FaultPlace::eval && faults[6].number == 2));
}

TEST_CASE("SSA_FAULT: what is malformed is named, with what is expected") {
  check_refused("kill", "kill", "expected KIND@PLACE:NUMBER");
  check_refused("kil@step:7", "unknown kind \"kil\"", "kill, stop, nan, slow, enospc, read or bitflip");
  check_refused("kill@stop:7", "unknown place \"stop\"", "start, step, save or eval");
  check_refused("kill@step", "no number", "step:N");
  check_refused("kill@start:1", "start has a number", "expected start");
  check_refused("kill@step:seven", "\"seven\"", "an integer from 1");
  check_refused("kill@step:0", "\"0\"", "an integer from 1");
  check_refused("kill@step:99999999999999999999", "\"99999999999999999999\"", "an integer from 1");
  check_refused("kill@step:7,rank:-1", "rank is \"-1\"", "an integer from 0");
  check_refused("kill@step:7,rank", "rank is \"\"", "an integer from 0");
  check_refused("kill@step:7,rnk:1", "unknown key \"rnk\"", "rank, operation");
  check_refused("kill@step:7,seconds:1", "unknown key \"seconds\"", "seconds (slow)");
  check_refused("slow@save:1,seconds:-1", "seconds is \"-1\"", "above 0");
  check_refused("slow@save:1,seconds:1s", "seconds is \"1s\"", "above 0");
  check_refused("nan@save:1", "nan", "step:N");
  check_refused("bitflip@step:1", "bitflip", "save:N");
  check_refused("stop@start;kill@step:7,", "SSA_FAULT", "expected");
}

TEST_CASE("SSA_FAULT: without it nothing is armed, and another rank's faults do not happen here") {
  ::unsetenv("SSA_FAULT");
  arm_faults(0);
  CHECK_FALSE(faults_are_armed);
  CHECK(armed_faults().empty());
  const Faults faults("nan@step:1,rank:1");
  CHECK_FALSE(faults_are_armed);
  CHECK(armed_faults() == std::vector<std::string>{"nan@step:1,rank:1"});
}

TEST_CASE("SSA_FAULT: a fault happens once, at its place, at its operation") {
  const Faults faults("nan@step:3,operation:2;read@eval:2");
  const auto nan = [] { return fault_hits(FaultOperation::gradient); };
  const auto read = [] { return fault_hits(FaultOperation::read); };
  enter_fault_place(FaultPlace::start);
  CHECK_FALSE((nan() || read()));
  enter_fault_place(FaultPlace::step, 2);
  CHECK_FALSE((nan() || nan()));
  enter_fault_place(FaultPlace::eval);
  CHECK_FALSE(read());
  enter_fault_place(FaultPlace::step, 3);
  CHECK_FALSE((read() || nan()));
  CHECK(nan());
  CHECK_FALSE(nan());
  enter_fault_place(FaultPlace::eval);
  CHECK(read());
  CHECK_FALSE(read());
}

TEST_CASE("SSA_FAULT: a write that finds no room, a read that fails") {
  const TempDir dir;
  const Faults faults("enospc@save:1,operation:2;read@save:2");
  FileWriter writer(dir / "file");
  enter_fault_place(FaultPlace::save);
  writer.write("one");
  writer.flush();
  writer.write("two");
  check_error(error_of([&] { writer.flush(); }), "no space left on device: ", "file, 3 bytes written");
  enter_fault_place(FaultPlace::save);
  check_error(error_of([&] { ssa::read_file(dir / "file"); }), "file: cannot read: Input/output error");
  CHECK(ssa::read_file(dir / "file") == "one");
}

TEST_CASE("SSA_FAULT: one bit of a finished file changes, and its checksum tells") {
  const TempDir dir;
  const Faults faults("bitflip@save:1,operation:2,bit:17");
  const auto write = [&](const char* name) {
    FileWriter writer(dir / name);
    writer.write("content");
    const FileChecksum written = writer.finish();
    return written == checksum_file(dir / name);
  };
  enter_fault_place(FaultPlace::save);
  CHECK(write("first"));
  CHECK_FALSE(write("second"));
  CHECK(ssa::read_file(dir / "second") == "coltent");  // bit 1 of byte 2
  CHECK(write("third"));
}

TEST_CASE("SSA_FAULT: a slow sync takes its time, in the thread of an asynchronous checkpoint too") {
  const TempDir dir;
  const Faults faults("slow@save:1,seconds:0.2");
  const auto seconds = [&](const char* name) {
    const auto begun = std::chrono::steady_clock::now();
    FileWriter writer(dir / name);
    writer.write("content");
    writer.finish();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  };
  enter_fault_place(FaultPlace::save);
  enter_fault_place(FaultPlace::step, 5);
  CHECK(seconds("step") < 0.2);
  double slow = 0, again = 0;
  std::thread([&] {
    slow = seconds("save");
    again = seconds("again");
  }).join();
  CHECK(slow >= 0.2);
  CHECK(again < 0.2);
}
