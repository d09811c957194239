#include "ssa/data/dataset.h"

#include <functional>

#include "support/catch.h"
#include "support/make_dataset.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// The message of the Error that `f` throws; it must be one line.
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    return message;
  }
  return "no error";
}

void overwrite(const std::filesystem::path& path, std::size_t at, std::string_view bytes) {
  std::string content = read_file(path);
  content.replace(at, bytes.size(), bytes);
  write_file(path, content);
}

void replace_text(const std::filesystem::path& path, const std::string& from, const std::string& to) {
  std::string content = read_file(path);
  const std::size_t at = content.find(from);
  REQUIRE(at != std::string::npos);
  write_file(path, content.replace(at, from.size(), to));
}

Documents read_all(const Dataset& dataset) {
  Documents all;
  for (const IndexedDataset& shard : dataset.shards())
    for (std::int64_t d = 0; d < shard.documents(); ++d) {
      all.emplace_back(static_cast<std::size_t>(shard.length(d)));
      shard.read(d, 0, all.back());
    }
  return all;
}

const Documents kTwo = {{1, 2, 256}, {3, 256}};
const Documents kThree = {{256}, {7, 8, 9, 256}, {5, 256}};

}  // namespace

TEST_CASE("a dataset returns the documents that were written, in the order of the shards") {
  for (const TokenType type : {TokenType::uint16, TokenType::int32})
    for (const bool json : {true, false}) {
      CAPTURE(name_of(type), json);
      TempDir dir;
      const std::int32_t big = type == TokenType::int32 ? 70000 : 65535;
      make_dataset(dir.path(), {kTwo, {{big, 256}}, kThree},
                   {.vocab_size = big + 1, .eos_token_id = 256, .type = type, .json = json});
      const Dataset dataset(dir.path());
      CHECK(dataset.documents() == 6);
      CHECK(dataset.tokens() == 14);
      CHECK(dataset.info().has_value() == json);
      CHECK(read_all(dataset) == Documents{{1, 2, 256}, {3, 256}, {big, 256}, {256}, {7, 8, 9, 256}, {5, 256}});
      std::vector<std::int32_t> middle(2);
      dataset.shards()[2].read(1, 1, middle);
      CHECK(middle == std::vector<std::int32_t>{8, 9});
      CHECK_THROWS_AS(dataset.shards()[2].read(1, 3, middle), Error);
      CHECK_NOTHROW(dataset.verify());
    }
}

TEST_CASE("int64 token ids are read, and must fit an int32") {
  const TempDir dir;
  write_indexed_dataset(dir / "corpus", {{1, 70000, 256}, {}, {3, 256}}, TokenType::int64);
  const Dataset dataset(dir.path());
  CHECK(dataset.shards()[0].type() == TokenType::int64);
  CHECK(dataset.tokens() == 5);
  CHECK(read_all(dataset) == Documents{{1, 70000, 256}, {}, {3, 256}});
  std::vector<std::int32_t> middle(2);
  dataset.shards()[0].read(0, 1, middle);
  CHECK(middle == std::vector<std::int32_t>{70000, 256});
  overwrite(dir / "corpus.bin", 8 + 4, "\x01");
  CHECK_THAT(error_of([&] { Dataset(dir.path()).verify(80000); }),
             has("corpus.bin: document 0 holds token id 4295037296 at 1, expected an int32"));
}

TEST_CASE("a Megatron prefix is a dataset, with or without a suffix") {
  const TempDir dir;
  write_indexed_dataset(dir / "c4_text_document", kThree);
  write_indexed_dataset(dir / "v1.5_text", kTwo);
  for (const char* suffix : {"", ".bin", ".idx"}) {
    CHECK(read_all(Dataset(dir / ("c4_text_document" + std::string(suffix)))) == kThree);
    CHECK(read_all(Dataset(dir / ("v1.5_text" + std::string(suffix)))) == kTwo);
  }
  CHECK_THAT(error_of([&] { Dataset dataset(dir / "c4_text"); }), has("c4_text: no such directory"));
  // A shard of a dataset of ours keeps what dataset.json says of it.
  make_dataset(dir / "ours", {kTwo, kThree});
  const Dataset shard(dir / "ours/shard-00001");
  CHECK(read_all(shard) == kThree);
  REQUIRE(shard.info().has_value());
  CHECK_THAT(error_of([&] { shard.check_model(257, 3); }), has("eos_token_id 256"));
  CHECK_NOTHROW(shard.verify());
}

TEST_CASE("the splits of a corpus side by side are not read as one") {
  for (const auto& [train, held_out] :
       {std::pair{"c4_train_text_document", "c4_valid_text_document"}, std::pair{"all-train", "all-test"},
        std::pair{"corpus_text_document", "corpus_validation_text_document"}}) {
    const TempDir dir;
    write_indexed_dataset(dir / train, kTwo);
    write_indexed_dataset(dir / "latest_train", kTwo);  // "test" is only a part of a word
    CHECK_NOTHROW(Dataset(dir.path()));
    write_indexed_dataset(dir / held_out, kThree);
    const std::string error = error_of([&] { Dataset dataset(dir.path()); });
    CHECK_THAT(error, has(train) && has(held_out) && has("expected one split"));
    CHECK(read_all(Dataset(dir / held_out)) == kThree);
  }
}

TEST_CASE("bits per byte: nats per token / ln 2 x tokens / bytes, where the bytes are recorded") {
  TempDir dir;
  make_dataset(dir.path(), {{{1, 2, 256}}, {{3, 4, 5, 256}, {6, 256}}});
  CHECK(Dataset(dir.path()).text_bytes() == 6);  // the tokenizer is `bytes`
  CHECK(*bits_per_byte(Dataset(dir.path()), std::log(2.0)) == Approx(9.0 / 6));
  replace_text(dir / "dataset.json", "\"name\": \"bytes\"", "\"name\": \"other\"");
  CHECK_FALSE(Dataset(dir.path()).text_bytes());
  CHECK_FALSE(bits_per_byte(Dataset(dir.path()), 1.0));
  replace_text(dir / "dataset.json", "\"tokens\": 3", "\"tokens\": 3, \"text_bytes\": 20");
  CHECK_FALSE(Dataset(dir.path()).text_bytes());  // of one shard only
  replace_text(dir / "dataset.json", "\"tokens\": 6", "\"tokens\": 6, \"text_bytes\": 16");
  CHECK(Dataset(dir.path()).text_bytes() == 36);
  CHECK(*bits_per_byte(Dataset(dir.path()), std::log(2.0)) == Approx(0.25));
  replace_text(dir / "dataset.json", "\"text_bytes\": 16", "\"text_bytes\": 0");
  CHECK_THAT(
      error_of([&] { Dataset dataset(dir.path()); }),
      has("dataset.json: shards[1]: text_bytes is 0, expected the bytes of the text of 6 tokens in 2 documents"));
  replace_text(dir / "dataset.json", "\"text_bytes\": 0", "\"text_bytes\": \"16\"");
  CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }),
             has("shards[1]: text_bytes is \"16\", expected an integer of at least 0"));
}

TEST_CASE("dataset.json is read in full") {
  TempDir dir;
  make_dataset(dir.path(), {kTwo});
  const DatasetInfo info = read_dataset_info(dir / "dataset.json");
  CHECK(info.tokenizer_name == "bytes");
  CHECK(info.tokenizer_sha256 == std::string(64, '0'));
  CHECK(info.vocab_size == 257);
  CHECK(info.eos_token_id == 256);
  CHECK(info.dtype == TokenType::uint16);
  REQUIRE(info.shards.size() == 1);
  CHECK(info.shards[0].name == "shard-00000");
  CHECK(info.shards[0].documents == 2);
  CHECK(info.shards[0].tokens == 5);
  CHECK(info.shards[0].bin_bytes == 10);
  CHECK(info.shards[0].idx_bytes == 34 + 2 * 12 + 3 * 8);
}

TEST_CASE("a dataset.json with a key that occurs twice is an error that names the key") {
  TempDir dir;
  make_dataset(dir.path(), {kTwo});
  std::string text = ssa::read_file(dir / "dataset.json");
  text.insert(text.find('{') + 1, "\"vocab_size\": 300,");
  replace_file(dir / "dataset.json", text);
  CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }),
             has("dataset.json: vocab_size: given twice, expected once"));
}

TEST_CASE("the error for a damaged shard states the file, what was found and what was expected") {
  struct Damage {
    const char* name;
    std::function<void(const TempDir&)> make;
    const char* message;
  };
  const Damage damages[] = {
      {"truncated bin", [](auto& d) { std::filesystem::resize_file(d / "shard-00000.bin", 8); },
       "shard-00000.bin: 8 bytes, expected 10"},
      {"longer bin", [](auto& d) { std::filesystem::resize_file(d / "shard-00000.bin", 12); },
       "shard-00000.bin: 12 bytes, expected 10"},
      {"empty bin", [](auto& d) { write_file(d / "shard-00000.bin", ""); }, "shard-00000.bin: 0 bytes, expected 10"},
      {"empty idx", [](auto& d) { write_file(d / "shard-00000.idx", ""); },
       "shard-00000.idx: 0 bytes, expected a header of 34"},
      {"idx cut in its header", [](auto& d) { std::filesystem::resize_file(d / "shard-00000.idx", 20); },
       "shard-00000.idx: 20 bytes, expected a header of 34"},
      {"idx cut in its arrays", [](auto& d) { std::filesystem::resize_file(d / "shard-00000.idx", 60); },
       "shard-00000.idx: 60 bytes, expected 82 for its 2 sequences"},
      {"magic", [](auto& d) { overwrite(d / "shard-00000.idx", 2, "X"); },
       "shard-00000.idx: does not begin with MMIDIDX"},
      {"version", [](auto& d) { overwrite(d / "shard-00000.idx", 9, "\x02"); },
       "shard-00000.idx: version 2, expected 1"},
      {"int16", [](auto& d) { overwrite(d / "shard-00000.idx", 17, "\x03"); },
       "shard-00000.idx: tokens are int16 (code 3), expected uint16 (8), int32 (4) or int64 (5)"},
      {"unknown type", [](auto& d) { overwrite(d / "shard-00000.idx", 17, "\x63"); },
       "shard-00000.idx: tokens are of an unknown type (code 99)"},
      {"sequence count that overflows",
       [](auto& d) { overwrite(d / "shard-00000.idx", 18, "\xff\xff\xff\xff\xff\xff\xff\xff"); },
       "shard-00000.idx: 82 bytes, expected more for its 18446744073709551615 sequences"},
      {"length", [](auto& d) { overwrite(d / "shard-00000.idx", 34, "\x04"); },
       "shard-00000.idx: document 1 begins at byte 6 of the .bin, expected 8"},
      {"last length", [](auto& d) { overwrite(d / "shard-00000.idx", 38, "\x01"); },
       "shard-00000.bin: 10 bytes, expected 8, the sum over the documents of shard-00000.idx"},
      {"negative length", [](auto& d) { overwrite(d / "shard-00000.idx", 34, "\xff\xff\xff\xff"); },
       "shard-00000.idx: document 0 has -1 tokens"},
      {"idx of another shard",
       [](auto& d) {
         const TempDir elsewhere;
         write_indexed_dataset(elsewhere / "other", kThree);
         std::filesystem::copy_file(elsewhere / "other.idx", d / "shard-00000.idx",
                                    std::filesystem::copy_options::overwrite_existing);
       },
       "shard-00000.bin: 10 bytes, expected 14"},
      {"no documents", [](auto& d) { write_indexed_dataset(d / "shard-00000", {}); },
       "shard-00000.idx: holds no documents"},
      {"no tokens",
       [](auto& d) {
         write_indexed_dataset(d / "shard-00000", {{}, {}});
       },
       "shard-00000.bin: holds no tokens"},
  };
  for (const Damage& damage : damages) {
    CAPTURE(damage.name);
    TempDir dir;
    make_dataset(dir.path(), {kTwo}, {.json = false});
    CHECK_NOTHROW(Dataset(dir.path()));
    damage.make(dir);
    CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }), has(damage.message));
  }
}

TEST_CASE("a directory without a valid dataset is an error that names the file") {
  TempDir dir;
  CHECK_THAT(error_of([&] { Dataset dataset(dir / "nowhere"); }), has("nowhere: no such directory"));
  CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }), has("no documents"));
  make_dataset(dir.path(), {kTwo, kThree});
  std::filesystem::remove(dir / "shard-00001.idx");
  CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }), has("shard-00001.idx: missing"));
  std::filesystem::remove(dir / "shard-00001.bin");
  CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }), has("shard-00001.idx: No such file or directory"));
  write_indexed_dataset(dir / "shard-00001", kThree);
  CHECK_NOTHROW(Dataset(dir.path()));
  write_indexed_dataset(dir / "another", kThree);  // ignored, because there is a dataset.json
  CHECK(Dataset(dir.path()).shards().size() == 2);
  write_indexed_dataset(dir / "shard-00002", kThree);
  CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }), has("shard-00002.bin: not listed in dataset.json"));
}

TEST_CASE("a dataset.json that is a link to a missing file is not taken for a dataset without one") {
  TempDir dir;
  make_dataset(dir.path(), {kTwo});
  std::filesystem::rename(dir / "dataset.json", dir / "elsewhere");
  CHECK(!Dataset(dir.path()).info());
  std::filesystem::create_symlink("nowhere", dir / "dataset.json");
  CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }), has("dataset.json: cannot open: No such file"));
  std::filesystem::remove(dir / "dataset.json");
  std::filesystem::create_symlink("elsewhere", dir / "dataset.json");
  CHECK(Dataset(dir.path()).info());
}

TEST_CASE("the error for a directory with only train/ and validation/ suggests train/") {
  TempDir dir;
  make_dataset(dir / "train", {kTwo});
  CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }),
             has("no documents") && has("did you mean " + (dir / "train").string() + "?"));
}

TEST_CASE("the shards of an interrupted ssa_tokenize job are not a dataset") {
  const std::string state = R"({"settings": {"tokenizer": "bytes", "tokenizer_sha256": "00"}})";
  TempDir dir;
  make_dataset(dir / "train", {kTwo}, {.json = false});
  write_file(dir / "job.json", R"({"nodes": 2})");  // of another program
  CHECK_NOTHROW(Dataset(dir / "train"));
  for (const auto& place : {dir.path(), dir / "train"}) {
    write_file(place / "job.json", state);
    CHECK_THAT(error_of([&] { Dataset dataset(dir / "train"); }),
               has((dir / "train").string() + ": the ssa_tokenize job of ") && has("is not finished"));
    std::filesystem::remove(place / "job.json");
  }
  write_file(dir / "job.json", state);  // a finished half of a split
  make_dataset(dir / "train", {kTwo});
  CHECK_NOTHROW(Dataset(dir / "train"));
}

TEST_CASE("a shard that differs from dataset.json is an error") {
  struct Change {
    const char *from, *to, *message;
  };
  const Change changes[] = {
      {"\"documents\": 2", "\"documents\": 3", "shard-00000.idx: 2 documents, expected 3 (dataset.json)"},
      {"\"tokens\": 5", "\"tokens\": 6", "shard-00000.idx: 5 tokens, expected 6"},
      {"\"bin_bytes\": 10", "\"bin_bytes\": 11", "shard-00000.bin: 10 bytes, expected 11"},
      {"\"idx_bytes\": 82", "\"idx_bytes\": 83", "shard-00000.idx: 82 bytes, expected 83"},
      {"\"dtype\": \"uint16\"", "\"dtype\": \"int32\"", "shard-00000.idx: tokens are uint16, expected int32"},
      {"\"dtype\": \"uint16\"", "\"dtype\": \"int64\"", "dataset.json: dtype is int64, expected uint16 or int32"},
      {"megatron-indexed", "parquet", "dataset.json: format is parquet, expected megatron-indexed"},
      {"\"vocab_size\"", "\"vocab\"", "dataset.json: no key vocab_size"},
      {"\"vocab_size\": 257", "\"vocab_size\": \"x\"", "dataset.json: vocab_size is \"x\", expected an integer"},
      {"\"vocab_size\": 257", "\"vocab_size\": 256",
       "dataset.json: eos_token_id is 256, expected below vocab_size 256"},
      {"\"tokenizer\": {", "\"tokenizer\": 1, \"t\": {", "dataset.json: tokenizer: a number, expected an object"},
      {"\"shards\": [", "\"shards\": 1, \"s\": [", "dataset.json: shards is a number, expected an array"},
      {"\"bin_xxh3\"", "\"bin_xxh\"", "dataset.json: shards[0]: no key bin_xxh3"},
      {"\"shard-00000\"", "\"../other\"", "dataset.json: shards[0]: name is ../other, expected shard-NNNNN"},
      {"{\"format\"", "\"format\"", "dataset.json: not valid JSON at byte"},
  };
  for (const Change& change : changes) {
    CAPTURE(change.from, change.to);
    TempDir dir;
    make_dataset(dir.path(), {kTwo});
    replace_text(dir / "dataset.json", change.from, change.to);
    CHECK_THAT(error_of([&] { Dataset dataset(dir.path()); }), has(change.message));
  }
}

TEST_CASE("verify finds a flipped bit, an id outside the vocabulary and a missing end of text") {
  TempDir dir;
  make_dataset(dir.path(), {kTwo, kThree});
  overwrite(dir / "shard-00001.bin", 2, "\x06");  // still a valid id
  const Dataset flipped(dir.path());
  CHECK_THAT(error_of([&] { flipped.verify(); }), has("shard-00001.bin: checksum "));

  make_dataset(dir.path(), {kTwo, {{1, 256}, {2, 300, 256}}});
  CHECK_THAT(error_of([&] { Dataset(dir.path()).verify(); }),
             has("shard-00001.bin: document 1 holds token id 300 at 1, expected ids below vocab_size 257"));

  make_dataset(dir.path(), {{{1, 256}, {2, 3}}, kTwo});
  CHECK_THAT(error_of([&] { Dataset(dir.path()).verify(); }),
             has("shard-00000.bin: document 1 ends in token id 3, expected the end-of-text id 256"));

  // int32 can store ids outside any vocabulary.
  make_dataset(dir.path(), {{{-5, 256}}, kTwo}, {.type = TokenType::int32});
  CHECK_THAT(error_of([&] { Dataset(dir.path()).verify(); }), has("document 0 holds token id -5 at 0"));

  // Without dataset.json only the vocabulary of the caller is known.
  make_dataset(dir.path(), {{{1, 256}, {2, 3}}, kTwo}, {.json = false});
  std::filesystem::remove(dir / "dataset.json");
  const Dataset plain(dir.path());
  CHECK_NOTHROW(plain.verify());
  CHECK_NOTHROW(plain.verify(257));
  CHECK_THAT(error_of([&] { plain.verify(256); }), has("shard-00000.bin: document 0 holds token id 256"));
  make_dataset(dir.path(), {{{1, -1, 2}}, kTwo}, {.type = TokenType::int32, .json = false});
  CHECK_THAT(error_of([&] { Dataset(dir.path()).verify(); }),
             has("shard-00000.bin: document 0 holds token id -1 at 1, expected ids from 0"));
}

TEST_CASE("a dataset made with another tokenizer is an error for the model") {
  TempDir dir;
  make_dataset(dir.path(), {kTwo});
  const Dataset dataset(dir.path());
  CHECK_NOTHROW(dataset.check_model(257, 256));
  CHECK_NOTHROW(dataset.check_model(512, 256));
  CHECK_THAT(error_of([&] { dataset.check_model(256, 256); }),
             has("dataset.json: tokenizer bytes has a vocabulary of 257, expected at most the model's "
                 "vocab_size 256"));
  CHECK_THAT(error_of([&] { dataset.check_model(512, 0); }),
             has("dataset.json: tokenizer bytes has eos_token_id 256, expected the model's 0"));
}
