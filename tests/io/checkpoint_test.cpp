#include "ssa/io/checkpoint.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <sstream>
#include <thread>

#include "ssa/base/random.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/forked.h"
#include "support/temp_dir.h"

namespace fs = std::filesystem;
using namespace ssa;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::Forked;
using ssa::test::TempDir;

namespace {

const std::vector<TensorSpec> kParameters{{"model.embed_tokens.weight", {7, 5}}, {"model.norm.weight", {5}}};

/// Values that depend on step, kind and position.
std::vector<float> values_of(const TensorSpec& p, std::int64_t step, int kind) {
  std::vector<float> values(static_cast<std::size_t>(count_of(p.shape)));
  std::iota(values.begin(), values.end(), static_cast<float>(1000 * step + 100 * kind));
  return values;
}

void add_all(CheckpointWriter& writer, std::int64_t step, const std::vector<TensorSpec>& parameters = kParameters) {
  for (const TensorSpec& p : parameters) {
    writer.add_weight(p.name, values_of(p, step, 0));
    writer.add_m(p.name, values_of(p, step, 1));
    writer.add_v(p.name, values_of(p, step, 2));
  }
}

fs::path save(const fs::path& run, std::int64_t step, std::int64_t limit = 0, bool keep = false) {
  CheckpointWriter writer(run, step, kParameters);
  add_all(writer, step);
  return writer.commit({{"step", step}}, R"({"output_dir": "run"})", {.save_total_limit = limit, .keep = keep});
}

/// True if every value is the one saved at that step.
bool holds(const CheckpointReader& reader, std::int64_t step) {
  reader.check(kParameters);
  bool same = reader.step() == step && reader.trainer().at("step") == step;
  for (const TensorSpec& p : kParameters) {
    std::vector<float> w(values_of(p, 0, 0).size()), m = w, v = w;
    reader.read_weight(p, w);
    reader.read_m(p, m);
    reader.read_v(p, v);
    same = same && w == values_of(p, step, 0) && m == values_of(p, step, 1) && v == values_of(p, step, 2);
  }
  return same;
}

std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

void flip_bit(const fs::path& file, std::uint64_t bit) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(static_cast<std::streamoff>(bit / 8));
  const int byte = stream.get();
  stream.seekp(static_cast<std::streamoff>(bit / 8));
  stream.put(static_cast<char>(byte ^ 1 << bit % 8));
}

using Names = std::set<std::string>;

}  // namespace

TEST_CASE("checkpoint: saved tensors read back, whole and in part") {
  const TempDir run;
  const fs::path directory = save(run.path(), 1000);
  CHECK(directory == run.path() / "checkpoints" / "step-00001000");
  CHECK(names_in(directory) ==
        Names{"model.safetensors", "optimizer.safetensors", "trainer.json", "config.json", "manifest.json"});
  const CheckpointReader reader(directory);
  CHECK(holds(reader, 1000));
  CHECK(reader.config() == R"({"output_dir": "run"})");
  std::vector<float> part(3);
  reader.read_v(kParameters[0], part, 30);
  CHECK(part == std::vector<float>{1000230, 1000231, 1000232});
}

TEST_CASE("checkpoint: the error for a model of another shape names the tensor") {
  const TempDir run;
  const CheckpointReader reader(save(run.path(), 1));
  auto other = kParameters;
  other[1].shape = {6};
  check_error(error_of([&] { reader.check(other); }), "model.safetensors", "model.norm.weight is [5], expected [6]");
  std::vector<float> six(6);
  check_error(error_of([&] { reader.read_m(other[1], six); }), "optimizer.safetensors", "m.model.norm.weight is [5]");
  other = kParameters;
  other.push_back({"lm_head.weight", {7, 5}});
  check_error(error_of([&] { reader.check(other); }), "model.safetensors", "lm_head.weight is missing");
  other.resize(1);
  check_error(error_of([&] { reader.check(other); }), "model.safetensors", "unexpected tensor model.norm.weight");
}

TEST_CASE("checkpoint: a flipped bit in any file is detected, and the file named") {
  const TempDir run;
  const fs::path directory = save(run.path(), 1);
  for (const std::string& name : names_in(directory)) {
    const std::uint64_t bits = fs::file_size(directory / name) * 8;
    // Every bit of the manifest, which has no checksum elsewhere; a sample of the bits of the other files.
    const std::uint64_t stride = name == "manifest.json" ? 1 : 97;
    for (std::uint64_t bit = 0; bit < bits; bit += stride) {
      flip_bit(directory / name, bit);
      const std::string problem = checkpoint_problem(directory, Verify::checksums);
      if (problem.find(name) == std::string::npos) FAIL(name << ", bit " << bit << ": " << problem);
      flip_bit(directory / name, bit);
    }
  }
  CHECK(checkpoint_problem(directory, Verify::checksums).empty());
}

TEST_CASE("checkpoint: missing, truncated and damaged checkpoints are skipped with the cause") {
  const TempDir run;
  for (std::int64_t step = 1; step <= 8; ++step) save(run.path(), step);
  const fs::path root = run.path() / "checkpoints";
  for (const fs::path& file : {root / "step-00000008/manifest.json", root / "step-00000007/trainer.json"}) {
    fs::remove(file);
    REQUIRE(::mkfifo(file.c_str(), 0600) == 0);  // must not be waited for
  }
  fs::remove(root / "step-00000006" / "manifest.json");
  fs::resize_file(root / "step-00000005" / "optimizer.safetensors", 100);
  flip_bit(root / "step-00000004" / "model.safetensors", 8 * 300);
  fs::remove(root / "step-00000003" / "trainer.json");
  fs::create_directory(root / "notes");

  std::vector<CheckpointInfo> skipped;
  const auto newest = newest_checkpoint(run.path(), skipped);
  REQUIRE(newest);
  CHECK(newest->step == 2);
  CHECK(holds(CheckpointReader(newest->path), 2));
  REQUIRE(skipped.size() == 6);
  // Without a manifest the number of the save is unknown: those are tried first.
  check_error(skipped[0].problem, "step-00000008/manifest.json: cannot read: is a FIFO");
  CHECK(skipped[1].problem == "manifest.json is missing");
  check_error(skipped[2].problem, "step-00000007/trainer.json: cannot read: is a FIFO");
  CHECK(skipped[3].problem.starts_with("optimizer.safetensors: 100 bytes, the manifest says "));
  CHECK(skipped[4].problem.starts_with("model.safetensors: checksum "));
  CHECK(skipped[5].problem == "trainer.json is missing");
  std::vector<std::int64_t> steps;
  for (const CheckpointInfo& info : skipped) steps.push_back(info.step);
  CHECK(steps == std::vector<std::int64_t>{8, 6, 7, 5, 4, 3});
  check_error(error_of([&] { CheckpointReader reader(skipped[4].path); }), "step-00000004",
              "model.safetensors: checksum");
  check_error(error_of([&] { CheckpointReader reader(root / "step-00000009"); }), "step-00000009",
              "no such checkpoint");
  CHECK(find_checkpoints(run.path()).size() == 8);

  fs::rename(root / "step-00000001", root / "step-00000009");
  check_error(checkpoint_problem(root / "step-00000009", Verify::sizes),
              "manifest.json: step 1, the directory's name says 9");
}

TEST_CASE("checkpoint: a damaged checkpoint is neither counted by save_total_limit nor removed") {
  const TempDir run;
  const fs::path root = run.path() / "checkpoints";
  save(run.path(), 4);
  save(run.path(), 8);
  flip_bit(root / "step-00000008" / "optimizer.safetensors", 8 * 300);
  save(run.path(), 6, 2);
  CHECK(names_in(root) == Names{"step-00000004", "step-00000006", "step-00000008"});
  save(run.path(), 7, 2);
  CHECK(names_in(root) == Names{"step-00000006", "step-00000007", "step-00000008"});
  CHECK(!checkpoint_problem(root / "step-00000008", Verify::checksums).empty());
}

TEST_CASE("checkpoint: one that is kept for good is neither counted nor removed") {
  const TempDir run;
  for (std::int64_t step = 1; step <= 4; ++step) save(run.path(), step, 1, step % 2 == 1);
  CHECK(names_in(run.path() / "checkpoints") == Names{"step-00000001", "step-00000003", "step-00000004"});
  save(run.path(), 5, 1);
  CHECK(names_in(run.path() / "checkpoints") == Names{"step-00000001", "step-00000003", "step-00000005"});
}

TEST_CASE("checkpoint: if none is complete, the error names each and its fault") {
  const TempDir run;
  save(run.path(), 1);
  save(run.path(), 2);
  fs::remove(run.path() / "checkpoints/step-00000001/manifest.json");
  flip_bit(run.path() / "checkpoints/step-00000002/model.safetensors", 8 * 300);
  std::vector<CheckpointInfo> skipped;
  const std::string error = error_of([&] { newest_checkpoint(run.path(), skipped); });
  check_error(error, "none of 2 checkpoints is complete", "step-00000001: manifest.json is missing",
              "step-00000002: model.safetensors: checksum");
}

TEST_CASE("checkpoint: one that cannot be read is an error, even if an older one is complete") {
  const TempDir run;
  save(run.path(), 1);
  save(run.path(), 2);
  // Reading this file of the kernel at offset 0 fails with EIO.
  const fs::path unreadable = run.path() / "checkpoints/step-00000002/manifest.json";
  fs::remove(unreadable);
  fs::create_symlink("/proc/self/mem", unreadable);
  std::vector<CheckpointInfo> skipped;
  check_error(error_of([&] { newest_checkpoint(run.path(), skipped); }), "step-00000002", "manifest.json",
              "Input/output error", "may be intact");
}

TEST_CASE("checkpoint: one that is a link to a disk that is not there is an error, a file in its place is damaged") {
  const TempDir run;
  save(run.path(), 1);
  const fs::path newest = run.path() / "checkpoints/step-00000002";
  fs::create_symlink("/nowhere/step-00000002", newest);
  std::vector<CheckpointInfo> skipped;
  check_error(error_of([&] { newest_checkpoint(run.path(), skipped); }), "step-00000002",
              "a symbolic link to /nowhere/step-00000002, which cannot be opened", "may be intact");
  save(run.path(), 2);  // by a run that resumes from step 1
  CHECK(newest_checkpoint(run.path(), skipped)->step == 2);
  CHECK(!fs::is_symlink(newest));

  fs::remove_all(newest);
  replace_file(newest, "not a directory");
  CHECK(newest_checkpoint(run.path(), skipped)->step == 1);
  REQUIRE(skipped.size() == 1);
  CHECK(skipped[0].problem == "not a directory");
  fs::remove_all(run.path() / "checkpoints/step-00000001");
  check_error(error_of([&] { newest_checkpoint(run.path(), skipped); }), "none of");
}

TEST_CASE("checkpoint: a run without checkpoints has none") {
  const TempDir run;
  std::vector<CheckpointInfo> skipped;
  CHECK(!newest_checkpoint(run.path(), skipped));
  CHECK(!newest_checkpoint(run.path() / "nowhere", skipped));
  CHECK(skipped.empty());
}

TEST_CASE("checkpoint: a writer without commit leaves no files") {
  const TempDir run;
  save(run.path(), 1);
  {
    CheckpointWriter writer(run.path(), 2, kParameters);
    add_all(writer, 2);
    CHECK(names_in(run.path() / "checkpoints") == Names{"step-00000001", ".tmp-step-00000002"});
  }
  CHECK(names_in(run.path() / "checkpoints") == Names{"step-00000001"});
  {
    CheckpointWriter writer(run.path(), 2, kParameters);
    check_error(error_of([&] { writer.commit({}, "", {}); }), "model.embed_tokens.weight has 0 of 140 bytes");
    CHECK(names_in(run.path() / "checkpoints") == Names{"step-00000001"});
    check_error(error_of([&] { add_all(writer, 2); }), "step-00000002", "was already completed or abandoned");
  }
}

TEST_CASE("checkpoint: only the oldest complete ones are pruned") {
  const TempDir run;
  const fs::path root = run.path() / "checkpoints";
  for (std::int64_t step = 1; step <= 4; ++step) save(run.path(), step, 2);
  CHECK(names_in(root) == Names{"step-00000003", "step-00000004"});
  // A damaged checkpoint does not count as one of the kept ones.
  fs::remove(root / "step-00000004" / "manifest.json");
  save(run.path(), 5, 2);
  CHECK(names_in(root) == Names{"step-00000003", "step-00000004", "step-00000005"});
}

TEST_CASE("checkpoint: a run resumed from an earlier step continues from its last save") {
  const TempDir run;
  for (std::int64_t step : {100, 300, 400}) save(run.path(), step);
  save(run.path(), 200, 2);
  std::vector<CheckpointInfo> skipped;
  CHECK(newest_checkpoint(run.path(), skipped)->step == 200);
  CHECK(names_in(run.path() / "checkpoints") == Names{"step-00000200", "step-00000400"});
}

TEST_CASE("checkpoint: saving a step again replaces it") {
  const TempDir run;
  save(run.path(), 3);
  CheckpointWriter writer(run.path(), 3, kParameters);
  add_all(writer, 3);
  writer.commit({{"step", 3}, {"again", true}}, "", {.save_total_limit = 1});
  CHECK(names_in(run.path() / "checkpoints") == Names{"step-00000003"});
  CHECK(CheckpointReader(run.path() / "checkpoints" / "step-00000003").trainer().at("again") == true);
}

TEST_CASE("checkpoint: the next save cleans up after a killed writer") {
  const TempDir run;
  const fs::path root = run.path() / "checkpoints";
  save(run.path(), 1);
  save(run.path(), 2);
  save(run.path(), 3);
  // Killed between the two renames of a replacement of step 2, and while removing the old half of step 3.
  fs::rename(root / "step-00000002", root / ".old-step-00000002");
  fs::create_directory(root / ".old-step-00000003");
  for (const char* name : {".tmp-step-00000002", ".trash-step-00000000"}) {
    fs::create_directory(root / name);
    replace_file(root / name / "model.safetensors", "half");
  }
  const auto found = find_checkpoints(run.path());
  REQUIRE(found.size() == 3);
  CHECK(found[1].step == 2);
  CHECK(found[1].complete());
  CHECK(holds(CheckpointReader(found[1].path), 2));
  save(run.path(), 4);
  CHECK(names_in(root) == Names{"step-00000001", "step-00000002", "step-00000003", "step-00000004"});
  CHECK(holds(CheckpointReader(root / "step-00000002"), 2));
}

TEST_CASE("checkpoint: a writer killed at any moment leaves a newest complete checkpoint") {
  const TempDir run;
  save(run.path(), 0, 2);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 4; ++i) save(run.path(), 0, 2);
  std::chrono::duration<double> one_save = (std::chrono::steady_clock::now() - start) / 4;
  std::int64_t last = 0, killed_while_saving = 0;
  for (std::uint64_t round = 0; round < 100; ++round) {
    Forked child([&](auto send) {
      for (std::int64_t step = last;; ++step) {  // `last` again: a resumed run may replace the step it starts from
        save(run.path(), step, 2);
        send(std::to_string(step) + " ");
      }
    });
    // Up to two and a half saves: the first replaces a step, the next ones add and prune.
    std::this_thread::sleep_for(2.5 * random_uniform(7, RandomPurpose::test, 0, round) * one_save);
    child.kill(SIGKILL);
    std::istringstream reported(child.wait());
    std::int64_t committed = last, saves = 0;
    for (std::int64_t step; reported >> step; ++saves) committed = step;
    REQUIRE(reported.eof());  // only steps: no save failed in the child
    // On a busy machine a save takes longer than it did at the start.
    if (saves == 0) one_save *= 1.2;
    if (saves > 2) one_save /= 1.2;

    for (const std::string& name : names_in(run.path() / "checkpoints")) killed_while_saving += name.starts_with(".");
    const auto found = find_checkpoints(run.path());
    REQUIRE(!found.empty());
    CHECK(found.size() <= 3);
    for (const CheckpointInfo& info : found) {
      INFO("round " << round << ", " << info.path << ": " << info.problem);
      REQUIRE(info.complete());
      REQUIRE(holds(CheckpointReader(info.path), info.step));
    }
    // The newest checkpoint is the one that the child reported, or the next one.
    REQUIRE(found[0].step >= committed);
    REQUIRE(found[0].step <= committed + 1);
    last = found[0].step;
  }
  INFO("leftovers seen: " << killed_while_saving << ", steps saved: " << last);
  CHECK(killed_while_saving > 10);  // enough kills happened during a save
  CHECK(last > 10);
  save(run.path(), last + 1, 2);
  CHECK(names_in(run.path() / "checkpoints").size() == 2);
}

namespace {

/// Saves a large checkpoint in a child process, after `limit` restricted it. Returns the error and the state of `run`.
template <class Limit>
std::string save_on_full_disk(const fs::path& run, Limit&& limit) {
  Forked child([&](auto send) {
    if (!limit()) {
      send("not permitted");
      return;
    }
    save(run, 1);
    const std::vector<TensorSpec> large{{"large", {1 << 20}}};
    const std::string error = error_of([&] {
      CheckpointWriter writer(run, 2, large);
      add_all(writer, 2, large);
      writer.commit({}, "", {.save_total_limit = 1});
    });
    const auto found = find_checkpoints(run);
    const bool intact = found.size() == 1 && found[0].complete() && holds(CheckpointReader(found[0].path), 1) &&
                        names_in(run / "checkpoints") == Names{"step-00000001"};
    send(error + (intact ? "; intact" : "; not intact"));
  });
  return child.wait();
}

}  // namespace

TEST_CASE("checkpoint: a full disk is an error that leaves the last checkpoint and no partial one") {
  const TempDir run;
  const std::string said = save_on_full_disk(run.path(), [&] {
    // A file system of 1 MiB that only the child sees: as root, or in a new user namespace.
    return (::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
           ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("tmpfs", run.path().c_str(), "tmpfs", 0, "size=1m") == 0;
  });
  if (said == "not permitted") {
    WARN("no permission to mount a file system: only the file size limit is tested");
    return;
  }
  check_error(said, "no space left on device: ", ".tmp-step-00000002/model.safetensors, ", " bytes written; intact");
}

TEST_CASE("checkpoint: a file size limit has the same effect as a full disk") {
  const TempDir run;
  const std::string said = save_on_full_disk(run.path(), [] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    return ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
  });
  check_error(said,
              ".tmp-step-00000002/model.safetensors: cannot write: File too large, 1048576 bytes written; intact");
}

TEST_CASE("checkpoint: the error for an output_dir that cannot be written names it") {
  const TempDir run;
  replace_file(run.path() / "file", "");
  check_error(error_of([&] { CheckpointWriter writer(run.path() / "file", 1, kParameters); }), "file/checkpoints",
              "cannot create the directory: Not a directory");
}
