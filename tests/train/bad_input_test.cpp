#include <cstdlib>
#include <cstring>
#include <functional>

#include "ssa/train/describe_run.h"
#include "ssa/train/train.h"
#include "support/error_of.h"
#include "support/make_dataset.h"
#include "support/paths.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

constexpr const char* kCase = "ssa-sparse-stream";

std::string bytes_of(const fs::path& file) { return ssa::read_file(file); }

void truncate(const fs::path& file, std::size_t bytes) { fs::resize_file(file, bytes); }

void flip_bit(const fs::path& file, std::size_t byte) {
  std::string bytes = bytes_of(file);
  bytes.at(byte) = static_cast<char>(bytes[byte] ^ 0x10);
  ssa::test::write_file(file, bytes);
}

void replace_text(const fs::path& file, const std::string& from, const std::string& to) {
  std::string text = bytes_of(file);
  const std::size_t at = text.find(from);
  INFO(file << ": " << from);
  REQUIRE(at != std::string::npos);
  ssa::test::write_file(file, text.replace(at, from.size(), to));
}

ProgramResult inspect(const RunDirectory& run, const std::string& path) {
  return run_program({"ssa_inspect", path, "--verify"}, {.directory = run.path()});
}

}  // namespace

TEST_CASE("bad input: a wrong command line is an error that names the option") {
  const RunDirectory run(kCase);
  const auto fails = [&](const Arguments& arguments, const Names& parts) {
    INFO(arguments.at(0) << " " << (arguments.size() > 1 ? arguments[1] : ""));
    check_fails(run_program(arguments, {.directory = run.path()}), kExitUsage, parts);
  };
  fails({"ssa_train"}, {"--config FILE is missing"});
  fails({"ssa_train", "--config"}, {"--config needs a value"});
  fails({"ssa_train", "--confg", "config.json"}, {"--confg"});
  fails({"ssa_train", "--config", "confg.json"}, {"confg.json"});
  fails({"ssa_train", "--config", "config.json", "--device", "tpu"}, {"tpu"});
  fails({"ssa_train", "--config", "config.json", "--device", "cuda"}, {"does not run on a GPU: head_dim is 16"});
  fails({"ssa_train", "--config", "config.json", "--device", "cuda", "--dry-run"}, {"head_dim is 16"});
  fails({"ssa_train", "--config", "config.json", "--set", "output_dir"}, {"output_dir"});
  fails({"ssa_train", "--config", "config.json", "--resume", ""}, {"--resume \"\": expected a value"});
  fails({"ssa_train", "--config", "config.json", "--print-config-keys"}, {"--print-config-keys excludes --config"});
  check_fails(run.train("out", {}, {"--dry-run", "--resume", "nowhere"}), kExitFailed, {"nowhere"});
  fails({"ssa_inspect"}, {"PATH is missing"});
  fails({"ssa_inspect", "nowhere"}, {"nowhere"});
  fails({"ssa_inspect", "data", "--verfy"}, {"--verfy"});
  fails({"ssa_export", "nowhere", "exported"}, {"nowhere"});
  fails({"ssa_export", "model"}, {"DIR is missing"});
  fails({"ssa_export", "model", "exported", "--dtype", "f8"}, {"f8"});
}

TEST_CASE("bad input: a wrong config key or value is an error that names the key") {
  const RunDirectory run(kCase);
  const auto set = [&](const std::string& override, const Names& parts) {
    INFO(override);
    check_fails(run.train("out", {override}), kExitUsage, parts);
  };
  set("train.learning_rat=0.1", {"train.learning_rat", "learning_rate"});
  set("attention.metod=moba", {"attention.metod", "method"});
  set("atention.method=moba", {"atention", "attention"});
  set("train.max_length=many", {"train.max_length", "many"});
  set("data.shuffle=3", {"data.shuffle", "3"});
  set("train.adam_beta1=1.5", {"train.adam_beta1", "1.5"});
  set("train.per_device_train_batch_size=0", {"train.per_device_train_batch_size", "0"});
  set("attention.method=dense", {"attention.method", "dense"});
  set("train.global_batch_size=3", {"global"});
  set("train.per_device_train_batch_size=9999", {"zero steps in an epoch", "19998"});
  set("train.global_batch_size=100000", {"zero steps in an epoch", "100000"});
  CHECK_FALSE(fs::exists(run / "out"));

  replace_text(run / "config.json", "\"max_length\"", "\"max_lenght\"");
  check_fails(run.train("out"), kExitUsage, {"config.json", "max_lenght", "max_length"});
  replace_text(run / "config.json", "\"max_lenght\"", "\"max_length\":, \"x\"");
  check_fails(run.train("out"), kExitUsage, {"config.json", "line"});
  truncate(run / "config.json", 0);
  check_fails(run.train("out"), kExitUsage, {"config.json"});
}

TEST_CASE("bad input: absurd sizes give a plan or an error at once") {
  const RunDirectory run(kCase);
  // Far below 10 s and 2.4 GB also on a busy machine with sanitizers.
  constexpr double kSeconds = 5;
  const auto describe = [&](const Names& overrides, int exit_code) {
    const ProgramResult result = run.train("out", overrides, {"--dry-run"});
    INFO(overrides.at(0) << ": exit code " << result.exit_code << ", " << result.seconds << " s\n" << result.err);
    CHECK(result.exit_code == exit_code);
    CHECK(result.seconds < kSeconds);
  };
  describe({"model.num_hidden_layers=2147483648"}, kExitUsage);
  describe({"model.block_counts=1152921504606846976"}, kExitUsage);
  describe({"model.hidden_size=4611686018427387904"}, kExitUsage);
  describe({"model.num_hidden_layers=2000", "model.hidden_size=1000000", "model.intermediate_size=1000000"},
           kExitUsage);
  describe({"model.num_hidden_layers=2000"}, kExitDone);
  describe({"model.hidden_size=1000000", "model.vocab_size=1000000"}, kExitDone);
  describe({"train.per_device_train_batch_size=1000000", "data.path=not-there"}, kExitDone);
  describe({"train.gradient_accumulation_steps=1000000", "data.path=not-there"}, kExitDone);
  describe({"train.max_steps=1000000000"}, kExitDone);

  const auto launched = [&](const char* ranks, int exit_code, const std::string& text) {
    ::setenv("OMPI_COMM_WORLD_SIZE", ranks, 1);
    const ProgramResult result = run.train("out", {"data.path=not-there"}, {"--dry-run"});
    ::unsetenv("OMPI_COMM_WORLD_SIZE");
    INFO(ranks << " ranks\n" << result.out << result.err);
    CHECK(result.exit_code == exit_code);
    CHECK(result.seconds < kSeconds);
    CHECK_THAT(result.err + result.out, has(text));
  };
  launched("1000000", kExitDone, "memory on cpu");
  launched("99999999999999999999", kExitUsage,
           "OMPI_COMM_WORLD_SIZE: found \"99999999999999999999\", expected an integer from 0 to 1000000");
}

TEST_CASE("bad input: files that are missing or of the wrong kind") {
  const auto fails = [&](const fs::path& removed, int exit_code, const Names& parts) {
    const RunDirectory run(kCase);
    fs::remove_all(run / removed);
    INFO(removed);
    check_fails(run.train("out"), exit_code, parts);
  };
  fails("model/config.json", kExitUsage, {"model/config.json"});
  fails("model/model.safetensors", kExitFailed, {"model: ", "model.safetensors"});
  fails("data", kExitFailed, {"data: "});
  fails("data/shard-00000.bin", kExitFailed, {"data/shard-00000.bin"});
  fails("data/shard-00000.idx", kExitFailed, {"data/shard-00000.idx"});
  const RunDirectory run(kCase);
  check_fails(run.train("out", {"data.eval_path=elsewhere"}), kExitFailed, {"elsewhere"});
  ssa::test::make_dataset(run / "single", {ssa::test::Documents(50, {257})}, {.vocab_size = 258, .eos_token_id = 257});
  check_fails(run.train("out", {"data.eval_path=single"}), kExitFailed,
              {"data.eval_path single: no token has a target, expected documents of at least 2 tokens"});
  check_fails(run.train("out", {}, {"--resume", "out/checkpoints/step-00000001"}), kExitFailed,
              {"out/checkpoints/step-00000001"});
  check_fails(run.train("out", {}, {"--resume", "model"}), kExitFailed, {"model", "manifest.json"});
}

TEST_CASE("bad input: a damaged shard is an error that names the file") {
  const RunDirectory run(kCase);
  const fs::path bin = run / "data/shard-00000.bin", idx = run / "data/shard-00000.idx";
  const std::string whole_bin = bytes_of(bin), whole_idx = bytes_of(idx);
  const auto fails = [&](const std::string& what, const Names& parts, const std::function<void()>& damage) {
    ssa::test::write_file(bin, whole_bin);
    ssa::test::write_file(idx, whole_idx);
    damage();
    INFO(what);
    check_fails(run.train("out"), kExitFailed, parts);
    check_fails(inspect(run, "data"), kExitFailed, parts);
  };
  fails("truncated bin", {"data/shard-00000.bin: 1000 bytes"}, [&] { truncate(bin, 1000); });
  fails("empty bin", {"data/shard-00000.bin: 0 bytes"}, [&] { truncate(bin, 0); });
  fails("truncated idx", {"data/shard-00000.idx: 500 bytes"}, [&] { truncate(idx, 500); });
  fails("empty idx", {"data/shard-00000.idx: 0 bytes"}, [&] { truncate(idx, 0); });
  fails("idx of another shard", {"data/shard-00000.bin", "bytes, expected"}, [&] {
    fs::copy_file(ssa::test::source_dir() / "tests/golden/cases/full/data/shard-00000.idx", idx,
                  fs::copy_options::overwrite_existing);
  });
  fails("not an idx", {"data/shard-00000.idx"}, [&] { ssa::test::write_file(idx, std::string(2000, 'x')); });
  ssa::test::write_file(idx, whole_idx);
  CHECK(inspect(run, "data").exit_code == kExitDone);
}

TEST_CASE("bad input: token ids and tokenizers that do not fit the model are errors that name the file") {
  const RunDirectory run(kCase);  // vocabulary 272, end of text 257
  Documents documents = random_documents(400, 60, 1, 257);
  const auto make = [&](const DatasetOptions& options) {
    fs::remove_all(run / "other");
    fs::create_directories(run / "other");
    make_dataset(run / "other", {documents}, options);
  };
  const DatasetOptions fitting{.vocab_size = 272, .eos_token_id = 257};
  make(fitting);
  run.train_to_end("good", {"data.path=other"});

  make({.vocab_size = 258, .eos_token_id = 256});
  check_fails(run.train("out", {"data.path=other"}), kExitFailed, {"other/dataset.json", "eos_token_id", "256", "257"});
  make({.vocab_size = 300, .eos_token_id = 257});
  check_fails(run.train("out", {"data.path=other"}), kExitFailed, {"other/dataset.json", "300", "272"});

  // Without dataset.json, only the token ids can be checked.
  documents.at(3).at(0) = 5000;
  make({.vocab_size = 272, .eos_token_id = 257, .json = false});
  const Names parts = {"other/shard-00000.bin", "document 3", "5000", "272"};
  check_fails(run.train("out", {"data.path=other"}), kExitFailed, parts);
  make(fitting);
  check_fails(inspect(run, "other"), kExitFailed, parts);
  CHECK(run.checkpoints("out").empty());

  documents.at(3).at(0) = 5;
  make(fitting);
  flip_bit(run / "other/shard-00000.bin", 0);
  check_fails(inspect(run, "other"), kExitFailed, {"other/shard-00000.bin", "checksum"});
}

TEST_CASE("bad input: weights that do not fit the model are an error that names file and tensor") {
  const fs::path config = "model/config.json", weights = "model/model.safetensors";
  const auto fails = [&](const std::string& what, const Names& parts,
                         const std::function<void(const RunDirectory&)>& damage) {
    const RunDirectory run(kCase);
    damage(run);
    INFO(what);
    check_fails(run.train("out"), kExitFailed, parts);
    check_fails(inspect(run, "model"), kExitFailed, parts);
  };
  fails("a tensor of another shape", {"model/model.safetensors", "mlp.gate_proj.weight", "[160, 64]", "[144, 64]"},
        [&](const RunDirectory& run) {
          replace_text(run / config, "\"intermediate_size\": 160", "\"intermediate_size\": 144");
        });
  fails("a missing tensor", {"model/model.safetensors", "model.layers.2.", "missing"}, [&](const RunDirectory& run) {
    replace_text(run / config, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
  });
  fails("a tensor too many", {"model/model.safetensors", "unexpected tensor model.layers.1."},
        [&](const RunDirectory& run) {
          replace_text(run / config, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
        });
  fails("a header longer than the file", {"model/model.safetensors", "header"}, [&](const RunDirectory& run) {
    std::string bytes = bytes_of(run / weights);
    const std::uint64_t length = std::uint64_t{1} << 40;
    std::memcpy(bytes.data(), &length, sizeof length);
    ssa::test::write_file(run / weights, bytes);
  });
  fails("a header without end", {"model/model.safetensors", "header"}, [&](const RunDirectory& run) {
    std::string bytes = bytes_of(run / weights);
    std::memset(bytes.data(), 0xff, 8);
    ssa::test::write_file(run / weights, bytes);
  });
  fails("a header that is no JSON", {"model/model.safetensors", "header"},
        [&](const RunDirectory& run) { flip_bit(run / weights, 8); });
  fails("a truncated file", {"model/model.safetensors"},
        [&](const RunDirectory& run) { truncate(run / weights, fs::file_size(run / weights) - 4); });
  fails("an empty file", {"model/model.safetensors"}, [&](const RunDirectory& run) { truncate(run / weights, 0); });
}

TEST_CASE("bad input: a checkpoint with one flipped bit is an error if named, and skipped by --resume auto") {
  const RunDirectory run(kCase);
  const Names saving = {"checkpoint.save_steps=4"};
  run.train_to_end("whole", saving);
  const auto whole = run.metrics("whole");
  for (const std::string file :
       {"model.safetensors", "optimizer.safetensors", "trainer.json", "config.json", "manifest.json"}) {
    INFO(file);
    fs::remove_all(run / "damaged");
    fs::copy(run / "whole", run / "damaged", fs::copy_options::recursive);
    const fs::path newest = run.checkpoint("damaged", 8);
    flip_bit(newest / file, fs::file_size(newest / file) / 2);

    const std::string name = "damaged/checkpoints/step-00000008";
    check_fails(run.train("elsewhere", saving, {"--resume", name}), kExitFailed, {name, file});
    check_fails(inspect(run, name), kExitFailed, {name, file});
    check_fails(inspect(run, "damaged"), kExitFailed, {name, file});
    check_fails(run_program({"ssa_export", name, "exported"}, {.directory = run.path()}), kExitFailed, {name, file});
    CHECK_FALSE(fs::exists(run / "exported"));

    const ProgramResult resumed = run.train("damaged", saving);
    INFO(resumed.out << resumed.err);
    REQUIRE(resumed.exit_code == kExitDone);
    CHECK_THAT(resumed.out, has("skipping " + name));
    CHECK_THAT(resumed.out, has(file));
    CHECK_THAT(resumed.out, has("resuming from damaged/checkpoints/step-00000004"));
    CHECK(run.metrics("damaged") == whole);
    check_same_state(newest, run.checkpoint("whole", 8));
  }
}

TEST_CASE("bad input: resuming from a checkpoint of another model is an error that names the tensor") {
  const RunDirectory run(kCase);
  run.train_to_end("out", {"checkpoint.save_steps=4"});
  replace_text(run / "model/config.json", "\"intermediate_size\": 160", "\"intermediate_size\": 144");
  check_fails(run.train("out"), kExitUsage,
              {"cannot resume from out/checkpoints/step-00000008",
               "model.intermediate_size: 160 in the checkpoint, 144 now", "--allow-change model.intermediate_size"});
  check_fails(run.train("out", {}, {"--allow-change", "model"}), kExitFailed,
              {"out/checkpoints/step-00000008/model.safetensors", "mlp.gate_proj.weight", "[160, 64]", "[144, 64]"});
}

TEST_CASE("bad input: a checkpoint after train.max_steps is an error") {
  const RunDirectory run(kCase);
  run.train_to_end("out");
  check_fails(run.train("out", {"train.max_steps=5"}), kExitFailed, {"out/checkpoints/step-00000008", "8", "5"});
}

TEST_CASE("bad input: an output directory that cannot be written is an error that names the path") {
  const RunDirectory run(kCase);
  ssa::test::write_file(run / "file", "");
  check_fails(run.train("file/out"), kExitFailed, {"file/out", "Not a directory"});
  check_fails(run.train("file"), kExitFailed, {"file"});
  fs::create_directories(run / "half");
  ssa::test::write_file(run / "half/checkpoints", "");
  check_fails(run.train("half"), kExitFailed, {"half/checkpoints"});
  CHECK(!fs::exists(run / "half/metrics.jsonl"));  // found before the first step
  fs::create_directories(run / "taken/metrics.jsonl");
  check_fails(run.train("taken"), kExitFailed, {"taken/metrics.jsonl"});
  run.train_to_end("out");
  check_fails(run_program({"ssa_export", "out", "data"}, {.directory = run.path()}), kExitUsage, {"data", "empty"});
  check_fails(run_program({"ssa_export", "out", "file/exported"}, {.directory = run.path()}), kExitFailed,
              {"/file: cannot create the directory: Not a directory"});
  // A run would replace the config.json of a model.
  REQUIRE(run_program({"ssa_export", "out", "exported"}, {.directory = run.path()}).exit_code == 0);
  const std::string config = bytes_of(run / "exported/config.json");
  check_fails(run.train("exported"), kExitUsage, {"output_dir exported", "model.safetensors"});
  check_fails(run.train("exported", {"init_from=exported"}), kExitUsage, {"output_dir exported"});
  check_fails(run.train("data"), kExitUsage, {"output_dir data", "shard-00000.idx"});
  CHECK(bytes_of(run / "exported/config.json") == config);
  CHECK(!fs::exists(run / "exported/checkpoints"));
  // A run that has such a file already continues.
  ssa::test::write_file(run / "out/dataset.json", "{}");
  CHECK(run.train("out").exit_code == 0);
}

TEST_CASE("bad input: closed standard files do not put messages into a file of the run") {
  const RunDirectory run(kCase);
  run.train_to_end("open");
  const ProgramResult result = run_bash(run, "exec $TRAIN <&- >&- 2>&-");
  CHECK(result.exit_code == kExitDone);
  CHECK(run.metrics("out") == run.metrics("open"));
  check_same_state(run.checkpoint("out", 8), run.checkpoint("open", 8));
}

TEST_CASE("bad input: FIFOs and symbolic links in the place of output files") {
  const RunDirectory run(kCase);
  run.train_to_end("whole");
  for (const char* file : {"metrics.jsonl", "train.log", "config.json"}) {
    INFO(file);
    const std::string name = std::string("out/") + file;
    check_fails(run_bash(run, "rm -rf out; mkdir out; mkfifo " + name + "; exec timeout 60 $TRAIN"), kExitFailed,
                {name + ": cannot write: is a FIFO, expected a regular file"});
  }
  const auto check_link = [&](const std::string& prepare) {
    INFO(prepare);
    const ProgramResult result = run_bash(run, "rm -rf out; " + prepare + "; exec timeout 60 $TRAIN");
    INFO(result.err);
    CHECK(result.exit_code == kExitDone);
    CHECK(run.metrics("out") == run.metrics("whole"));
  };
  check_link("mkdir real; ln -s real out");
  CHECK(run.metrics("real") == run.metrics("whole"));
  check_link("mkdir -p out else; ln -s ../else/m.jsonl out/metrics.jsonl");
  CHECK(fs::is_symlink(run / "out/metrics.jsonl"));
  // A resume drops the later lines of the file that the link names.
  check_link("mkdir -p out else; cp whole/metrics.jsonl else/m.jsonl; ln -s ../else/m.jsonl out/metrics.jsonl");
  CHECK(fs::is_symlink(run / "out/metrics.jsonl"));
}

TEST_CASE("bad input: a limit on the address space that leaves no room for OpenBLAS is an error within seconds") {
#if defined(SSA_SANITIZE)
  WARN("skipped: the address sanitizer needs more address space than any limit leaves");
#else
  const RunDirectory run(kCase);
  for (const char* limit : {"100000", "150000", "200000", "300000"}) {
    const ProgramResult result = run_bash(run, std::string("ulimit -v ") + limit + "; exec timeout -s KILL 60 $TRAIN");
    INFO("ulimit -v " << limit << ": exit code " << result.exit_code << ", " << result.err);
    CHECK(result.seconds < 10);
    CHECK((result.exit_code == kExitFailed || result.exit_code == kExitDone || result.exit_code == 127));
    if (result.exit_code == kExitFailed) CHECK_THAT(result.err, has("out of host memory"));
  }
#endif
}

TEST_CASE("bad input: a model that the CUDA kernels do not support is refused before anything is opened") {
  const RunDirectory run(kCase);
  Config config = load_config(run / "config.json", {"model=" + (run / "model/config.json").string(),
                                                    "data.path=nowhere", "output_dir=" + (run / "out").string()});
  const auto refused = [&](const std::string& reason) {
    const auto start = [&] {
      SingleComm comm;
      train(config, {.device = DeviceKind::cuda}, comm);
    };
    const auto describe = [&] { describe_run(config, {DeviceKind::cuda}, 1); };
    check_error(error_of(start), "does not run on a GPU", reason);
    check_error(error_of(describe), "does not run on a GPU", reason);
    CHECK_THROWS_AS(start(), UsageError);
    CHECK_THROWS_AS(describe(), UsageError);
    const std::string both = describe_run(config, {DeviceKind::cpu, DeviceKind::cuda}, 1);
    CHECK(both.find("memory on cpu, bytes per rank") != std::string::npos);
    CHECK(both.find(reason) != std::string::npos);
    CHECK(!fs::exists(run / "out"));
  };
  refused("head_dim is 16");
  config.model.head_dim = 64;
  refused("block_size is 4");
  config.model.block_size = 16;
  config.model.num_attention_heads = 34;
  refused("there are 17 query heads per key/value head");
}

namespace {

/// Checks that both ranks end with this exit code and that one error line has these parts.
void check_fails_once(const ProgramResult& result, int exit_code, const Names& parts) {
  INFO("exit code " << result.exit_code << ", " << result.seconds << " s\n" << result.out << result.err);
  CHECK(result.exit_code == exit_code);
  CHECK(result.seconds < 60);
  const std::size_t at = result.err.find("error: rank ");
  REQUIRE(at != std::string::npos);
  CHECK(result.err.find("error: rank ", at + 1) == std::string::npos);
  const std::string line = result.err.substr(at, result.err.find('\n', at) - at);
  for (const std::string& part : parts) CHECK_THAT(line, has(part));
}

}  // namespace

TEST_CASE("bad input: an error on two ranks is printed once and ends both") {
  const RunDirectory run(kCase);
  const auto fails = [&](const Names& overrides, int exit_code, const Names& parts) {
    check_fails_once(run.train("out", overrides, {}, 2), exit_code, parts);
  };
  fails({"train.learning_rat=0.1"}, kExitUsage, {"rank 0", "train.learning_rat"});
  fails({"train.global_batch_size=2"}, kExitUsage,
        {"train.global_batch_size: found 2", "2 rows per micro-batch on 2 ranks"});
  fails({"init_from=nowhere"}, kExitFailed, {"nowhere"});

  // Only rank 1 reads this document: it has rows 2 and 3 of 4.
  Documents documents(40, TokenIds(48, 7));
  for (TokenIds& document : documents) document.back() = 257;
  documents.at(2).at(5) = 5000;
  fs::create_directories(run / "other");
  make_dataset(run / "other", {documents}, {.vocab_size = 272, .eos_token_id = 257, .json = false});
  fails({"data.path=other", "train.max_length=48"}, kExitFailed, {"rank 1", "other/shard-00000.bin", "document 2"});
}

TEST_CASE("bad input: ranks that see different files under one path end before the first step") {
  const RunDirectory run(kCase);
  for (const char* directory : {"at-0", "at-1"}) {
    fs::create_directories(run / directory);
    for (const char* part : {"config.json", "model", "data"})
      fs::copy(run / part, run / directory / part, fs::copy_options::recursive);
  }
  // Rank 2 of 3 sees what rank 0 sees.
  const auto train = [&](const std::string& more = "") {
    const std::string line = "cd at-$((OMPI_COMM_WORLD_RANK % 2)) && exec " +
                             (ssa::test::binary_dir() / "ssa_train").string() +
                             " --config config.json --device cpu --set train.global_batch_size=12 --set output_dir=" +
                             (run / "out").string() + more;
    return run_program({"/bin/sh", "-c", line}, {.directory = run.path(), .ranks = 3});
  };
  const fs::path bin = run / "at-1/data/shard-00000.bin";
  flip_bit(bin, fs::file_size(bin) / 2);  // another token
  check_fails_once(train(), kExitFailed,
                   {"rank 1 differs from rank 0: found data.path: ", " documents, ",
                    "on rank 1, expected data.path: ", "fingerprint", "do all ranks see the same files?"});
  flip_bit(bin, fs::file_size(bin) / 2);

  // A dataset with more rows.
  Documents documents = random_documents(50, 40, 1, 257);
  fs::create_directories(run / "at-0/more");
  fs::create_directories(run / "at-1/more");
  make_dataset(run / "at-0/more", {documents}, {.vocab_size = 272, .eos_token_id = 257});
  const std::string evaluated = " --set data.eval_path=more";
  make_dataset(run / "at-1/more", {documents}, {.vocab_size = 272, .eos_token_id = 257});
  const ProgramResult same = train(evaluated);
  INFO(same.out << same.err);
  CHECK(same.exit_code == kExitDone);
  documents.push_back(documents.front());
  make_dataset(run / "at-1/more", {documents}, {.vocab_size = 272, .eos_token_id = 257});
  check_fails_once(train(evaluated + " --resume none"), kExitFailed,
                   {"found data.eval_path: 51 documents", "on rank 1, expected data.eval_path: 50 documents"});
  check_fails_once(train(" --set data.path=more --resume none"), kExitFailed,
                   {"found data.path: 51 documents", "on rank 1, expected data.path: 50 documents"});
}

TEST_CASE("bad input: ranks with different configs or weights end before the first step") {
  const RunDirectory run(kCase);
  const std::string train = (ssa::test::binary_dir() / "ssa_train --config config.json --device cpu").string();
  // The command is the same on both ranks; Open MPI's variable distinguishes them.
  const auto ranks = [&](const std::string& command) {
    return run_program({"/bin/sh", "-c", command}, {.directory = run.path(), .ranks = 2});
  };
  check_fails_once(ranks("exec " + train + " --set train.learning_rate=0.0$((OMPI_COMM_WORLD_RANK + 1))"), kExitFailed,
                   {"rank 1 differs from rank 0", "found train.learning_rate = 0.02 on rank 1",
                    "expected train.learning_rate = 0.01"});
  check_fails_once(ranks("[ $OMPI_COMM_WORLD_RANK = 1 ] && exec " + train + " --resume none; exec " + train),
                   kExitFailed, {"found --resume none on rank 1, expected --resume auto"});
  // A byte after the end changes no code.
  const std::string newer =
      "cp " + (ssa::test::binary_dir() / "ssa_train").string() + " newer && echo >> newer && exec ./newer";
  check_fails_once(
      ranks("[ $OMPI_COMM_WORLD_RANK = 1 ] && " + newer + " --config config.json --device cpu; exec " + train),
      kExitFailed, {"rank 1 differs from rank 0", "found ssa_train binary: XXH3 "});
  CHECK(!fs::exists(run / "out"));

  // The same config in two directories, whose weights differ in one bit.
  for (const char* directory : {"at-0", "at-1"}) {
    fs::create_directories(run / directory);
    for (const char* part : {"config.json", "model", "data"})
      fs::copy(run / part, run / directory / part, fs::copy_options::recursive);
  }
  const std::string apart = "cd at-$OMPI_COMM_WORLD_RANK && exec " + train;
  const ProgramResult same = ranks(apart);
  INFO(same.out << same.err);
  CHECK(same.exit_code == kExitDone);
  flip_bit(run / "at-1/model/model.safetensors", fs::file_size(run / "at-1/model/model.safetensors") - 4);
  // From stage 1 on each rank trains on what it reads of its shard only.
  for (const char* stage : {"0", "1", "2", "3"})
    check_fails_once(ranks(apart + " --resume none --set distributed.zero_stage=" + stage), kExitFailed,
                     {"rank 1 differs from rank 0: found weights: XXH3 ", "do all ranks see the same init_from"});
}

TEST_CASE("bad input: ranks with checkpoints that differ in one bit end before the first step") {
  const RunDirectory run(kCase);
  const std::string train = (ssa::test::binary_dir() / "ssa_train --config config.json --device cpu").string();
  run.train_to_end("out", {"train.max_steps=2", "distributed.zero_stage=0"});
  // One run in two directories, as on two machines without a shared file system.
  for (const char* directory : {"at-0", "at-1"}) {
    fs::create_directories(run / directory);
    for (const char* part : {"config.json", "model", "data", "out"})
      fs::copy(run / part, run / directory / part, fs::copy_options::recursive);
  }
  const auto resume = [&](const std::string& stage, const std::string& more = "") {
    return run_program(
        {"/bin/sh", "-c",
         "cd at-$OMPI_COMM_WORLD_RANK && exec " + train +
             " --set output_dir=out --set train.max_steps=3 --set distributed.zero_stage=" + stage + more},
        {.directory = run.path(), .ranks = 2});
  };
  const fs::path checkpoint = run / "at-1/out/checkpoints/step-00000002";
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    // The last element, of a norm or its moment, is in the shard of rank 1. At stage 0 both ranks read all elements.
    flip_bit(checkpoint / name, fs::file_size(checkpoint / name) - 4);
    const std::vector<std::string> expected = {"rank 1 differs from rank 0: found checkpoint: XXH3 ",
                                               "do all ranks see the same checkpoints"};
    for (const char* stage : {"0", "1", "2", "3"}) {
      if (std::string(name) == "model.safetensors" && std::string(stage) != "1") continue;
      INFO(name << ", stage " << stage);
      check_fails_once(resume(stage), kExitFailed, expected);
    }
    if (std::string(name) == "optimizer.safetensors")
      check_fails_once(resume("2", " --set output_dir=new --set init_from=out --set init_state=optimizer"), kExitFailed,
                       expected);
    flip_bit(checkpoint / name, fs::file_size(checkpoint / name) - 4);
  }
  const ProgramResult same = resume("1");
  INFO(same.out << same.err);
  CHECK(same.exit_code == kExitDone);

  // A file system that is not mounted on the machine of rank 0.
  fs::remove_all(run / "at-0/out");
  check_fails_once(resume("1"), kExitFailed,
                   {"output_dir out: found checkpoints on rank 1 and none on rank 0", "--resume none starts over"});
}
