// Datasets are compatible with Megatron-LM in both directions: megatron_layout.py, a copy of the published format,
// reads what ssa_tokenize writes, and ssa_train trains on what it writes, under a file name of Megatron's tools.
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

using namespace ssa::test;

namespace {

bool has_python() {
  const bool found = std::system("python3 --version > /dev/null 2>&1") == 0;
  if (!found) WARN("no python3 on this machine: compatibility with Megatron-LM is not tested");
  return found;
}

const std::string kLayout = "python3 " + (ssa::test::source_dir() / "tests/data_tools/megatron_layout.py ").string();

/// Token ids of a text under the built-in bytes tokenizer, as megatron_layout.py prints them.
std::string line_of(const std::string& text) {
  std::string line;
  for (const char c : text) line += std::to_string(static_cast<unsigned char>(c)) + " ";
  return line + "256\n";
}

}  // namespace

TEST_CASE("megatron: the published format reads a dataset of ssa_tokenize") {
  if (!has_python()) return;
  const TempDir dir;
  const std::vector<std::string> texts = {"One.", "", "Two, \xc3\xa9t\xc3\xa9.", "3"};
  std::string jsonl;
  for (const std::string& text : texts) jsonl += "{\"text\": \"" + text + "\"}\n";
  write_file(dir / "in.jsonl", jsonl);
  const auto made =
      run_program({"ssa_tokenize", "--quiet", "--tokenizer", "bytes", "--input", "in.jsonl", "--output", "out"},
                  {.directory = dir.path()});
  INFO(made.err);
  REQUIRE(made.exit_code == 0);
  const std::string read = kLayout + "read " + (dir / "out/shard-00000").string() + " > " + (dir / "ids").string();
  REQUIRE(std::system(read.c_str()) == 0);
  std::stringstream ids;
  ids << std::ifstream(dir / "ids").rdbuf();
  CHECK(ids.str() == line_of(texts[0]) + line_of(texts[2]) + line_of(texts[3]));
}

TEST_CASE("megatron: a dataset written in the published format trains") {
  if (!has_python()) return;
  for (const std::string dtype : {"int32", "uint16", "int64"}) {
    const TempDir dir;
    std::string lines;
    for (int i = 0; i < 40; ++i) lines += line_of("document " + std::to_string(i) + " of a corpus that is small");
    write_file(dir / "ids", lines);
    std::filesystem::create_directory(dir / "data");
    const std::string write = kLayout + "write " + (dir / "data/corpus_text_document").string() + " " + dtype + " < " +
                              (dir / "ids").string();
    REQUIRE(std::system(write.c_str()) == 0);
    write_file(dir / "config.json", R"({
      "model": {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "block_size": 4, "block_counts": 2,
                "eos_token_id": 256},
      "output_dir": "run", "data": {"path": "data/corpus_text_document"},
      "train": {"max_length": 32, "per_device_train_batch_size": 2, "learning_rate": 0.01, "max_steps": 3}})");
    const auto trained =
        run_program({"ssa_train", "--config", "config.json", "--device", "cpu"}, {.directory = dir.path()});
    INFO(trained.err);
    CHECK(trained.exit_code == 0);
    for (const char* path : {"data", "data/corpus_text_document", "data/corpus_text_document.idx"}) {
      const auto inspected = run_program({"ssa_inspect", path, "--verify"}, {.directory = dir.path()});
      INFO(inspected.err);
      CHECK(inspected.exit_code == 0);
      CHECK(inspected.out.find("data/corpus_text_document: dataset\n  1 shards, 40 documents") != std::string::npos);
    }
    CHECK(std::filesystem::exists(dir / "run/checkpoints/step-00000003/manifest.json"));
  }
}
