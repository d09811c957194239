// ssa_tokenize: text to a tokenized dataset.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

#include "data_tools/tokenize_job.h"
#include "ssa/base/error.h"

namespace {

constexpr const char* kHelp =
    R"(Usage: ssa_tokenize --tokenizer bytes --input FILE... --output DIR [options]

Turns text into a tokenized dataset: Megatron-LM indexed shards and dataset.json.

  --tokenizer bytes          the 256 bytes and an end-of-text token (256)
  --input FILE...            .txt (a file is a document) or .jsonl (a line is a document)
  --output DIR               a new or an empty folder
  --text-field NAME          the field of a .jsonl record that holds the text (text)
  --split-documents none|blank-line
                             whether blank lines separate the documents of a .txt file (none)
  --shard-tokens N           tokens after which a shard ends (1000000000)
  --help

Example:
  ssa_tokenize --tokenizer bytes --input book.txt notes.jsonl --output data/books
)";

std::uint64_t parse_count(const std::string& option, const std::string& value) {
  char* end = nullptr;
  const unsigned long long number = std::strtoull(value.c_str(), &end, 10);
  if (value.empty() || value[0] < '0' || value[0] > '9' || *end != '\0' || number == 0)
    ssa::fail_usage(option, " ", value, ": expected a positive integer");
  return number;
}

int run(int argc, char** argv) {
  ssa::TokenizeOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--help" || option == "-h") {
      std::fputs(kHelp, stdout);
      return ssa::kExitDone;
    }
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) ssa::fail_usage(option, ": expected a value");
      return argv[++i];
    };
    if (option == "--tokenizer") {
      options.tokenizer = value();
    } else if (option == "--input") {
      options.inputs.push_back(value());
      while (i + 1 < argc && std::string_view(argv[i + 1]).rfind("--", 0) != 0) options.inputs.push_back(argv[++i]);
    } else if (option == "--output") {
      options.output = value();
    } else if (option == "--pre-tokenizer") {
      options.pre_tokenizer = value();
    } else if (option == "--text-field") {
      options.text_field = value();
    } else if (option == "--split-documents") {
      const std::string how = value();
      if (how != "none" && how != "blank-line")
        ssa::fail_usage("--split-documents ", how, ": expected none or blank-line");
      options.split_documents = how == "blank-line";
    } else if (option == "--shard-tokens") {
      options.shard_tokens = parse_count(option, value());
    } else {
      ssa::fail_usage(option, ": unknown option, see ssa_tokenize --help");
    }
  }
  if (options.tokenizer.empty()) ssa::fail_usage("--tokenizer: missing, see ssa_tokenize --help");
  if (options.inputs.empty()) ssa::fail_usage("--input: missing, see ssa_tokenize --help");
  if (options.output.empty()) ssa::fail_usage("--output: missing, see ssa_tokenize --help");

  const ssa::TokenizeReport report = ssa::tokenize(options);
  std::fprintf(stderr,
               "%llu documents (%llu empty ones left out), %llu bytes, %llu tokens, %.3f bytes per token, %llu invalid "
               "UTF-8 parts replaced, %.1f s\n",
               static_cast<unsigned long long>(report.documents), static_cast<unsigned long long>(report.empty),
               static_cast<unsigned long long>(report.text_bytes), static_cast<unsigned long long>(report.tokens),
               static_cast<double>(report.text_bytes) / static_cast<double>(report.tokens),
               static_cast<unsigned long long>(report.replaced), report.seconds);
  return ssa::kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const ssa::Error& error) {
    std::fprintf(stderr, "ssa_tokenize: %s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ssa_tokenize: %s\n", error.what());
    return ssa::kExitFailed;
  }
}
