// The floors of the tree: base < runtime < ops < {model, data, dist} < {train, data_tools} < eval < programs. A file
// includes its own folder or a lower floor; JSON, MPI and CUDA headers stay where they belong.
#include <regex.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.h"

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

/// The area of a path from the root of the tree; floor -1 when it has none.
Area area_of(const std::string& path) {
  // A kernel's cases and benchmark run it through the test support; the kernel itself is an op.
  if (begins(path, "tests/") || matches(path, "kernels/.*(_cases\\.h|bench\\.(h|cpp|cu))")) return {"tests", 7};
  if (matches(path, "(src|data_tools)/ssa_[a-z]+\\.cpp")) return {"programs", 6};
  if (begins(path, "data_tools/")) return {"data_tools", 4};
  if (path == "kernels/common/context.cuh") return {"runtime", 1};  // what the CUDA runtime and the kernels share
  if (begins(path, "kernels/")) return {"ops", 2};
  const std::vector<std::string> parts = groups(path, "(include/ssa|src)/([a-z_]+)/.*");
  if (parts.empty()) return {"", -1};
  const std::string& folder = parts[2];
  for (const Area& area :
       {Area{"base", 0}, {"runtime", 1}, {"ops", 2}, {"model", 3}, {"data", 3}, {"dist", 3}, {"train", 4}, {"eval", 5}})
    if (area.name == folder) return area;
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
  if (area.floor < 0) return "stands on no floor";
  if (begins(name, "nlohmann/") && area.name != "data" && area.name != "train" && area.floor < 4)
    return "JSON belongs in data, train, eval and the programs";
  if (matches(name, "mpi(-ext)?\\.h") && area.name != "dist") return "MPI belongs in src/dist";
  if (name == "mpi.h" && begins(path, "include/")) return "MPI belongs in src/dist";
  if (matches(
          name,
          "(cuda|cublas|cub/|cooperative_groups|curand|cusparse|nccl|nvToolsExt|nvtx3/|nvml|driver_types|mma\\.h).*") &&
      !begins(path, "kernels/") && !matches(path, "src/runtime/[^/]*cuda[^/]*") &&
      !matches(path, "src/dist/[^/]*nccl[^/]*"))
    return "CUDA belongs under kernels/ and in the CUDA runtime and NCCL files";
  if (!quoted) return "";
  const Area target = area_of(resolve(path, name));
  if (target.floor < 0) return "stands on no floor";
  if (target.name == area.name || target.floor < area.floor) return "";
  return area.name + " may not include " + target.name;
}

/// "path:line: what: why" for each include of a file that the floors forbid.
std::vector<std::string> offences(const std::string& path, const std::string& text) {
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

bool allowed(const std::string& path, const std::string& line) { return offences(path, line).empty(); }

}  // namespace

TEST_CASE("no file of the tree includes what its floor forbids") {
  namespace fs = std::filesystem;
  const fs::path root = SSA_SOURCE_DIR;
  std::vector<std::string> found;
  int files = 0;
  for (const char* folder : {"include", "src", "kernels", "data_tools", "tests"}) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!matches(entry.path().extension().string(), "\\.(h|cpp|cu|cuh)")) continue;
      std::ifstream file(entry.path());
      std::ostringstream text;
      text << file.rdbuf();
      for (const std::string& offence : offences(fs::relative(entry.path(), root).generic_string(), text.str()))
        found.push_back(offence);
      ++files;
    }
  }
  CHECK(files > 30);
  for (const std::string& offence : found) FAIL_CHECK(offence);
}

TEST_CASE("the floors test sees an offence and names its line") {
  CHECK(offences("src/base/error.cpp", "// one\n\n#include \"ssa/base/error.h\"\n#include \"ssa/train/config.h\"\n") ==
        std::vector<std::string>{"src/base/error.cpp:4: ssa/train/config.h: base may not include train"});
  CHECK(offences("src/model/llama.cpp", "#  include <mpi.h>  // why not\n") ==
        std::vector<std::string>{"src/model/llama.cpp:1: mpi.h: MPI belongs in src/dist"});
}

TEST_CASE("the floors, one by one") {
  const std::vector<std::string> upward = {"base", "runtime", "ops", "model", "train", "eval"};
  for (std::size_t a = 0; a < upward.size(); ++a)
    for (std::size_t b = 0; b < upward.size(); ++b) {
      const std::string line = "#include \"ssa/" + upward[b] + "/x.h\"";
      INFO(upward[a] << " includes " << upward[b]);
      CHECK(allowed("src/" + upward[a] + "/x.cpp", line) == (b <= a));
      CHECK(allowed("include/ssa/" + upward[a] + "/x.h", line) == (b <= a));
    }
  // Neighbours do not know each other.
  for (const char* a : {"model", "data", "dist"})
    for (const char* b : {"model", "data", "dist"})
      CHECK(allowed(std::string("src/") + a + "/x.cpp", std::string("#include \"ssa/") + b + "/x.h\"") ==
            (std::string(a) == b));

  CHECK(allowed("src/ops/x.cpp", "#include \"check.h\""));
  CHECK(allowed("src/ops/x.cpp", "#include \"kernels/common/cpu.h\""));
  CHECK_FALSE(allowed("src/ops/x.cpp", "#include \"../train/trainer.h\""));
  CHECK(allowed("src/runtime/stream_cuda.cpp", "#include \"kernels/common/context.cuh\""));
  CHECK_FALSE(allowed("src/runtime/stream_cuda.cpp", "#include \"kernels/rmsnorm/rmsnorm.cuh\""));
  CHECK(allowed("kernels/common/cpu.h", "#include \"ssa/ops/rmsnorm.h\""));
  CHECK_FALSE(allowed("kernels/common/context.cuh", "#include \"ssa/ops/rmsnorm.h\""));
  CHECK_FALSE(allowed("src/ops/x.cpp", "#include <ssa/train/x.h>"));
  CHECK_FALSE(allowed("src/ops/x.cpp", "#include \"support/op_runner.h\""));
  CHECK_FALSE(allowed("src/nowhere/x.cpp", "#include <vector>"));
  CHECK(allowed("src/ops/x.cpp", "// #include \"ssa/train/x.h\""));

  CHECK(allowed("kernels/rmsnorm/rmsnorm_cpu.cpp", "#include \"ssa/ops/rmsnorm.h\""));
  CHECK_FALSE(allowed("kernels/rmsnorm/rmsnorm_cpu.cpp", "#include \"support/op_runner.h\""));
  CHECK_FALSE(allowed("kernels/rmsnorm/rmsnorm.cu", "#include \"ssa/model/model_config.h\""));
  CHECK(allowed("kernels/rmsnorm/rmsnorm_cases.h", "#include \"support/op_runner.h\""));

  CHECK(allowed("data_tools/bytes.cpp", "#include \"ssa/data/indexed_dataset.h\""));
  CHECK_FALSE(allowed("data_tools/bytes.cpp", "#include \"ssa/train/config.h\""));
  CHECK(allowed("data_tools/ssa_tokenize.cpp", "#include \"data_tools/bytes.h\""));
  CHECK(allowed("src/eval/x.cpp", "#include \"data_tools/tokenizer/tokenizer.h\""));
  CHECK_FALSE(allowed("data_tools/bytes.cpp", "#include \"ssa/eval/setting.h\""));
  CHECK(allowed("src/ssa_train.cpp", "#include \"ssa/train/trainer.h\""));
}

TEST_CASE("JSON, MPI and CUDA headers stay where they belong") {
  const std::string json = "#include <nlohmann/json.hpp>", mpi = "#include <mpi.h>";
  for (const char* path : {"src/data/x.cpp", "src/train/x.cpp", "include/ssa/train/x.h", "src/eval/x.cpp",
                           "src/ssa_train.cpp", "data_tools/x.cpp", "tests/train/x_test.cpp"})
    CHECK(allowed(path, json));
  for (const char* path : {"src/base/x.cpp", "src/runtime/x.cpp", "src/ops/x.cpp", "src/model/x.cpp", "src/dist/x.cpp",
                           "include/ssa/model/x.h", "kernels/a/a.cu"})
    CHECK_FALSE(allowed(path, json));

  CHECK(allowed("src/dist/x.cpp", mpi));
  for (const char* path :
       {"include/ssa/dist/x.h", "src/train/x.cpp", "src/ssa_train.cpp", "tests/dist/x.cpp", "kernels/a/a.cu"})
    CHECK_FALSE(allowed(path, mpi));

  for (const char* header : {"cuda.h", "cuda_runtime.h", "cuda_bf16.h", "cublasLt.h", "cub/cub.cuh", "nccl.h"}) {
    const std::string line = std::string("#include <") + header + ">";
    INFO(line);
    for (const char* path :
         {"kernels/a/a.cu", "kernels/common/launch.h", "src/runtime/stream_cuda.cpp", "src/dist/nccl_comm_nccl.cpp"})
      CHECK(allowed(path, line));
    for (const char* path : {"src/runtime/stream.cpp", "src/dist/comm.cpp", "src/train/train.cpp",
                             "include/ssa/runtime/stream.h", "tests/ops/x_test.cpp", "src/ssa_train.cpp"})
      CHECK_FALSE(allowed(path, line));
  }
}
