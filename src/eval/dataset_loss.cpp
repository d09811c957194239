#include "ssa/eval/dataset_loss.h"

#include <algorithm>

#include "ssa/train/model_state.h"
#include "ssa/train/optimizer_step.h"

namespace ssa::eval {

EvalSums dataset_loss(Stream& stream, Comm& comm, const ModelSource& source, const Setting& setting,
                      const RowLoader& loader, std::int64_t rows) {
  const ParamTable table(setting.model);
  const std::vector<NamedShape> parameters = published_parameters(setting.model);
  const StateShape shape{.model = setting.model,
                         .pass = {.rows = std::min(rows, loader.rows()),
                                  .tokens = loader.max_length(),
                                  .path = setting.path,
                                  .backward = false},
                         .selection = setting.selection,
                         .kind = stream.kind()};
  const ModelState state(stream, shape, table);
  load_master_weights(stream, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
    source.read(parameters[i], out, first);
  });
  publish_weights(stream, comm, state);
  BatchStaging staging(stream, shape.pass.rows, shape.pass.tokens);
  return evaluate_rows(stream, comm, state.model(), state.batch, state.all_sums, state.sums, staging, loader,
                       !setting.sparse());
}

}  // namespace ssa::eval
