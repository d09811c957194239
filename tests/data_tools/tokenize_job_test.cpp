#include "data_tools/tokenize_job.h"

#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "data_tools/byte_source.h"
#include "ssa/base/error.h"
#include "ssa/data/dataset.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/forked.h"
#include "support/paths.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

namespace fs = std::filesystem;
using ssa::test::check_error;
using ssa::test::error_of;
using ssa::test::TempDir;
using ssa::test::write_file;

namespace {

ssa::TokenizeOptions options_for(const std::vector<std::string>& inputs, const fs::path& output) {
  ssa::TokenizeOptions options;
  options.tokenizer = "bytes";
  options.input.files = ssa::expand_inputs(inputs);
  options.output = output;
  options.workers = 2;
  options.quiet = true;
  return options;
}

/// The documents of a dataset of the bytes tokenizer, without the end of text.
std::vector<std::string> documents_in(const fs::path& directory) {
  const ssa::Dataset dataset(directory);
  dataset.verify();
  std::vector<std::string> documents;
  for (const ssa::IndexedDataset& shard : dataset.shards())
    for (std::int64_t i = 0; i < shard.documents(); ++i) {
      std::vector<std::int32_t> ids(static_cast<std::size_t>(shard.length(i)));
      shard.read(i, 0, ids);
      REQUIRE(ids.back() == 256);
      documents.emplace_back(ids.begin(), ids.end() - 1);
    }
  return documents;
}

/// Contents by name, without the lock: it names its last process when that one was killed.
std::map<std::string, std::string> files_in(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file() && entry.path().filename() != ".lock")
      files[fs::relative(entry.path(), directory).string()] = ssa::read_file(entry.path());
  return files;
}

std::string gzip(const std::string& bytes) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(bytes.size() + 1024, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& bytes, int window_log = 0) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  if (window_log > 0) {  // as `zstd --long` does; the content size would shrink the window
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  }
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  out.resize(ZSTD_compress2(context, out.data(), out.size(), bytes.data(), bytes.size()));
  ZSTD_freeCCtx(context);
  return out;
}

std::string json_lines(int first, int count, std::size_t length = 40) {
  std::string lines;
  std::mt19937 random(static_cast<unsigned>(first));
  for (int i = first; i < first + count; ++i) {
    std::string text = "document " + std::to_string(i) + " ";
    while (text.size() < length) text += static_cast<char>('a' + random() % 26);
    lines += nlohmann::json{{"id", i}, {"text", text}}.dump() + "\n";
  }
  return lines;
}

}  // namespace

TEST_CASE("tokenize: every kind of input gives its documents, in order") {
  TempDir directory;
  write_file(directory / "a.txt", "whole\n\nfile\n");
  write_file(directory / "b.jsonl", "\xef\xbb\xbf{\"text\": \"one\"}\r\n\n  \n{\"text\": \"two\"}");
  write_file(directory / "c.jsonl.gz", gzip("{\"text\": \"three\"}\n") + gzip("{\"text\": \"four\"}\n"));
  write_file(directory / "d.jsonl.zst", zstd("{\"text\": \"five\"}\n{\"te") + zstd("xt\": \"six\"}\n"));
  write_file(directory / "e.txt.gz", gzip("seven"));
  write_file(directory / "ignored.bin", "x");
  TempDir out;
  const std::vector<std::string> expected = {"whole\n\nfile\n", "one", "two", "three", "four", "five", "six", "seven"};
  const ssa::TokenizeReport report = ssa::tokenize(options_for({directory.path().string()}, out / "all"));
  CHECK(documents_in(out / "all") == expected);
  CHECK(report.documents == 8);
  CHECK(report.tokens == static_cast<std::int64_t>(report.text_bytes) + 8);
  const auto info = ssa::read_dataset_info(out / "all/dataset.json");
  CHECK(info.shards.at(0).text_bytes == static_cast<std::int64_t>(report.text_bytes));
  CHECK_FALSE(fs::exists(out / "all/job.json"));

  ssa::tokenize(options_for({(directory / "[cd].jsonl*").string(), (directory / "a.txt").string()}, out / "glob"));
  CHECK(documents_in(out / "glob") == std::vector<std::string>{"three", "four", "five", "six", "whole\n\nfile\n"});
}

TEST_CASE("tokenize: blank lines can separate the documents of a text") {
  TempDir directory;
  write_file(directory / "a.txt", "\n\nfirst\nstill first\n \t\n\nsecond\n\n\n");
  write_file(directory / "b.txt", "third");
  auto options = options_for({directory.path().string()}, directory / "out");
  options.input.split_blank_lines = true;
  ssa::tokenize(options);
  CHECK(documents_in(directory / "out") == std::vector<std::string>{"first\nstill first\n", "second\n", "third"});
}

TEST_CASE("tokenize: documents may be larger than a batch and lines may cross its end") {
  TempDir directory;
  std::string lines, text;
  std::vector<std::string> expected;
  for (int i = 0; i < 6; ++i) {
    expected.push_back(std::string(i % 2 ? 3'000'000 : 700'000, static_cast<char>('a' + i)));
    lines += "{\"text\": \"" + expected.back() + "\"}\n";
    text += expected.back() + "\n\n";
  }
  write_file(directory / "a.jsonl", lines);
  ssa::tokenize(options_for({(directory / "a.jsonl").string()}, directory / "out"));
  CHECK((documents_in(directory / "out") == expected));
  write_file(directory / "a.txt", text);
  auto options = options_for({(directory / "a.txt").string()}, directory / "out2");
  options.input.split_blank_lines = true;
  ssa::tokenize(options);
  for (std::string& document : expected) document += "\n";
  CHECK((documents_in(directory / "out2") == expected));
}

TEST_CASE("tokenize: the output does not depend on the number of workers") {
  TempDir directory;
  write_file(directory / "a.jsonl", json_lines(0, 3000, 900));
  write_file(directory / "b.jsonl.zst", zstd(json_lines(3000, 2000, 300)));
  std::map<std::string, std::string> first;
  for (const unsigned workers : {1u, 2u, 5u}) {
    auto options = options_for({directory.path().string()}, directory / "out");
    fs::remove_all(directory / "out");
    options.workers = workers;
    options.shard_tokens = 400'000;
    options.validation_fraction = 0.05;
    const ssa::TokenizeReport report = ssa::tokenize(options);
    CHECK(report.documents + report.validation_documents == 5000);
    CHECK(report.validation_documents > 150);
    CHECK(report.validation_documents < 350);
    const auto files = files_in(directory / "out");
    CHECK(files.count("train/shard-00005.bin") == 1);
    if (first.empty()) first = files;
    CHECK((files == first));
    ssa::Dataset(directory / "out/train").verify();
    ssa::Dataset(directory / "out/validation").verify();
  }
}

TEST_CASE("tokenize: all copies of a document are on the same side of the validation split") {
  TempDir directory;
  write_file(directory / "a.jsonl", json_lines(0, 300) + json_lines(0, 300));
  auto options = options_for({(directory / "a.jsonl").string()}, directory / "out");
  options.validation_fraction = 0.3;
  ssa::tokenize(options);
  const auto train = documents_in(directory / "out/train");
  const auto validation = documents_in(directory / "out/validation");
  CHECK(train.size() + validation.size() == 600);
  for (const std::string& document : validation) {
    CHECK(std::count(validation.begin(), validation.end(), document) == 2);
    CHECK(std::count(train.begin(), train.end(), document) == 0);
  }
}

TEST_CASE("tokenize: a job killed at 30 random moments continues and ends with the same bytes") {
  TempDir directory;
  write_file(directory / "a.jsonl", json_lines(0, 3000, 700) + "{broken\n" + json_lines(3000, 500, 700));
  write_file(directory / "b.jsonl.gz", gzip(json_lines(3500, 2000, 700)).substr(0, 600'000));
  write_file(directory / "c.jsonl", json_lines(5500, 1000, 700));
  auto options = options_for({directory.path().string()}, directory / "reference");
  options.shard_tokens = 100'000;
  options.validation_fraction = 0.1;
  options.on_error = ssa::OnError::quarantine;
  const auto begin = std::chrono::steady_clock::now();
  const ssa::TokenizeReport report = ssa::tokenize(options);
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
  CHECK(report.skipped == 2);
  const auto expected = files_in(directory / "reference");
  options.output = directory / "out";
  std::mt19937 random(3);
  for (int kills = 0; kills < 30;) {
    fs::remove_all(options.output);
    for (int attempt = 0; attempt < 4; ++attempt) {
      ssa::test::Forked job([&](const auto&) { ssa::tokenize(options); });
      std::this_thread::sleep_for(whole * static_cast<int>(random() % 100) / 100);
      job.kill(SIGKILL);
      job.wait();
      ++kills;
      if (fs::exists(options.output / "train/dataset.json") && !fs::exists(options.output / "job.json")) break;
    }
    if (!fs::exists(options.output / "train/dataset.json") || fs::exists(options.output / "job.json"))
      ssa::tokenize(options);
    CHECK((files_in(options.output) == expected));
  }
}

TEST_CASE("tokenize: a signal stops a job with its state saved, and the same options continue it") {
  TempDir directory;
  write_file(directory / "a.jsonl", json_lines(0, 20000, 700));
  const std::string command =
      (ssa::test::binary_dir() / "ssa_tokenize --quiet --tokenizer bytes --shard-tokens 1000000 ").string() +
      "--input " + (directory / "a.jsonl").string() + " --output ";
  REQUIRE(std::system((command + (directory / "whole").string() + " 2>/dev/null").c_str()) == 0);
  const std::string out = (directory / "out").string();
  // The signal is sent as soon as the first shard exists. A fast machine may have finished by then.
  const std::string stop =
      command + out + " 2>/dev/null & pid=$!; while ! [ -e " + out +
      "/shard-00000.bin ]; do kill -0 $pid 2>/dev/null || break; done; kill -TERM $pid 2>/dev/null; wait $pid";
  const int status = std::system(stop.c_str());
  REQUIRE(WIFEXITED(status));
  CHECK((WEXITSTATUS(status) == ssa::kExitStopped || WEXITSTATUS(status) == 0));
  if (WEXITSTATUS(status) == ssa::kExitStopped) {
    CHECK(fs::exists(directory / "out/job.json"));
    CHECK(std::system((command + out + " --max-documents 7 2>/dev/null").c_str()) / 256 == ssa::kExitUsage);
    CHECK(std::system((command + out + " 2>/dev/null").c_str()) == 0);
  }
  CHECK((files_in(out) == files_in(directory / "whole")));
}

TEST_CASE("ssa_tokenize: a FIFO is an input, and a signal ends the wait for its writer") {
  TempDir directory;
  REQUIRE(::mkfifo((directory / "in.jsonl").c_str(), 0600) == 0);
  const auto start = [&](const std::string& writer, const std::string& input) {
    const std::string program = (ssa::test::binary_dir() / "ssa_tokenize --quiet --tokenizer bytes").string();
    return ssa::test::Arguments{"/bin/bash", "-c", writer + " exec " + program + " --output out --input " + input};
  };
  const auto stops = [&](const std::string& writer, const std::string& input) {
    fs::remove_all(directory / "out");
    ssa::test::RunningProgram program(start(writer, input), {.directory = directory.path()});
    while (!fs::exists(directory / "out/job.json")) REQUIRE_FALSE(program.ends_within(0.01));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // in open() or read()
    program.kill(SIGTERM);
    REQUIRE(program.ends_within(20));
    const ssa::test::ProgramResult result = program.wait();
    CHECK(result.exit_code == ssa::kExitStopped);
    CHECK_THAT(result.err, ssa::test::has("stopped by a signal after document 0"));
  };
  stops("", "in.jsonl");                                                  // no writer
  stops("exec 0<>in.jsonl;", "-");                                        // one that writes nothing
  stops("exec 3<>in.jsonl; printf '{\"text\": \"a\"' >&3;", "in.jsonl");  // one that pauses within a line
  const auto done = ssa::test::run_program(start("(echo '{\"text\": \"a\"}' >in.jsonl) &", "in.jsonl"),
                                           {.directory = directory.path()});
  INFO(done.err);
  CHECK(done.exit_code == 0);
  CHECK(documents_in(directory / "out") == std::vector<std::string>{"a"});
  fs::rename(directory / "in.jsonl", directory / "in.parquet");
  ssa::test::check_fails(
      ssa::test::run_program({"ssa_tokenize", "--tokenizer", "bytes", "--input", "in.parquet", "--output", "other"},
                             {.directory = directory.path()}),
      ssa::kExitFailed, {"in.parquet: cannot read: is a FIFO, expected a regular file"});
}

namespace {

/// ssa_tokenize on a pipe that holds `bytes` and stays open and idle: the program itself holds its other end.
class OnIdlePipe {
 public:
  OnIdlePipe(const TempDir& directory, const std::string& bytes, const std::string& options)
      : program_(arguments(directory, bytes, options), {.directory = directory.path()}) {}
  void kill(int signal) { program_.kill(signal); }
  bool ends_within(double seconds) { return program_.ends_within(seconds); }
  ssa::test::ProgramResult end() { return program_.wait(20); }

 private:
  static ssa::test::Arguments arguments(const TempDir& directory, const std::string& bytes,
                                        const std::string& options) {
    write_file(directory / "bytes", bytes);
    fs::remove_all(directory / "out");
    fs::remove(directory / "pipe");
    const std::string program = (ssa::test::binary_dir() / "ssa_tokenize").string();
    return {"/bin/bash", "-c",
            "mkfifo pipe && exec 0<>pipe && cat bytes >&0 && exec " + program +
                " --quiet --tokenizer bytes --input - --output out " + options};
  }
  ssa::test::RunningProgram program_;
};

}  // namespace

TEST_CASE("ssa_tokenize: an idle input pipe does not delay the end of a job") {
  const TempDir directory;
  const std::string lines = json_lines(0, 40);
  write_file(directory / "a.jsonl", lines);
  auto options = options_for({(directory / "a.jsonl").string()}, directory / "whole");
  ssa::tokenize(options);
  options.output = directory / "ten";
  options.max_documents = 10;
  ssa::tokenize(options);

  for (const std::string& bytes : {lines, gzip(lines), zstd(lines), lines + "{\"text\": \"unfinished"}) {
    const ssa::test::ProgramResult result = OnIdlePipe(directory, bytes, "--max-documents 10").end();
    INFO(result.err);
    CHECK(result.exit_code == ssa::kExitDone);
    CHECK((files_in(directory / "out") == files_in(directory / "ten")));
  }
  ssa::test::check_fails(OnIdlePipe(directory, lines + "{\"text\": 5}\n", "").end(), ssa::kExitFailed,
                         {"-:41: field \"text\" is a number"});
  ssa::test::check_fails(OnIdlePipe(directory, "{\"text\": 5}\n", "").end(), ssa::kExitFailed,
                         {"-:1: field \"text\" is a number"});
  const ssa::test::ProgramResult text = OnIdlePipe(directory, std::string(100, 'a') + "\n\nb\n\nc",
                                                   "--max-documents 2 --input-format txt "
                                                   "--split-documents blank-line")
                                            .end();
  CHECK(text.exit_code == ssa::kExitDone);
  CHECK(documents_in(directory / "out") == std::vector<std::string>{std::string(100, 'a') + "\n", "b\n"});
}

TEST_CASE("ssa_tokenize: a signal ends the wait for an idle input pipe, and the job continues") {
  const TempDir directory;
  const std::string lines = json_lines(0, 40);
  write_file(directory / "a.jsonl", lines);
  ssa::tokenize(options_for({(directory / "a.jsonl").string()}, directory / "whole"));
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, lines.size() / 2}) {
    OnIdlePipe program(directory, lines.substr(0, bytes), "");
    while (!fs::exists(directory / "out/job.json")) REQUIRE_FALSE(program.ends_within(0.01));
    CHECK_FALSE(program.ends_within(0.5));  // the lines are tokenized, and the reader waits
    program.kill(SIGTERM);
    const ssa::test::ProgramResult result = program.end();
    CHECK(result.exit_code == ssa::kExitStopped);
    const auto documents = std::count(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(bytes), '\n');
    CHECK_THAT(result.err, ssa::test::has(ssa::concat("stopped by a signal after document ", documents, ";")));
    const std::string program_path = (ssa::test::binary_dir() / "ssa_tokenize").string();
    const auto rest = ssa::test::run_program(
        {"/bin/bash", "-c", "exec " + program_path + " --quiet --tokenizer bytes --input - --output out <a.jsonl"},
        {.directory = directory.path()});
    INFO(rest.err);
    CHECK(rest.exit_code == ssa::kExitDone);
    CHECK((files_in(directory / "out") == files_in(directory / "whole")));
  }
}

TEST_CASE("tokenize: a pipe that pauses gives the same dataset") {
  const TempDir directory;
  const std::string lines = "\n" + json_lines(0, 3000, 900);
  write_file(directory / "a.jsonl", lines);
  ssa::tokenize(options_for({(directory / "a.jsonl").string()}, directory / "whole"));
  const std::string program = (ssa::test::binary_dir() / "ssa_tokenize").string();
  // Pauses after the first byte, within lines, and between two reads of a megabyte.
  const auto result = ssa::test::run_program(
      {"/bin/bash", "-c",
       "{ head -c 1; sleep 0.3; head -c 50; sleep 0.3; head -c 1200000; sleep 0.3; cat; } <a.jsonl | " + program +
           " --quiet --tokenizer bytes --input - --output out"},
      {.directory = directory.path()});
  INFO(result.err);
  CHECK(result.exit_code == ssa::kExitDone);
  CHECK((files_in(directory / "out") == files_in(directory / "whole")));
  // What the first line is cannot be told from its first bytes.
  ssa::test::check_fails(ssa::test::run_program({"/bin/bash", "-c",
                                                 "{ echo; sleep 0.3; echo '<!DOCTYPE html>'; } | " + program +
                                                     " --quiet --tokenizer bytes --input - --output page"},
                                                {.directory = directory.path()}),
                         ssa::kExitFailed, {"HTML page"});
}

TEST_CASE("ByteSource: an input that opens and cannot be read leaves no file open") {
  const TempDir directory;
  const auto open_files = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  const auto before = open_files();
  check_error(error_of([&] { ssa::ByteSource source(directory.path()); }), directory.path().string(), "cannot read");
  CHECK(open_files() == before);
}

TEST_CASE("ssa_tokenize: a warning names the bytes that the tokenizer omits") {
  const TempDir directory;
  auto tokenizer =
      nlohmann::json::parse(ssa::read_file(ssa::test::source_dir() / "tests/tokenizer/gpt2.tokenizer.json"));
  auto& vocab = tokenizer["model"]["vocab"];
  vocab["another"] = vocab.at("\u010a");  // the byte 0x0A
  vocab.erase("\u010a");
  tokenizer["model"]["merges"] = nlohmann::json::array();
  write_file(directory / "tokenizer.json", tokenizer.dump());
  write_file(directory / "a.jsonl", "{\"text\": \"a\\nb\"}\n");
  const auto result = ssa::test::run_program(
      {"ssa_tokenize", "--quiet", "--tokenizer", "tokenizer.json", "--input", "a.jsonl", "--output", "out"},
      {.directory = directory.path()});
  CHECK(result.exit_code == ssa::kExitDone);
  CHECK_THAT(result.err, ssa::test::has("warning: tokenizer tokenizer.json has no token for byte(s) 0x0a, and no "
                                        "unk_token: texts lose them, as in Hugging Face tokenizers\n"));
}

TEST_CASE("tokenize: a bad record is reported with file and row under fail, skip and quarantine") {
  TempDir directory;
  const std::string path = (directory / "a.jsonl").string();
  write_file(
      path,
      "{\"text\": \"good\"}\n{\"text\": 5}\n\n{\"title\": \"x\"}\n{\"text\": \"cut\n{\"text\": null}\n{\"text\": "
      "\"\"}\n{\"text\": \"b\xff\xfe"
      "d\"}\n{\"text\": \"\\ud800\"}\n");
  auto options = options_for({path}, directory / "fail");
  check_error(error_of([&] { ssa::tokenize(options); }), path + ":2: field \"text\" is a number, expected a string");

  options = options_for({path}, directory / "skip");
  options.on_error = ssa::OnError::skip;
  const ssa::TokenizeReport report = ssa::tokenize(options);
  CHECK(report.documents == 3);
  CHECK(report.skipped == 4);
  CHECK(report.empty == 1);
  CHECK(report.replaced == 3);
  CHECK(documents_in(directory / "skip") == std::vector<std::string>{"good", "b\uFFFD\uFFFDd", "\uFFFD"});
  CHECK_FALSE(fs::exists(directory / "skip/quarantine.jsonl"));

  options = options_for({path}, directory / "quarantine");
  options.on_error = ssa::OnError::quarantine;
  ssa::tokenize(options);
  CHECK(documents_in(directory / "quarantine") == documents_in(directory / "skip"));
  const std::string kept = ssa::read_file(directory / "quarantine/quarantine.jsonl");
  CHECK(std::count(kept.begin(), kept.end(), '\n') == 4);
  const auto first = nlohmann::json::parse(kept.substr(0, kept.find('\n')));
  CHECK(first == nlohmann::json{{"file", path},
                                {"row", 2},
                                {"error", "field \"text\" is a number, expected a string"},
                                {"record", "{\"text\": 5}"}});
}

TEST_CASE("tokenize: a job that a bad record ended continues with --on-error skip") {
  TempDir directory;
  write_file(directory / "a.jsonl", json_lines(0, 300, 100) + "{\"text\": 5}\n" + json_lines(300, 300, 100));
  auto options = options_for({(directory / "a.jsonl").string()}, directory / "out");
  check_error(error_of([&] { ssa::tokenize(options); }), "a.jsonl:301: field \"text\" is a number");
  options.on_error = ssa::OnError::skip;
  const ssa::TokenizeReport report = ssa::tokenize(options);
  CHECK(report.documents == 600);
  CHECK(report.skipped == 1);
  options.output = directory / "at-once";
  ssa::tokenize(options);
  CHECK((files_in(directory / "out") == files_in(directory / "at-once")));
}

TEST_CASE("tokenize: an interrupted job does not continue with another version of an input") {
  TempDir directory;
  const std::string lines = json_lines(0, 30, 100);
  const fs::path file = directory / "a.jsonl";
  write_file(file, lines + "{\"text\": 5}\n");
  auto options = options_for({file.string()}, directory / "out");
  check_error(error_of([&] { ssa::tokenize(options); }), "a.jsonl:31");
  options.on_error = ssa::OnError::skip;
  const auto written = fs::last_write_time(file);
  const std::string state = ssa::read_file(directory / "out/job.json");
  const std::string size = std::to_string(fs::file_size(file));

  std::string other = lines + "{\"text\": 5}\n";
  std::replace(other.begin(), other.end(), 'm', 'n');
  write_file(file, other);  // of the same size
  fs::last_write_time(file, written + std::chrono::nanoseconds(1));
  REQUIRE(std::to_string(fs::file_size(file)) == size);
  check_error(error_of([&] { ssa::tokenize(options); }), "out/job.json: input ", file.string(),
              " of the interrupted job was " + size + " bytes written at 20", " UTC, is now " + size + " bytes",
              "expected the same file", "or another --output");
  write_file(file, lines + "{\"text\": 5}\n");
  fs::last_write_time(file, written);
  options.input.files.push_back(file);
  check_error(error_of([&] { ssa::tokenize(options); }),
              "job.json: input 2 of the interrupted job is none, of this one ", file.string(),
              "expected the same, or another --output");
  options.input.files.pop_back();

  auto job = nlohmann::ordered_json::parse(state);
  auto& input = job["settings"]["inputs"][0];
  REQUIRE(input.size() == 4);
  input = {input[0], input[1]};
  write_file(directory / "out/job.json", job.dump());
  check_error(error_of([&] { ssa::tokenize(options); }), "job.json: an earlier version wrote it, without the times",
              file.string(), "expected another --output, or remove the directory to start again");
  write_file(directory / "out/job.json", state);
  CHECK(ssa::tokenize(options).documents == 30);
}

TEST_CASE("ssa_tokenize: a job whose output is in its input directory continues") {
  TempDir directory;
  fs::create_directories(directory / "in");
  write_file(directory / "in/a.jsonl", json_lines(0, 20) + "bad\n");
  REQUIRE(::mkfifo((directory / "pipe.jsonl").c_str(), 0600) == 0);
  const auto job = [&](const std::string& first, const std::string& last) {
    return ssa::test::Arguments{"/bin/bash", "-c",
                                first + " exec " + (ssa::test::binary_dir() / "ssa_tokenize").string() +
                                    " --quiet --tokenizer bytes --input in pipe.jsonl --output in/out "
                                    "--on-error quarantine --shard-tokens 100 " +
                                    last};
  };
  ssa::test::RunningProgram program(job("exec 3<>pipe.jsonl;", ""), {.directory = directory.path()});
  while (!fs::exists(directory / "in/out/quarantine.jsonl")) REQUIRE_FALSE(program.ends_within(0.01));
  program.kill(SIGTERM);
  CHECK(program.wait(20).exit_code == ssa::kExitStopped);
  const auto rest = ssa::test::run_program(job("(echo '{\"text\": \"last\"}' >pipe.jsonl) &", "2>&1"),
                                           {.directory = directory.path()});
  INFO(rest.out);
  CHECK(rest.exit_code == ssa::kExitDone);
  CHECK_THAT(rest.out, ssa::test::has("--input in: passed over 1 directory of the output: in/out\n"));
  CHECK(documents_in(directory / "in/out").size() == 21);
}

TEST_CASE("tokenize: the name of an input need not be UTF-8") {
  TempDir directory;
  const fs::path file = directory / "caf\xe9.jsonl";
  write_file(file, json_lines(0, 3) + "bad\n");
  auto options = options_for({file.string()}, directory / "out");
  check_error(error_of([&] { ssa::tokenize(options); }), ".jsonl:4: malformed JSON");
  options.on_error = ssa::OnError::quarantine;
  CHECK(ssa::tokenize(options).documents == 3);
}

TEST_CASE("FileVersion: times before 1970 and beyond what 64 bits of nanoseconds hold") {
  const auto text = [](std::int64_t seconds, std::int64_t nanoseconds) {
    return to_string(ssa::FileVersion{.bytes = 7, .seconds = seconds, .nanoseconds = nanoseconds});
  };
  CHECK(text(-1, 500'000'000) == "7 bytes written at 1969-12-31 23:59:59.500000000 UTC");
  CHECK(text(13'569'465'600, 1) == "7 bytes written at 2400-01-01 00:00:00.000000001 UTC");
}

TEST_CASE("ssa_tokenize: an input that changes after the job began is an error") {
  TempDir directory;
  for (const bool replaced : {false, true}) {
    INFO(replaced);
    fs::remove_all(directory / "out");
    fs::remove(directory / "gate.jsonl");
    REQUIRE(::mkfifo((directory / "gate.jsonl").c_str(), 0600) == 0);
    write_file(directory / "a.jsonl", json_lines(0, 10));
    // The job waits for the writer of the first input, while the second one changes.
    ssa::test::RunningProgram program(
        {"ssa_tokenize", "--quiet", "--tokenizer", "bytes", "--input", "gate.jsonl", "a.jsonl", "--output", "out"},
        {.directory = directory.path()});
    while (!fs::exists(directory / "out/job.json")) REQUIRE_FALSE(program.ends_within(0.01));
    write_file(directory / (replaced ? "b.jsonl" : "a.jsonl"), json_lines(0, 11));
    if (replaced) fs::rename(directory / "b.jsonl", directory / "a.jsonl");
    write_file(directory / "gate.jsonl", "{\"text\": \"go\"}\n");
    ssa::test::check_fails(program.wait(20), ssa::kExitFailed,
                           {"a.jsonl:12: changed after the job began: ", " bytes written at ", " UTC, now ",
                            "expected inputs that stay as they are"});
  }
}

TEST_CASE("tokenize: a damaged job.json is an error that says how to start again") {
  TempDir directory;
  write_file(directory / "a.jsonl", json_lines(0, 30, 100) + "{\"text\": 5}\n");
  auto options = options_for({(directory / "a.jsonl").string()}, directory / "out");
  check_error(error_of([&] { ssa::tokenize(options); }), "a.jsonl:31");
  const std::string state = ssa::read_file(directory / "out/job.json");
  for (const std::string& damaged :
       {state.substr(0, state.size() / 2), std::string("{\"settings\": {}}"), std::string()}) {
    write_file(directory / "out/job.json", damaged);
    check_error(error_of([&] { ssa::tokenize(options); }), "job.json: ", "; remove the directory to start again");
  }
}

TEST_CASE("tokenize: a damaged compressed file keeps the documents before the damage") {
  TempDir directory;
  const std::string lines = json_lines(0, 2000, 200);
  for (const bool use_gzip : {true, false}) {
    const std::string name = use_gzip ? "a.jsonl.gz" : "a.jsonl.zst";
    const std::string packed = use_gzip ? gzip(lines) : zstd(lines);
    const std::string path = (directory / name).string();
    write_file(path, packed.substr(0, packed.size() / 2));
    write_file(directory / "b.jsonl", "{\"text\": \"after\"}\n");
    auto options = options_for({path, (directory / "b.jsonl").string()}, directory / (name + ".fail"));
    check_error(error_of([&] { ssa::tokenize(options); }), path, "truncated");
    options.output = directory / (name + ".skip");
    options.on_error = ssa::OnError::skip;
    const ssa::TokenizeReport report = ssa::tokenize(options);
    CHECK(report.skipped == 1);
    CHECK(report.documents > 100);  // those before the damage
    CHECK(report.documents < 2000);
    CHECK(documents_in(options.output).back() == "after");

    std::string flipped = packed;
    flipped[packed.size() / 2] = static_cast<char>(flipped[packed.size() / 2] ^ 0x10);
    write_file(path, flipped);
    options.output = directory / (name + ".flipped");
    options.on_error = ssa::OnError::fail;
    check_error(error_of([&] { ssa::tokenize(options); }), path);
  }
}

TEST_CASE("tokenize: Zstandard with the longest window") {
  TempDir directory;
  // One frame: magic, a header that asks for a window of 2 GiB, a raw last block.
  const std::string line = "{\"text\": \"long\"}\n";
  std::string frame("\x28\xb5\x2f\xfd\x00\xa8", 6);
  const std::size_t header = line.size() << 3 | 1;
  for (int i = 0; i < 3; ++i) frame += static_cast<char>(header >> 8 * i & 255);
  write_file(directory / "a.jsonl.zst", frame + line);
  write_file(directory / "b.jsonl.zst", zstd("{\"text\": \"28\"}\n", 28));
  ssa::tokenize(options_for({directory.path().string()}, directory / "out"));
  CHECK(documents_in(directory / "out") == std::vector<std::string>{"long", "28"});
}

TEST_CASE("tokenize: Zstandard with frames that are skipped, as pzstd writes them") {
  TempDir directory;
  const auto skipped = [](char kind, const std::string& bytes) {
    return std::string{kind, '\x2a', '\x4d', '\x18', static_cast<char>(bytes.size()), 0, 0, 0} + bytes;
  };
  const std::string lines = json_lines(0, 200);
  write_file(directory / "a.jsonl", lines);
  ssa::tokenize(options_for({(directory / "a.jsonl").string()}, directory / "plain"));
  const std::string packed = skipped('\x50', std::string("\x28\0\0\0", 4)) + zstd(lines.substr(0, 1000)) +
                             skipped('\x5f', "") + skipped('\x53', "{\"text\": 5}\n") + zstd(lines.substr(1000));
  write_file(directory / "b.jsonl.zst", packed);
  ssa::tokenize(options_for({(directory / "b.jsonl.zst").string()}, directory / "packed"));
  CHECK((documents_in(directory / "packed") == documents_in(directory / "plain")));
  write_file(directory / "c.txt.zst", skipped('\x50', "abcdef").substr(0, 11));
  check_error(error_of([&] { ssa::tokenize(options_for({(directory / "c.txt.zst").string()}, directory / "cut")); }),
              "c.txt.zst", "zstd stream ends in the middle");
  write_file(directory / "d.txt", "P*M\x19 is a text");
  ssa::tokenize(options_for({(directory / "d.txt").string()}, directory / "text"));
  CHECK(documents_in(directory / "text") == std::vector<std::string>{"P*M\x19 is a text"});
}

TEST_CASE("tokenize: a compressed file of 0 bytes is an error") {
  TempDir directory;
  write_file(directory / "a.jsonl", json_lines(0, 2));
  for (const char* name : {"b.jsonl.gz", "b.txt.zst"}) {
    write_file(directory / name, "");
    auto options = options_for({directory.path().string()}, directory / "out");
    check_error(error_of([&] { ssa::tokenize(options); }), name, "0 bytes, expected a compressed file");
    options.on_error = ssa::OnError::skip;
    const ssa::TokenizeReport report = ssa::tokenize(options);
    CHECK(report.documents == 2);
    CHECK(report.skipped == 1);
    fs::remove(directory / name);
    fs::remove_all(directory / "out");
  }
  write_file(directory / "b.jsonl.gz", gzip(""));
  write_file(directory / "b.jsonl.zst", zstd(""));
  write_file(directory / "c.jsonl", "");
  CHECK(ssa::tokenize(options_for({directory.path().string()}, directory / "out")).documents == 2);
}

TEST_CASE("tokenize: .json and .ndjson hold JSON lines, and other JSON is named") {
  TempDir directory;
  write_file(directory / "a.json", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
  write_file(directory / "b.json.gz", gzip("{\"text\": \"three\", \"score\": NaN}\n"));
  write_file(directory / "c.ndjson", "{\"text\": \"four\"}\n");
  write_file(directory / "d.ndjson.zst", zstd("{\"text\": \"five\"}"));
  write_file(directory / "e.json.zst", zstd("{\"text\": \"six\"}"));
  const std::vector<std::string> expected = {"one", "two", "three", "four", "five", "six"};
  ssa::tokenize(options_for({directory.path().string()}, directory / "out"));
  CHECK(documents_in(directory / "out") == expected);
  const auto error = [&](const char* name, const std::string& content) {
    write_file(directory / name, content);
    fs::remove_all(directory / "bad");
    return error_of([&] { ssa::tokenize(options_for({(directory / name).string()}, directory / "bad")); });
  };
  check_error(error("array.json", " [\n{\"text\": \"a\"}]"), "array.json", "JSON array", "JSON lines");
  check_error(error("object.json", "{\n \"text\": \"a\"\n}\n"), "object.json", "over several lines", "JSON lines");
}

TEST_CASE("tokenize: what is passed over in a directory is said") {
  TempDir directory;
  fs::create_directories(directory / "in/.cache");
  fs::create_directories(directory / "in/__MACOSX");
  fs::create_directories(directory / "in/sub");
  write_file(directory / "in/sub/a.jsonl", "{\"meta\": {\"body\": \"good\"}}\n");
  write_file(directory / "in/b.json", "{\"meta\": {\"body\": \"too\"}}\n");
  write_file(directory / "in/._a.jsonl", std::string("\0\5\x16\7", 4));
  write_file(directory / "in/.DS_Store", "x");
  write_file(directory / "in/.cache/c.jsonl", "{\"meta\": {\"body\": \"bad\"}}\n");
  write_file(directory / "in/__MACOSX/d.jsonl", "{\"meta\": {\"body\": \"bad\"}}\n");
  write_file(directory / "in/README.md", "x");
  write_file(directory / "in/dataset_info.json", "{\"features\": 1}\n");
  const auto made = ssa::test::run_program({"ssa_tokenize", "--quiet", "--tokenizer", "bytes", "--text-field",
                                            "meta.body", "--input", "in", "--output", "out"},
                                           {.directory = directory.path()});
  INFO(made.err);
  REQUIRE(made.exit_code == 0);
  CHECK(documents_in(directory / "out") == std::vector<std::string>{"too", "good"});
  CHECK(made.err.find("--input in: passed over 4 hidden file(s): in/.DS_Store, ...\n") != std::string::npos);
  CHECK(made.err.find("--input in: passed over 1 file(s) of other kinds: in/README.md\n") != std::string::npos);
  CHECK(made.err.find("passed over 1 .json file(s) whose first line is no object with a field \"meta.body\": "
                      "in/dataset_info.json\n") != std::string::npos);
}

TEST_CASE("tokenize: a damaged .json file in a directory is an error and is not passed over") {
  TempDir directory;
  write_file(directory / "a.jsonl", json_lines(0, 3));
  write_file(directory / "b.json.gz", gzip(json_lines(3, 2000)).substr(0, 30000));
  write_file(directory / "c.json.zst", zstd(json_lines(2003, 1)).substr(0, 20));
  TempDir out;
  auto options = options_for({directory.path().string()}, out / "out");
  check_error(error_of([&] { ssa::tokenize(options); }), "b.json.gz", "truncated");
  options.on_error = ssa::OnError::skip;
  const ssa::TokenizeReport report = ssa::tokenize(options);
  CHECK(report.skipped == 2);
  CHECK(report.documents > 3);  // those before the damage
}

TEST_CASE("tokenize: links in a directory are followed, and what they lead to is read once") {
  TempDir directory;
  const auto write = [&](const char* name) {
    fs::create_directories((directory / name).parent_path());
    write_file(directory / name, ssa::concat("{\"text\": \"", name, "\"}\n"));
  };
  const auto link = [&](const char* target, const char* name) { fs::create_symlink(target, directory / name); };
  for (const char* name : {"in/v1/a.jsonl", "in/x.jsonl/part.jsonl", "in/z.jsonl", "store/b.jsonl",
                           "store/deep/c.jsonl", "store/blob", "other/d.jsonl"})
    write(name);
  fs::create_hard_link(directory / "in/z.jsonl", directory / "in/zz.jsonl");  // a file of its own
  link("../store", "in/web");
  link("../../other", "store/deep/more");  // behind a link
  link("../store/blob", "in/y.jsonl");
  link("v1", "in/latest");  // the others lead to what is read
  link(".", "in/self");
  link("z.jsonl", "in/a.jsonl");
  link("../store/deep", "in/xdeep");
  link("..", "store/deep/back");
  link("../gone", "in/README");
  link("../..", "in/v1/.hidden");
  const auto made =
      ssa::test::run_program({"ssa_tokenize", "--quiet", "--tokenizer", "bytes", "--input", "in", "--output", "out"},
                             {.directory = directory.path()});
  INFO(made.err);
  REQUIRE(made.exit_code == 0);
  CHECK(documents_in(directory / "out") ==
        std::vector<std::string>{"in/v1/a.jsonl", "store/b.jsonl", "store/deep/c.jsonl", "other/d.jsonl",
                                 "in/x.jsonl/part.jsonl", "store/blob", "in/z.jsonl", "in/z.jsonl"});
  CHECK_THAT(made.err,
             ssa::test::has("--input in: passed over 5 name(s) of what is read under another name: in/a.jsonl, ...\n"));
  CHECK_THAT(made.err, ssa::test::has("--input in: passed over 1 link(s) that lead nowhere: in/README\n"));
  CHECK_THAT(made.err, ssa::test::has("--input in: passed over 1 hidden file(s): in/v1/.hidden\n"));
}

TEST_CASE("tokenize: a link or file in a directory that has an input's name and cannot be read is an error") {
  TempDir directory;
  fs::create_directories(directory / "up/in/sub");
  const fs::path in = directory / "up/in";
  write_file(in / "a.jsonl", "{\"text\": \"a\"}\n");
  const auto error = [&](const fs::path& input) { return error_of([&] { ssa::expand_inputs({input.string()}); }); };
  const auto with_link = [&](const char* target, const char* name) {
    fs::create_symlink(target, in / name);
    const std::string result = error(in);
    fs::remove(in / name);
    return result;
  };
  check_error(with_link("gone.jsonl", "sub/c.jsonl.gz"), "in/sub/c.jsonl.gz is a link to gone.jsonl, where no file is",
              "expected one");
  check_error(with_link("c.txt", "c.txt"), "in/c.txt is a link to c.txt, where no file is");
  check_error(with_link("..", "up"), "in/up is a link to .., a directory that the link is in", "expected no loop");
  check_error(with_link("../..", "sub/up"), "in/sub/up is a link to ../.., a directory that the link is in");
  check_error(with_link("/dev/null", "null.txt"), "in/null.txt is a character device, expected a regular file");
  CHECK(with_link("..", "sub/up") == "");  // it is read
  REQUIRE(::mkfifo((in / "pipe.json").c_str(), 0600) == 0);
  check_error(error(in), "in/pipe.json is a FIFO, expected a regular file");
  fs::remove(in / "pipe.json");
  fs::create_symlink("gone", directory / "dangling.jsonl");
  check_error(error(directory / "dangling.jsonl"), "dangling.jsonl: a link to gone, where no file is");
  check_error(error(directory / "*.jsonl"), "dangling.jsonl: a link to gone, where no file is");
  fs::create_symlink("/dev/null", directory / "null.txt");
  check_error(error(directory / "null.txt"), "null.txt: is a character device, expected a regular file");
  CHECK(ssa::expand_inputs({(directory / "up/*").string()}) == std::vector<fs::path>{in / "a.jsonl"});
}

TEST_CASE("tokenize: the programs say that a job is not finished, where a split is, and that a tokenizer is another") {
  TempDir directory;
  std::string lines;
  for (int i = 0; i < 50; ++i) lines += ssa::concat("{\"text\": \"text ", i, "\"}\n");
  write_file(directory / "a.jsonl", lines + "broken\n");
  const auto run = [&](ssa::test::Arguments command) {
    return ssa::test::run_program(command, {.directory = directory.path()});
  };
  ssa::test::Arguments job = {
      "ssa_tokenize",   "--quiet", "--tokenizer",           "bytes", "--input", "a.jsonl", "--output", "out",
      "--shard-tokens", "9",       "--validation-fraction", "0.3"};
  REQUIRE(run(job).exit_code == 1);
  REQUIRE(fs::exists(directory / "out/train/shard-00000.idx"));
  for (const char* place : {"out", "out/train"})
    ssa::test::check_fails(run({"ssa_inspect", place}), 1, {place, "the ssa_tokenize job of ", "is not finished"});
  job.insert(job.end(), {"--on-error", "skip"});
  REQUIRE(run(job).exit_code == 0);
  CHECK(run({"ssa_inspect", "out/train"}).exit_code == 0);
  ssa::test::check_fails(run({"ssa_inspect", "out"}), 1, {"did you mean out/train?"});

  const std::string other = (ssa::test::source_dir() / "tests/tokenizer/gpt2.tokenizer.json").string();
  CHECK(run({"ssa_tokenize", "--tokenizer", "bytes", "--decode", "out/train"}).exit_code == 0);
  ssa::test::check_fails(run({"ssa_tokenize", "--tokenizer", other, "--decode", "out/train"}), 2,
                         {"gpt2.tokenizer.json: out/train was made with tokenizer bytes (sha256 "});
  ssa::test::check_fails(run({"ssa_tokenize", "--tokenizer", "bytes", "--decode", "out/train", "--output", "text"}), 2,
                         {"--decode excludes --output"});
}

TEST_CASE("ssa_tokenize: an option without an effect is an error that names it") {
  TempDir directory;
  write_file(directory / "a.txt", "text\n");
  write_file(directory / "b.jsonl", "{\"text\": \"text\"}\n");
  const auto fails = [&](ssa::test::Arguments more, const char* part) {
    more.insert(more.begin(), {"ssa_tokenize", "--tokenizer", "bytes"});
    ssa::test::check_fails(ssa::test::run_program(more, {.directory = directory.path()}), ssa::kExitUsage, {part});
  };
  fails({"--decode", "out", "--workers", "2"}, "--decode excludes --workers");
  fails({"--decode", "out", "--text-field", "text"}, "--decode excludes --text-field");
  fails({"--decode", "out", "--special-tokens", "text"}, "--decode excludes --special-tokens");
  const ssa::test::Arguments text = {"--input", "a.txt", "--output", "out"};
  const ssa::test::Arguments records = {"--input", "b.jsonl", "--output", "out"};
  const auto with = [](ssa::test::Arguments arguments, const char* option, const char* value) {
    arguments.insert(arguments.end(), {option, value});
    return arguments;
  };
  fails(with(text, "--input-format", "txt"), "--input-format needs --input -");
  fails(with(text, "--text-field", "text"), "--text-field needs an --input of records");
  fails(with(text, "--conversations-field", "turns"), "--conversations-field needs an --input of records");
  fails(with(records, "--split-documents", "blank-line"), "--split-documents blank-line needs an --input of text");
  CHECK_FALSE(fs::exists(directory / "out"));
}

TEST_CASE("tokenize: a byte-order mark is no text, and that of another encoding is named") {
  TempDir directory;
  write_file(directory / "a.txt", "\xef\xbb\xbfwhole");
  write_file(directory / "b.jsonl", "\xef\xbb\xbf{\"text\": \"line\"}\n");
  write_file(directory / "c.txt.gz", gzip("\xef\xbb\xbfpacked"));
  ssa::tokenize(options_for({directory.path().string()}, directory / "out"));
  CHECK(documents_in(directory / "out") == std::vector<std::string>{"whole", "line", "packed"});
  write_file(directory / "d.txt", "\xef\xbb\xbf\none\n\ntwo\n");
  auto options = options_for({(directory / "d.txt").string()}, directory / "blank");
  options.input.split_blank_lines = true;
  ssa::tokenize(options);
  CHECK(documents_in(directory / "blank") == std::vector<std::string>{"one\n", "two\n"});
  using namespace std::string_literals;
  for (const auto& [name, bytes, encoding] :
       {std::tuple{"u16.txt", "\xff\xfe"s + "a\0"s, "UTF-16"}, std::tuple{"be.txt", "\xfe\xff\0a"s, "UTF-16"},
        std::tuple{"u16.jsonl", "\xff\xfe{\0\n\0"s, "UTF-16"},
        std::tuple{"u32.txt", "\xff\xfe\0\0a\0\0\0"s, "UTF-32"}}) {
    const fs::path file = directory / name;
    write_file(file, bytes);
    fs::remove_all(directory / "bad");
    check_error(error_of([&] { ssa::tokenize(options_for({file.string()}, directory / "bad")); }), name, encoding,
                "expected UTF-8");
  }
}

TEST_CASE("tokenize: a file that is no text is named for what it is, whatever its name") {
  const TempDir directory;
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
  for (const auto& [name, bytes, kind] :
       {std::tuple{"a.txt", pointer, "Git LFS pointer"}, std::tuple{"a.jsonl", pointer, "Git LFS pointer"},
        std::tuple{"b.txt", std::string("%PDF-1.4\n"), "PDF"}, std::tuple{"c.txt", std::string("h\0i\0", 4), "UTF-16"},
        std::tuple{"d.jsonl", std::string("<!DOCTYPE html>"), "HTML page"},
        std::tuple{"e.jsonl.gz", gzip(gzip("{\"text\": \"a\"}\n")), "gzip"}}) {
    write_file(directory / name, bytes);
    for (const bool blank_lines : {false, true}) {
      fs::remove_all(directory / "out");
      auto options = options_for({(directory / name).string()}, directory / "out");
      options.input.split_blank_lines = blank_lines;
      check_error(error_of([&] { ssa::tokenize(options); }), name, kind, "expected ");
    }
  }
  using namespace std::string_literals;
  for (const auto& [name, bytes, nul] :
       {std::tuple{"f.txt", "a\0b"s, "byte 2 is NUL"},
        std::tuple{"g.txt.gz", gzip("\n \nsome\0text\n\n"s), "byte 8 is NUL"},
        std::tuple{"h.txt", "\xef\xbb\xbf" + std::string(7000, 'a') + "\n\0"s, "byte 7005 is NUL"},
        std::tuple{"i.txt", "hello\0\0\0w\0\0\0\n\n"s, "byte 6 is NUL"}}) {
    write_file(directory / name, bytes);
    for (const bool blank_lines : {false, true}) {
      fs::remove_all(directory / "out");
      auto options = options_for({(directory / name).string()}, directory / "out");
      options.input.split_blank_lines = blank_lines;
      check_error(error_of([&] { ssa::tokenize(options); }), name, nul, "expected text in UTF-8");
    }
  }
  write_file(directory / "page.txt", "<!DOCTYPE html>");  // a text
  fs::remove_all(directory / "out");
  ssa::tokenize(options_for({(directory / "page.txt").string()}, directory / "out"));
  CHECK(documents_in(directory / "out") == std::vector<std::string>{"<!DOCTYPE html>"});
  write_file(directory / "nul.jsonl", "{\"text\": \"\\u0000 escaped\"}\n");  // so is a NUL that JSON escapes
  write_file(directory / "late.txt", std::string(100000, 'a') + '\0');
  fs::remove_all(directory / "out");
  ssa::tokenize(
      options_for({(directory / "nul.jsonl").string(), (directory / "late.txt").string()}, directory / "out"));
  CHECK(documents_in(directory / "out") == std::vector<std::string>{"\0 escaped"s, std::string(100000, 'a') + '\0'});
}

TEST_CASE("tokenize: the messages of a conversation are joined by a blank line") {
  TempDir directory;
  write_file(directory / "a.jsonl",
             "{\"messages\": [{\"content\": \"Hi\"}, {\"content\": \"Ho\"}]}\n"
             "{\"messages\": [{\"from\": \"human\", \"value\": \"Hi\"}, {\"role\": \"tool\"}]}\n"
             "{\"messages\": null}\n{\"messages\": \"plain\"}\n");
  auto options = options_for({(directory / "a.jsonl").string()}, directory / "out");
  options.input.field = "messages";
  options.input.field_kind = ssa::FieldKind::conversation;
  const ssa::TokenizeReport report = ssa::tokenize(options);
  CHECK(documents_in(directory / "out") == std::vector<std::string>{"Hi\n\nHo", "Hi", "plain"});
  CHECK(report.messages_without_text == 1);
  CHECK(report.empty == 1);
}

TEST_CASE("tokenize: a chat template needs its special tokens and JSON lines") {
  TempDir directory;
  write_file(directory / "a.jsonl",
             R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})");
  auto tokenizer =
      nlohmann::json::parse(ssa::read_file(ssa::test::source_dir() / "tests/tokenizer/qwen2.tokenizer.json"));
  for (const auto& [content, id] : {std::pair{"<|im_start|>", 647}, std::pair{"<|im_end|>", 648}})
    tokenizer["added_tokens"].push_back({{"content", content}, {"id", id}, {"special", true}});
  write_file(directory / "tokenizer.json", tokenizer.dump());
  auto options = options_for({(directory / "a.jsonl").string()}, directory / "out");
  options.input.field = "messages";
  options.input.field_kind = ssa::FieldKind::conversation;
  options.input.chat = ssa::chat_template("chatml");
  const auto error = [&] { return error_of([&] { ssa::tokenize(options); }); };
  check_error(error(), "--chat-template chatml: tokenizer bytes has no token <|im_start|>");
  options.tokenizer = (directory / "tokenizer.json").string();
  options.special_as_text = true;
  check_error(error(), "--chat-template chatml", "--special-tokens text");
  options.special_as_text = false;
  write_file(directory / "b.txt", "text");
  options.input.files.push_back(directory / "b.txt");
  check_error(error(), "--chat-template chatml", "b.txt is not supported, expected JSON lines");
  CHECK(!fs::exists(directory / "out"));
  options.input.files.pop_back();
  ssa::tokenize(options);
  const ssa::Dataset dataset(directory / "out");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(dataset.shards()[0].length(0)));
  dataset.shards()[0].read(0, 0, ids);
  CHECK(ids.front() == 647);
  CHECK(std::count(ids.begin(), ids.end(), 647) == 2);
  CHECK(std::count(ids.begin(), ids.end(), 648) == 2);
  CHECK(ids.back() == 640);

  // A job continues with the same template only.
  write_file(directory / "a.jsonl", ssa::read_file(directory / "a.jsonl") + "\n{\"messages\": 5}\n");
  options.output = directory / "interrupted";
  check_error(error(), "a.jsonl:2: field \"messages\" is a number, expected a list of messages");
  options.input.chat = nullptr;
  check_error(error(), "job.json: the interrupted job has chat_template \"chatml\", this one null");
}

TEST_CASE("tokenize: a chat template that writes the end of text gets no second one") {
  TempDir directory;
  write_file(directory / "a.jsonl",
             "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n"
             "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, "
             "{\"role\": \"assistant\", \"content\": \"b\"}]}\n");
  auto tokenizer =
      nlohmann::json::parse(ssa::read_file(ssa::test::source_dir() / "tests/tokenizer/qwen2.tokenizer.json"));
  int id = 647;  // the next free one
  for (const char* content : {"<s>", "[INST]", "[/INST]", "</s>"})
    tokenizer["added_tokens"].push_back({{"content", content}, {"id", id++}, {"special", true}});
  write_file(directory / "tokenizer.json", tokenizer.dump());
  auto options = options_for({(directory / "a.jsonl").string()}, directory / "out");
  options.tokenizer = (directory / "tokenizer.json").string();
  options.tokenizer_options.eos_token = "</s>";
  options.input.field = "messages";
  options.input.field_kind = ssa::FieldKind::conversation;
  options.input.chat = ssa::chat_template("mistral-v3-tekken");
  ssa::tokenize(options);
  const ssa::Dataset dataset(directory / "out");
  for (const std::int64_t document : {0, 1}) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(dataset.shards()[0].length(document)));
    dataset.shards()[0].read(document, 0, ids);
    CHECK(ids.back() == 650);
    CHECK(std::count(ids.begin(), ids.end(), 650) == 1);
  }
}

TEST_CASE("tokenize: dataset.json records the Unicode version on which the ids depend") {
  TempDir directory;
  write_file(directory / "a.txt", "one");
  for (const bool bytes : {true, false}) {
    auto options = options_for({(directory / "a.txt").string()}, directory / (bytes ? "bytes" : "gpt2"));
    if (!bytes) options.tokenizer = (ssa::test::source_dir() / "tests/tokenizer/gpt2.tokenizer.json").string();
    ssa::tokenize(options);
    const auto file = nlohmann::json::parse(ssa::read_file(options.output / "dataset.json"));
    CHECK(file["tokenizer"].value("unicode", "none") == (bytes ? "none" : "16.0"));
  }
}

TEST_CASE("tokenize: max_documents is kept, and unusable inputs and outputs are errors") {
  TempDir directory;
  const std::string path = (directory / "a.jsonl").string();
  write_file(path, json_lines(0, 5000) + "broken\n");
  auto options = options_for({path}, directory / "out");
  options.max_documents = 123;
  CHECK(ssa::tokenize(options).documents == 123);
  CHECK(documents_in(directory / "out").size() == 123);
  check_error(error_of([&] { ssa::tokenize(options); }), (directory / "out").string(), "finished dataset");
  fs::create_directories(directory / "other");
  write_file(directory / "other/x", "x");
  options.output = directory / "other";
  check_error(error_of([&] { ssa::tokenize(options); }), "not empty (x)");

  write_file(directory / "empty.jsonl", "{\"text\": \"\"}\n");
  options = options_for({(directory / "empty.jsonl").string()}, directory / "none");
  check_error(error_of([&] { ssa::tokenize(options); }), "no document");
  check_error(error_of([&] { ssa::expand_inputs({(directory / "missing.txt").string()}); }), "missing.txt");
  check_error(error_of([&] { ssa::tokenize(options_for({(directory / "other/x").string()}, directory / "new")); }),
              "unknown kind");
}

TEST_CASE("tokenize: Parquet rows are documents, and a damaged row group is skipped") {
  TempDir directory;
  const fs::path table = ssa::test::source_dir() / "tests/data_tools/forty.parquet";
  auto options = options_for({table.string()}, directory / "out");
#if SSA_WITH_ARROW
  check_error(error_of([&] { ssa::tokenize(options); }), "forty.parquet:7: field \"text\" is null");
  options.output = directory / "skip";
  options.on_error = ssa::OnError::skip;
  CHECK(ssa::tokenize(options).skipped == 5);
  std::vector<std::string> expected;
  for (int i = 1; i <= 40; ++i)
    if (i % 7) expected.push_back("Document " + std::to_string(i) + ".");
  CHECK(documents_in(directory / "skip") == expected);

  options.output = directory / "messages";
  options.input.field = "messages";
  options.input.field_kind = ssa::FieldKind::conversation;
  CHECK(ssa::tokenize(options).documents == 40);
  CHECK(documents_in(directory / "messages")[39] == "Question 40\n\nAnswer");

  options.output = directory / "none";
  options.on_error = ssa::OnError::fail;
  options.input.field = "nothing";
  check_error(error_of([&] { ssa::tokenize(options); }), "forty.parquet", "no column \"nothing\"");
  options.input.field = "id";
  options.input.field_kind = ssa::FieldKind::text;
  fs::remove_all(options.output);
  check_error(error_of([&] { ssa::tokenize(options); }), "\"id\" is int64, expected string");

  // One flipped bit in the pages of the second row group: its 15 rows are lost, the others are not.
  std::string bytes = ssa::read_file(table);
  const std::size_t at = bytes.find("Document 20.");
  REQUIRE(at != std::string::npos);
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  write_file(directory / "flipped.parquet", bytes);
  options = options_for({(directory / "flipped.parquet").string()}, directory / "flipped");
  options.on_error = ssa::OnError::skip;
  const ssa::TokenizeReport report = ssa::tokenize(options);
  CHECK(report.skipped == 1 + 2 + 1);
  CHECK(report.documents == 13 + 9);

  write_file(directory / "cut.parquet", bytes.substr(0, bytes.size() / 2));
  options = options_for({(directory / "cut.parquet").string()}, directory / "cut");
  check_error(error_of([&] { ssa::tokenize(options); }), "cut.parquet");
#else
  check_error(error_of([&] { ssa::tokenize(options); }), "forty.parquet", "SSA_PARQUET");
#endif
}

#if SSA_WITH_ARROW
TEST_CASE("tokenize: Parquet columns in every layout of strings, lists and structs") {
  const TempDir directory;
  const std::string table = (ssa::test::source_dir() / "tests/data_tools/layouts.parquet").string();
  int jobs = 0;
  const auto read = [&](const char* field, ssa::FieldKind kind, ssa::OnError on_error = ssa::OnError::fail) {
    auto options = options_for({table}, directory / std::to_string(jobs++));
    options.input.field = field;
    options.input.field_kind = kind;
    options.on_error = on_error;
    const ssa::TokenizeReport report = ssa::tokenize(options);
    return std::pair(documents_in(options.output), report);
  };
  const std::vector<std::string> texts = {"one", "two", "one", "three with a longer text"};
  for (const char* field : {"dictionary", "large_dictionary", "view", "binary_view", "large", "dotted.name"}) {
    INFO(field);
    CHECK(read(field, ssa::FieldKind::text).first == texts);
    CHECK(read(field, ssa::FieldKind::conversation).first == texts);
  }
  const auto [nested, nested_report] = read("meta.inner.text", ssa::FieldKind::text, ssa::OnError::skip);
  CHECK(nested == std::vector<std::string>{"one", "two", "one"});
  CHECK(nested_report.skipped == 1);
  for (const char* field : {"strings", "chat", "share"}) {
    INFO(field);
    const auto [documents, report] = read(field, ssa::FieldKind::conversation);
    CHECK(documents == std::vector<std::string>{"Hi\n\nHo", "Hi"});
    CHECK(report.empty == 2);
    CHECK(report.messages_without_text == 1);
  }
  const auto error = [&](const char* field, ssa::FieldKind kind) { return error_of([&] { read(field, kind); }); };
  check_error(error("numbers", ssa::FieldKind::conversation), "layouts.parquet", "\"numbers\" is list<", "int64");
  check_error(error("strings", ssa::FieldKind::text), "\"strings\" is list<", "expected string");
  check_error(error("meta.inner.nothing", ssa::FieldKind::text), "no column \"meta.inner.nothing\"",
              "\"meta\" is struct<");
  check_error(error("meta.id.x", ssa::FieldKind::text), "no column \"meta.id.x\"");
  check_error(error("none.of.these", ssa::FieldKind::text), "no column \"none.of.these\"");
}
#endif
