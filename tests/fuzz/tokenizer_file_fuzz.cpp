// Any tokenizer.json (first byte even) or rank file (odd): a tokenizer that encodes and decodes, or an Error.
#include <cstddef>
#include <cstdint>
#include <string>

#include "ssa/base/error.h"
#include "ssa/tokenizer/tokenizer.h"
#include "support/temp_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ssa::test::TempDir directory;
  if (size == 0) return 0;
  const auto path = directory / (data[0] % 2 ? "ranks.tiktoken" : "tokenizer.json");
  ssa::test::write_file(path, {reinterpret_cast<const char*>(data) + 1, size - 1});
  try {
    const ssa::Tokenizer tokenizer = ssa::load_tokenizer(path.string());
    ssa::Encoder encoder(tokenizer);
    ssa::IdBuffer ids;
    encoder.encode("The quick  brown\n\nfox 12345 <|endoftext|> caf\u00e9 e\u0301 \u65e5\u672c aaaaaaaaaaaaaaaaaaaaaa",
                   ids);
    tokenizer.decode({ids.data(), ids.size()});
  } catch (const ssa::Error&) {
  }
  return 0;
}
