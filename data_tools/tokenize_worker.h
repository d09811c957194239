// What each tokenizing thread of a job does: a batch of records in, token ids and what became of each record out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data_tools/document_reader.h"
#include "data_tools/tokenize_job.h"
#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// What became of one record.
struct Outcome {
  enum Kind : std::uint8_t { document, validation, empty, fault } kind;
  std::uint64_t row = 0;
  std::size_t ids_end = 0;  // the document's tokens end here in TokenizedBatch::ids
  std::uint64_t text_bytes = 0, replaced = 0, messages_without_text = 0;
  std::size_t fault_index = 0;
};

struct Fault {
  std::string reason;
  std::string record;  // only kept for the quarantine
};

struct TokenizedBatch {
  std::size_t file = 0;
  IdBuffer ids = {};
  std::vector<Outcome> outcomes = {};
  std::vector<Fault> faults = {};
  InputPlace next = {};
  std::uint64_t file_bytes = 0;
};

class TokenizeWorker {
 public:
  TokenizeWorker(const Tokenizer& tokenizer, const TokenizeOptions& options)
      : encoder_(tokenizer), eos_(tokenizer.eos_token_id()), options_(options) {}

  TokenizedBatch tokenize(const RawBatch& batch);

 private:
  void take_rows(const RawRecord& rows, std::size_t file, TokenizedBatch& out);
  void take(RawRecord::Kind kind, std::uint64_t row, std::string_view content, TokenizedBatch& out,
            std::size_t messages_without_text = 0);
  void encode(RawRecord::Kind kind, std::string_view content, Outcome& outcome, IdBuffer& ids);

  Encoder encoder_;
  std::int32_t eos_;
  const TokenizeOptions& options_;
  std::string text_;
};

}  // namespace ssa
