#include "ssa/train/metrics_log.h"

#include <nlohmann/json.hpp>

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

TEST_CASE("metrics log: a file without lines to drop is not rewritten, and lines without a step are dropped") {
  const TempDir dir;
  const auto file = dir.path() / "metrics.jsonl";
  replace_file(file, "{\"step\":1}\n");
  const auto before = std::filesystem::last_write_time(file);
  MetricsLog(file, 1);
  CHECK(std::filesystem::last_write_time(file) == before);
  replace_file(file, "nonsense\n{\"step\":\"1\"}\n\n[1]\n{\"step\":1}\n");
  MetricsLog(file, 1);
  CHECK(read_file(file) == "{\"step\":1}\n");
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
