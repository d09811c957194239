// The JSON files of an exported Hugging Face directory.
#pragma once

#include <string>
#include <string_view>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/model/model_config.h"

namespace ssa {

/// config.json: the keys of `model`, model_type llama-nsa, the classes of the exported Python files, the method, the
/// attention used at inference (full for method full, else sparse), and the constants of the architecture.
/// `torch_dtype` is the dtype of the weights: "float32" or "bfloat16".
std::string hugging_face_config_json(const ModelConfig& model, Method method, BlockSelection selection,
                                     std::string_view torch_dtype);

/// generation_config.json: token ids and greedy decoding. The padding token is the end-of-text token.
std::string hugging_face_generation_json(const ModelConfig& model);

}  // namespace ssa
