#include "src/tokenizer/sha256.h"

#include <openssl/evp.h>

#include "ssa/base/checksum.h"
#include "ssa/base/error.h"

namespace ssa {

std::string sha256_hex(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  SSA_CHECK(EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) == 1,
            "OpenSSL: SHA-256 failed");
  return to_hex(digest, length);
}

}  // namespace ssa
