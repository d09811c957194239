// Any text: its ids decode to the same text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "ssa/tokenizer/tokenizer.h"
#include "ssa/tokenizer/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string directory = SSA_SOURCE_DIR "/tests/tokenizer/";
  static const ssa::Tokenizer tokenizers[] = {ssa::load_tokenizer(directory + "gpt2.tokenizer.json"),
                                              ssa::load_tokenizer(directory + "llama3.tokenizer.json"),
                                              ssa::load_tokenizer(directory + "smollm2.tokenizer.json"),
                                              ssa::load_tokenizer(directory + "qwen2.tokenizer.json")};
  static std::vector<ssa::Encoder> encoders(std::begin(tokenizers), std::end(tokenizers));
  std::string text(reinterpret_cast<const char*>(data), size);
  ssa::replace_invalid_utf8(text);
  for (std::size_t i = 0; i < encoders.size(); ++i) {
    ssa::IdBuffer ids;
    encoders[i].encode(text, ids);
    const std::string back = tokenizers[i].decode({ids.data(), ids.size()});
    if (i < 3 && back != text) std::abort();  // qwen2 normalizes, and strips at some added tokens
  }
  return 0;
}
