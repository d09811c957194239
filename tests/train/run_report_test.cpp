// ssa_inspect --html: what the page contains, and that a real browser draws it.
#include "ssa/train/run_report.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "ssa/base/file.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/make_dataset.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

using namespace ssa;
using nlohmann::json;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;

namespace {

namespace fs = std::filesystem;

/// A run of `steps` steps whose loss falls, but for step 3456, and whose log and config try to end the page's script.
void make_run(const fs::path& run, int steps) {
  std::string metrics;
  for (int step = 1; step <= steps; ++step) {
    json line{{"step", step}, {"tokens", step * 256}, {"ce_loss", step == 3456 ? 99.0 : 5 - 1e-4 * step}};
    if (step % 10 == 0) {
      line["selected_mass"] = 0.75;
      line["selected_mass_by_layer"] = {0.5, 1.0};
      line["eval_loss_sparse/web"] = 3.25;
      line["sources"]["web"]["epoch"] = 0.001 * step;
    }
    if (step == 7) line["grad_norm"] = nullptr;
    metrics += line.dump() + "\n";
  }
  replace_file(run / "metrics.jsonl", metrics + R"({"step": 99999, "ce_lo)");
  replace_file(run / "train.log",
               "2026-11-27 18:05:28 I steps 1 to 20\n2026-11-27 18:05:29 I step 1/20  loss 5.0\n"
               "2026-11-27 18:05:30 W </script><b>spike</b> \xff\n2026-11-27 18:05:31 D batch\n");
  replace_file(run / "config.json", R"({"output_dir": "<!-- <script>"})");
}

/// The JSON that the page embeds.
json data_of(const std::string& page) {
  const std::string begin = R"(<script type="application/json" id="run">)";
  const auto at = page.find(begin) + begin.size();
  return json::parse(page.substr(at, page.find("</script>", at) - at));
}

/// The path of a Chromium, or "" after saying that the test is skipped.
std::string find_browser() {
  for (const std::string directory : {"/usr/bin", "/usr/local/bin"})
    for (const std::string name : {"chromium", "chromium-browser", "google-chrome"})
      if (fs::exists(directory + "/" + name)) return directory + "/" + name;
  std::puts("skipped: no Chromium on this machine");
  return "";
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
  return found;
}

}  // namespace

TEST_CASE("run report: the page contains the run's curves, layers, warnings, log and config") {
  const TempDir run;
  make_run(run.path(), 20);
  const json data = data_of(run_report(run.path()));
  CHECK(data.at("name") == run.path().filename().string());
  CHECK(data.at("first_step") == 1);
  CHECK(data.at("last_step") == 20);  // the line that is being written does not count
  CHECK(data.at("reload_seconds") == 0);
  CHECK(data.at("curves").at("ce_loss").size() == 20);
  CHECK(data.at("curves").at("ce_loss")[1] == json{2, 4.9998});
  CHECK(data.at("curves").at("eval_loss_sparse/web") == json{{10, 3.25}, {20, 3.25}});
  CHECK(data.at("curves").at("sources/web/epoch") == json{{10, 0.01}, {20, 0.02}});
  CHECK(data.at("curves").count("grad_norm") == 0);
  CHECK(data.at("layers").at("selected_mass") == json{{10, {0.5, 1.0}}, {20, {0.5, 1.0}}});
  CHECK(data.at("layers").at("entropy").empty());
  CHECK(data.at("log").size() == 2);
  REQUIRE(data.at("warnings").size() == 1);
  CHECK(data.at("warnings")[0] == "2026-11-27 18:05:30 W </script><b>spike</b> \uFFFD");
  CHECK(data.at("config") == R"({"output_dir": "<!-- <script>"})");
  CHECK(data.at("checkpoints").empty());
  CHECK(data_of(run_report(run.path(), 10)).at("reload_seconds") == 10);
}

TEST_CASE("run report: the evaluation dataset gives the baseline, if it is there") {
  const TempDir run;
  make_run(run.path(), 20);
  const auto baseline = [&](const json& eval_path) {
    replace_file(run / "config.json", json{{"data", {{"eval_path", eval_path}}}}.dump());
    return data_of(run_report(run.path())).at("unigram_entropy");
  };
  ssa::test::make_dataset(run / "eval", {{{1, 2, 1, 2}, {2, 1}}}, {.vocab_size = 16, .eos_token_id = 2});
  CHECK(baseline((run / "eval").string()) == 0.693147);  // two tokens, equally frequent: log(2)
  CHECK(baseline((run / "gone").string()) == nullptr);
  CHECK(baseline(nullptr) == nullptr);
}

TEST_CASE("run report: the page of a long run stays small and shows every spike") {
  const TempDir run;
  make_run(run.path(), 50'000);
  const std::string page = run_report(run.path());
  CHECK(page.size() < 1'000'000);
  const json curve = data_of(page).at("curves").at("ce_loss");
  CHECK(curve.size() <= 4000);
  CHECK(curve[0] == json{1, 4.9999});
  CHECK(std::count(curve.begin(), curve.end(), json{3456, 99.0}) == 1);
  CHECK(curve.back()[0] == 50'000);
  CHECK(std::abs(curve.back()[1].get<double>()) < 1e-12);  // 5 - 1e-4 x 50000, which need not round to 0
  CHECK(std::is_sorted(curve.begin(), curve.end(), [](const json& a, const json& b) { return a[0] < b[0]; }));
}

TEST_CASE("run report: a directory without metrics and a damaged line are named") {
  const TempDir run;
  check_error(error_of([&] { run_report(run.path()); }), "metrics.jsonl: no such file, expected the metrics of a run");
  replace_file(run / "metrics.jsonl", "{\"step\": 1}\n[2]\n");
  check_error(error_of([&] { run_report(run.path()); }), "metrics.jsonl:2: expected an object with a step");

  const auto inspect = [&](ssa::test::Arguments more) {
    more.insert(more.begin(), {"ssa_inspect", run.path().string()});
    return ssa::test::run_program(more);
  };
  ssa::test::check_fails(inspect({"--watch"}), 2, {"--watch: expected --html FILE with it"});
  ssa::test::check_fails(inspect({"--html", "page.html", "--verify"}), 2, {"--html excludes --verify"});
  ssa::test::check_fails(inspect({"--unigram"}), 2, {"--unigram: ", "is no dataset, expected one"});
  ssa::test::check_fails(inspect({"--html", (run / "page.html").string()}), 1, {"metrics.jsonl:2:"});
  CHECK_FALSE(fs::exists(run / "page.html"));
  fs::remove(run / "metrics.jsonl");
  ssa::test::check_fails(inspect({"--html", (run / "page.html").string()}), 2,
                         {"no metrics.jsonl, expected a run's output_dir for --html"});
}

TEST_CASE("run report: a value of a layer that is not finite is left out, and other values are refused") {
  const TempDir run;
  const auto write = [&](const std::string& value) {
    replace_file(run / "metrics.jsonl", R"({"step": 1, "loss": 2})"
                                        "\n"
                                        R"({"step": 2, )" +
                                            value + "}\n");
  };
  write(R"("entropy_by_layer": [0.5, null])");
  CHECK(data_of(run_report(run.path())).at("layers").at("entropy") == json{{2, {0.5, nullptr}}});
  const auto refused = [&](const std::string& value, const std::string& error) {
    write(value);
    check_error(error_of([&] { run_report(run.path()); }), "metrics.jsonl:2: " + error);
  };
  refused(R"("entropy_by_layer": [0.5, "x"])", "entropy_by_layer: found \"x\", expected a number or null");
  refused(R"("entropy_by_layer": [[1]])", "entropy_by_layer: found [1], expected a number or null");
  refused(R"("tokens": "many")", "tokens: found \"many\", expected an integer");
}

TEST_CASE("run report: a file that cannot be read is an error, not an empty page") {
  const TempDir run;
  fs::create_directory(run / "metrics.jsonl");  // opens like a file; reading it fails
  check_error(error_of([&] { run_report(run.path()); }), "metrics.jsonl: cannot read: Is a directory");
  fs::remove(run / "metrics.jsonl");
  make_run(run.path(), 5);
  fs::remove(run / "train.log");
  CHECK(data_of(run_report(run.path())).at("log").empty());
  fs::create_directory(run / "train.log");
  check_error(error_of([&] { run_report(run.path()); }), "train.log: cannot read: Is a directory");
}

TEST_CASE("run report: --watch writes the page again when the run continues, and ends at a signal") {
  const TempDir run;
  make_run(run.path(), 20);
  const fs::path page = run / "pages/page.html";  // the directory is made
  ssa::test::RunningProgram program({"ssa_inspect", run.path().string(), "--html", page.string(), "--watch"});
  const auto wait_for_step = [&](int step) {
    for (int i = 0; i < 12'000; ++i) {
      if (fs::exists(page) && data_of(read_file(page)).at("last_step") == step) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  };
  REQUIRE(wait_for_step(20));
  make_run(run.path(), 30);
  CHECK(wait_for_step(30));
  program.kill(SIGTERM);
  CHECK(program.wait().exit_code == 0);
}

TEST_CASE("run report: a browser draws every chart, without errors") {
  const std::string browser = find_browser();
  if (browser.empty()) return;
  const TempDir run;
  make_run(run.path(), 200);
  replace_file(run / "page.html", run_report(run.path()));
  const auto drawn = [&](const std::string& range) {
    const auto result = ssa::test::run_program({browser, "--headless", "--no-sandbox", "--disable-gpu",
                                                "--user-data-dir=" + (run / "profile").string(),
                                                "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom",
                                                "file://" + (run / "page.html").string() + range});
    INFO(result.err);
    CHECK(result.exit_code == 0);
    CHECK(count(result.err, "CONSOLE") == 0);
    return result.out;
  };
  const std::string page = drawn("");
  CHECK(count(page, "<figure>") == 5);  // training and validation loss, selected mass, its layers, sources/web/epoch
  for (const std::string title : {"Training loss", "Validation loss", "Attention inside the selected blocks",
                                  "Attention inside the selected blocks, by layer", "sources/web/epoch"})
    CHECK(count(page, "<figcaption>" + title + "</figcaption>") == 1);
  CHECK(count(page, "<rect") == 20 * 2);                     // 20 measured steps, 2 layers
  CHECK(count(page, "&lt;/script&gt;&lt;b&gt;spike") == 2);  // under the warnings and in the log, as text
  CHECK(count(drawn("#51-100"), "<rect") == 5 * 2);
}
