#include "ssa/train/evaluate.h"

namespace ssa {

ForwardTensors lay_out_forward(Arena& arena, const ModelConfig& model, const PassShape& shape, DeviceKind kind) {
  ForwardTensors t;
  t.activations = lay_out_activations(arena, model, shape, kind);
  t.batch = allocate_batch(arena, shape);
  t.sums = {.ce = arena.allocate("sum of losses", DType::f64, {1}),
            .alignment = arena.allocate("alignment", DType::f64, {1})};
  t.losses = arena.allocate("losses", DType::f32, {shape.rows * shape.tokens});
  return t;
}

EvalSums evaluate_rows(Stream& stream, Comm& comm, const Llama& model, MicroBatch& batch, const LossSums& sums,
                       BatchStaging& staging, const RowLoader& loader,
                       const std::function<void(std::int64_t batch)>& on_batch, const std::function<bool()>& stop,
                       const std::function<PassHooks()>& hooks) {
  const std::int64_t rows = loader.rows(), micro_rows = model.shape.rows;
  EvalSums result;
  stream.zero(sums.ce);
  stream.zero(sums.alignment);
  for (std::int64_t round = 0; round < rows; round += comm.size() * micro_rows) {
    const std::int64_t first = round + comm.rank() * micro_rows;
    if (first < rows || hooks) {  // in the last round some ranks may have nothing to do
      if (on_batch && first < rows) on_batch(first / micro_rows);
      for (std::int64_t i = 0; i < micro_rows; ++i) {
        if (first + i < rows) {
          staging.fill(i, loader, 0, first + i, /*full_stream=*/false);
          result.labels += loader.label_count(0, first + i);
        } else {
          staging.fill_empty(i);
        }
      }
      staging.upload(batch);
      evaluate(stream, model, batch, sums, {}, {}, hooks ? hooks() : PassHooks{});
    }
    if (stop && stop()) {
      result.stopped = true;
      return result;
    }
  }
  stream.copy(&result.ce, sums.ce.data(), sizeof(double));
  stream.synchronize();
  result.ce = all_reduce(comm, result.ce, ReduceOp::sum);
  result.labels = static_cast<std::int64_t>(all_reduce(comm, static_cast<double>(result.labels), ReduceOp::sum));
  return result;
}

}  // namespace ssa
