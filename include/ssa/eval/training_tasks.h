// train.eval_tasks: tasks of lm-evaluation-harness that a run evaluates while it trains.
#pragma once

#include "ssa/config/config.h"
#include "ssa/train/train.h"

namespace ssa::eval {

/// Loads the tasks and the tokenizer. Batches have train.per_device_train_batch_size requests of at most
/// train.max_length tokens; ssa_eval with these --rows and --max-length gives the same scores for a checkpoint. Keys of
/// the scores: task_acc/piqa, or for ssa task_acc_sparse/piqa and task_acc_full/piqa. Without tasks, nothing is run.
/// UsageError or Error that names train.eval_tasks for a missing or malformed file, and train.eval_tokenizer.
TaskEvaluation training_tasks(const Config& config);

}  // namespace ssa::eval
