#include "ssa/train/metrics_log.h"

#include <nlohmann/json.hpp>
#include <tuple>

#include "support/catch.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

using namespace ssa;
using nlohmann::json;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;

TEST_CASE("metrics log: a resumed run drops the lines of later steps and an incomplete last line") {
  const TempDir dir;
  const auto file = dir.path() / "metrics.jsonl";
  {
    MetricsLog log(file, 0);
    for (int step = 1; step <= 5; ++step) log.append(json{{"step", step}, {"loss", 1.0 / step}});
    CHECK(read_file(file).ends_with("{\"loss\":0.2,\"step\":5}\n"));  // every line is written immediately
  }
  replace_file(file, read_file(file) + R"({"step": 6, "lo)");
  CHECK(last_metrics(file).at("step") == 5);
  {
    MetricsLog log(file, 3);
    CHECK(last_metrics(file).at("step") == 3);
    log.append(nlohmann::ordered_json{{"step", 4}, {"loss", 9.0}});
  }
  CHECK(read_file(file) ==
        "{\"loss\":1.0,\"step\":1}\n{\"loss\":0.5,\"step\":2}\n{\"loss\":0.3333333333333333,\"step\":3}\n"
        "{\"step\":4,\"loss\":9.0}\n");
  MetricsLog(file, 0);
  CHECK(read_file(file).empty());
  CHECK(last_metrics(file).is_null());
}

TEST_CASE("metrics log: a last line without its newline is kept") {
  const TempDir dir;
  const auto file = dir.path() / "metrics.jsonl";
  replace_file(file, "{\"step\":1}\n{\"step\":2}");
  MetricsLog(file, 2).append(json{{"step", 3}});
  CHECK(read_file(file) == "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
}

TEST_CASE("metrics log: a file without lines to drop is not rewritten") {
  const TempDir dir;
  const auto file = dir.path() / "metrics.jsonl";
  replace_file(file, "{\"step\":1}\n");
  const auto before = std::filesystem::last_write_time(file);
  MetricsLog(file, 1);
  CHECK(std::filesystem::last_write_time(file) == before);
}

namespace {

/// What the file has after a run continues it from `step`, and what is said of it.
struct Continued {
  Continued(const std::string& before, std::int64_t step) {
    const TempDir dir;
    const auto file = dir.path() / "metrics.jsonl";
    replace_file(file, before);
    said = MetricsLog(file, step).foreign_lines();
    if (const std::size_t at = said.find("metrics.jsonl: "); at != std::string::npos) said.erase(0, at);
    after = read_file(file);
    for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
      if (entry.path() != file) aside += read_file(entry.path());
  }
  std::string after, said, aside;
};

}  // namespace

TEST_CASE("metrics log: lines that no run writes are said and are not lost") {
  const std::string outside = "; it was changed outside of the run, ";
  const std::string mixed = "{\"step\":1}\nnonsense\n{\"step\":\"1\"}\n\n[1]\n{\"step\":2}\n";
  const Continued unreadable(mixed, 2);
  CHECK(unreadable.after == "{\"step\":1}\n{\"step\":2}\n");
  CHECK(unreadable.aside == mixed);
  CHECK(
      unreadable.said.starts_with("metrics.jsonl: line 2: found \"nonsense\", expected a JSON object with a step above "
                                  "1 (the first of 4 such lines)" +
                                  outside + "the file as it was is now "));
  const Continued at_the_end("{\"step\":1}\n# a note\n", 1);
  CHECK(at_the_end.after == "{\"step\":1}\n");
  CHECK(at_the_end.aside == "{\"step\":1}\n# a note\n");

  const std::string kept = outside + "all are kept";
  for (const auto& [steps, after, said] : std::vector<std::tuple<std::vector<int>, std::vector<int>, std::string>>{
           {{1, 2, 2, 3, 4}, {1, 2, 2, 3}, "line 3: found step 2, expected a JSON object with a step above 2" + kept},
           {{1, 3, 2, 4}, {1, 3, 2}, "line 3: found step 2, expected a JSON object with a step above 3" + kept},
           {{1, 99, 2, 3}, {1, 99, 2, 3}, "line 3: found step 2, expected a JSON object with a step above 99" + kept},
           {{0, 1, 2, 3}, {0, 1, 2, 3}, "line 1: found step 0, expected a JSON object with a step above 0" + kept},
           {{1, 2, 3, 4, 5}, {1, 2, 3}, ""}}) {
    INFO(said);
    const auto text = [](const std::vector<int>& list) {
      std::string lines;
      for (const int step : list) lines += concat("{\"step\":", step, "}\n");
      return lines;
    };
    const Continued out_of_order(text(steps), 3);
    CHECK(out_of_order.after == text(after));
    CHECK(out_of_order.said == (said.empty() ? "" : "metrics.jsonl: " + said));
    CHECK(out_of_order.aside.empty());
  }
}

TEST_CASE("metrics log: the error for a missing directory names it") {
  check_error(error_of([] { MetricsLog log("/no/such/directory/metrics.jsonl", 0); }),
              "/no/such/directory/metrics.jsonl", "No such file or directory");
}

TEST_CASE("metrics log: keys are added to the last line, and later lines follow it") {
  const TempDir dir;
  const auto file = dir.path() / "metrics.jsonl";
  for (const std::string before : {"", "{\"step\":1,\"loss\":0.5}\n"}) {
    replace_file(file, before + "{\"step\":2,\"loss\":0.1}\n");
    MetricsLog log(file, 2);
    log.extend_last({{"eval_loss", 0.3333333333333333}});
    CHECK(log.last().at("eval_loss") == 0.3333333333333333);
    log.append(json{{"step", 3}});
    CHECK(read_file(file) == before + "{\"step\":2,\"loss\":0.1,\"eval_loss\":0.3333333333333333}\n{\"step\":3}\n");
  }
}
