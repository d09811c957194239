// The floors of the tree: base < runtime < ops < {tokenizer, comm, model, data} < io < config < train < eval <
// programs; data_tools is above tokenizer and data. A file includes only its own area or a lower floor. JSON, MPI and
// CUDA headers stay where they belong.
#include <regex.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/paths.h"

namespace {

struct Area {
  std::string name;
  int floor;
};

bool begins(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

/// The groups of a POSIX extended regular expression that fits the whole text; group 0 is the text. Empty when it does
/// not fit. (std::regex makes gcc 12 warn in sanitizer builds.)
std::vector<std::string> groups(const std::string& text, const std::string& pattern) {
  regex_t compiled;
  REQUIRE(regcomp(&compiled, ("^(" + pattern + ")$").c_str(), REG_EXTENDED) == 0);
  regmatch_t at[8];
  std::vector<std::string> found;
  if (regexec(&compiled, text.c_str(), std::size(at), at, 0) == 0)
    for (std::size_t i = 1; i <= compiled.re_nsub; ++i)
      found.push_back(at[i].rm_so < 0 ? ""
                                      : text.substr(static_cast<std::size_t>(at[i].rm_so),
                                                    static_cast<std::size_t>(at[i].rm_eo - at[i].rm_so)));
  regfree(&compiled);
  return found;
}

bool matches(const std::string& text, const std::string& pattern) { return !groups(text, pattern).empty(); }

/// The area of a path relative to the root of the tree; floor -1 if it has none.
Area area_of(const std::string& path) {
  if (begins(path, "tests/")) return {"tests", 9};
  if (matches(path, "(src/apps|data_tools)/ssa_[a-z]+\\.cpp")) return {"programs", 8};
  if (begins(path, "data_tools/")) return {"data_tools", 4};
  if (begins(path, "kernels/")) return {"ops", 2};
  const std::vector<std::string> parts = groups(path, "(include/ssa|src)/([a-z_]+)/.*");
  if (parts.empty()) return {"", -1};
  const std::string& directory = parts[2];
  for (const Area& area : {Area{"base", 0},
                           {"runtime", 1},
                           {"tokenizer", 3},
                           {"comm", 3},
                           {"model", 3},
                           {"data", 3},
                           {"io", 4},
                           {"config", 5},
                           {"train", 6},
                           {"eval", 7}})
    if (area.name == directory) return area;
  return {"", -1};
}

/// The path from the root of what `path` includes as "name"; empty when it is none of ours.
std::string resolve(const std::string& path, const std::string& name) {
  if (begins(name, "ssa/")) return "include/" + name;
  if (begins(name, "support/")) return "tests/" + name;
  for (const char* root : {"kernels/", "src/", "tests/", "data_tools/"})
    if (begins(name, root)) return name;
  return (std::filesystem::path(path).parent_path() / name).lexically_normal().generic_string();
}

/// Why `path` may not include this, or nothing.
std::string objection(const std::string& path, const std::string& name, bool quoted) {
  const Area area = area_of(path);
  if (area.floor < 0) return "is not on any floor";
  const bool json = begins(name, "nlohmann/") || name == "ssa/base/json_file.h";
  if (json && path != "include/ssa/base/json_file.h" && area.name != "data" && area.name != "tokenizer" &&
      area.floor < 4)
    return "JSON belongs in data, tokenizer and the floors above";
  if (matches(name, "mpi(-ext)?\\.h") && !begins(path, "src/comm/") && area.name != "tests")
    return "MPI belongs in src/comm";
  if (matches(
          name,
          "(cuda|cublas|cub/|cooperative_groups|curand|cusparse|nccl|nvToolsExt|nvtx3/|nvml|driver_types|mma\\.h).*") &&
      !begins(path, "kernels/") && !matches(path, "src/runtime/[^/]*cuda[^/]*") &&
      !matches(path, "src/comm/[^/]*nccl[^/]*"))
    return "CUDA belongs under kernels/ and in the CUDA runtime and NCCL files";
  if (!quoted) return "";
  const Area target = area_of(resolve(path, name));
  if (target.floor < 0) return "is not on any floor";
  const bool src_to_tools = target.name == "data_tools" && area.name != "programs" && area.name != "tests";
  if (target.name == area.name || (target.floor < area.floor && !src_to_tools)) return "";
  return area.name + " may not include " + target.name;
}

/// "path:line: what: why" for each include of a file that the floors forbid.
std::vector<std::string> broken_rules(const std::string& path, const std::string& text) {
  std::vector<std::string> found;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const std::vector<std::string> parts = groups(line, "[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"]+)[>\"].*");
    if (parts.empty()) continue;
    const std::string& name = parts[2];
    const std::string why = objection(path, name, parts[1] == "\"" || begins(name, "ssa/"));  // <ssa/...> is ours too
    if (!why.empty()) found.push_back(path + ":" + std::to_string(number) + ": " + name + ": " + why);
  }
  return found;
}

bool allowed(const std::string& path, const std::string& line) { return broken_rules(path, line).empty(); }

}  // namespace

TEST_CASE("no file of the tree includes what its floor forbids") {
  namespace fs = std::filesystem;
  const fs::path root = ssa::test::source_dir();
  std::vector<std::string> found;
  int files = 0;
  for (const char* directory : {"include", "src", "kernels", "data_tools", "tests"}) {
    if (!fs::exists(root / directory)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / directory)) {
      if (!matches(entry.path().extension().string(), "\\.(h|cpp|cu|cuh)")) continue;
      std::ifstream file(entry.path());
      std::ostringstream text;
      text << file.rdbuf();
      for (const std::string& offence : broken_rules(fs::relative(entry.path(), root).generic_string(), text.str()))
        found.push_back(offence);
      ++files;
    }
  }
  CHECK(files > 30);
  for (const std::string& offence : found) FAIL_CHECK(offence);
}

TEST_CASE("the floors test reports an offence with its line") {
  CHECK(
      broken_rules("src/base/error.cpp", "// one\n\n#include \"ssa/base/error.h\"\n#include \"ssa/train/train.h\"\n") ==
      std::vector<std::string>{"src/base/error.cpp:4: ssa/train/train.h: base may not include train"});
  CHECK(broken_rules("src/model/llama.cpp", "#  include <mpi.h>  // why not\n") ==
        std::vector<std::string>{"src/model/llama.cpp:1: mpi.h: MPI belongs in src/comm"});
}

TEST_CASE("each floor may include itself and lower floors only") {
  const std::vector<std::string> upward = {"base", "runtime", "model", "io", "config", "train", "eval"};
  for (std::size_t a = 0; a < upward.size(); ++a)
    for (std::size_t b = 0; b < upward.size(); ++b) {
      const std::string line = "#include \"ssa/" + upward[b] + "/x.h\"";
      INFO(upward[a] << " includes " << upward[b]);
      CHECK(allowed("src/" + upward[a] + "/x.cpp", line) == (b <= a));
      CHECK(allowed("include/ssa/" + upward[a] + "/x.h", line) == (b <= a));
      // The ops are between runtime and model.
      CHECK(allowed("kernels/a/a.cpp", line) == (b <= 1));
      CHECK(allowed("src/" + upward[a] + "/x.cpp", "#include \"kernels/rmsnorm/rmsnorm.h\"") == (a >= 2));
    }
  // Areas of one floor do not include each other.
  const std::vector<std::string> side_by_side = {"tokenizer", "comm", "model", "data"};
  for (const std::string& a : side_by_side)
    for (const std::string& b : side_by_side)
      CHECK(allowed("src/" + a + "/x.cpp", "#include \"ssa/" + b + "/x.h\"") == (a == b));

  CHECK(allowed("kernels/a/a.cpp", "#include \"kernels/common/check.h\""));
  CHECK(allowed("kernels/a/a.cu", "#include \"src/runtime/cuda_context.h\""));
  CHECK_FALSE(allowed("kernels/a/a.cu", "#include \"ssa/model/model_config.h\""));
  CHECK_FALSE(allowed("kernels/a/a_cpu.cpp", "#include \"support/op_runner.h\""));
  CHECK_FALSE(allowed("src/runtime/stream_cuda.cpp", "#include \"kernels/common/device/launch.cuh\""));
  CHECK_FALSE(allowed("src/comm/comm_nccl.cpp", "#include \"data_tools/bytes.h\""));
  CHECK_FALSE(allowed("src/model/x.cpp", "#include \"../train/train.h\""));
  CHECK_FALSE(allowed("src/model/x.cpp", "#include <ssa/train/x.h>"));
  CHECK_FALSE(allowed("src/nowhere/x.cpp", "#include <vector>"));
  CHECK(allowed("src/model/x.cpp", "// #include \"ssa/train/x.h\""));
  CHECK(allowed("tests/ops/rmsnorm_cases.h", "#include \"support/op_runner.h\""));

  CHECK(allowed("data_tools/bytes.cpp", "#include \"ssa/data/indexed_dataset.h\""));
  CHECK(allowed("data_tools/bytes.cpp", "#include \"ssa/tokenizer/tokenizer.h\""));
  CHECK_FALSE(allowed("data_tools/bytes.cpp", "#include \"ssa/config/config.h\""));
  CHECK_FALSE(allowed("src/eval/x.cpp", "#include \"data_tools/json_line.h\""));
  CHECK(allowed("data_tools/ssa_tokenize.cpp", "#include \"data_tools/bytes.h\""));
  CHECK(allowed("src/apps/ssa_train.cpp", "#include \"ssa/train/train.h\""));
}

TEST_CASE("JSON, MPI and CUDA headers stay where they belong") {
  const std::string json = "#include <nlohmann/json.hpp>", json_file = "#include \"ssa/base/json_file.h\"",
                    mpi = "#include <mpi.h>";
  for (const char* path : {"src/data/x.cpp", "src/tokenizer/x.cpp", "src/io/x.cpp", "include/ssa/config/x.h",
                           "src/eval/x.cpp", "src/apps/ssa_train.cpp", "data_tools/x.cpp", "tests/train/x_test.cpp"}) {
    CHECK(allowed(path, json));
    CHECK(allowed(path, json_file));
  }
  CHECK(allowed("include/ssa/base/json_file.h", json));
  for (const char* path : {"src/base/x.cpp", "src/runtime/x.cpp", "src/model/x.cpp", "src/comm/x.cpp",
                           "include/ssa/model/x.h", "kernels/a/a.cpp", "kernels/a/a.cu"}) {
    CHECK_FALSE(allowed(path, json));
    CHECK_FALSE(allowed(path, json_file));
  }

  CHECK(allowed("src/comm/x.cpp", mpi));
  for (const char* path : {"include/ssa/comm/x.h", "src/train/x.cpp", "src/apps/ssa_train.cpp", "kernels/a/a.cu"})
    CHECK_FALSE(allowed(path, mpi));

  for (const char* header : {"cuda.h", "cuda_runtime.h", "cuda_bf16.h", "cublasLt.h", "cub/cub.cuh", "nccl.h"}) {
    const std::string line = std::string("#include <") + header + ">";
    INFO(line);
    for (const char* path : {"kernels/a/a.cu", "kernels/common/device/launch.cuh", "src/runtime/stream_cuda.cpp",
                             "src/comm/comm_nccl.cpp"})
      CHECK(allowed(path, line));
    for (const char* path : {"src/runtime/stream.cpp", "src/comm/comm.cpp", "src/train/train.cpp",
                             "include/ssa/runtime/stream.h", "tests/ops/x_test.cpp", "src/apps/ssa_train.cpp"})
      CHECK_FALSE(allowed(path, line));
  }
}
