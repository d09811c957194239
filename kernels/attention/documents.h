// The documents of packed sequences, for the attention ops: no token attends to a token or a block of another document.
//
// A sequence consists of pieces of documents, one after the other. A piece begins at a multiple of block_size, so that
// each block of keys is in one piece. Padding belongs to the piece before it.
//
// begin and end do not decrease along a sequence. So the first key of a tile of queries is `begin` of the tile's first
// query, and the last query of a tile of keys is before `end` of the tile's last key. The values are not checked.
#pragma once

#include "kernels/common/check.h"

namespace ssa {

/// Both tensors or none. Without them, a sequence is one piece.
struct DocumentBounds {
  Tensor begin = {};  ///< [B, T] i32: the first token of the piece that token t is in, a multiple of block_size
  Tensor end = {};    ///< [B, T] i32: the token after its last one, at most T

  explicit operator bool() const { return static_cast<bool>(begin); }
};

/// Throws unless both tensors are [B, T] i32, or neither is given.
inline void expect_if_given(const char* op, const DocumentBounds& documents, std::int64_t B, std::int64_t T) {
  if (!documents.begin && !documents.end) return;
  expect(op, "documents.begin", documents.begin, {B, T}, DType::i32);
  expect(op, "documents.end", documents.end, {B, T}, DType::i32);
}

}  // namespace ssa
