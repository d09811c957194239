#!/usr/bin/env bash
# Rehearses failures of training: runs a tiny job on the CPU again and again, each time with a random fault of SSA_FAULT
# (a killed or stopped rank, a full disk, an I/O error, a flipped bit, a NaN, a slow disk), resumes it with --resume
# auto until it completes, and compares its weights, moments and metrics, to the bit, with a job that nothing disturbed.
#
# Usage: scripts/fault_campaign.sh [--faults N] [--ranks "1 2 4"] [--seed S] [--jobs N] [--timeout S]
#        [--build DIR] [--directory DIR]
#
#   --faults N       faults that must happen, 100
#   --ranks LIST     numbers of ranks to draw from, of 1, 2 and 4; more than one needs mpirun
#   --seed S         of the random faults, 1
#   --jobs N         jobs at the same time, 1
#   --timeout S      seconds after which a job counts as hung, 60
#   --build DIR      build directory with bin/ssa_train and bin/ssa_tokenize, build
#   --directory DIR  where the jobs run; the default is a new directory in memory or in TMPDIR
#
# Prints one line per kind of fault and number of ranks: the faults that happened, how many the job resumed from with
# nothing lost, how many lost something (a completed checkpoint was passed over, the job could not be resumed, or its
# result differs), how many made it hang. A job of one rank that is stopped (SIGSTOP) waits for ever; the script kills
# it, does not count it as hung, and says how many it killed. The files of a job that lost something are kept.
# Exit code: 0 nothing lost and nothing hung, 1 otherwise, 2 wrong usage.
set -euo pipefail

usage() { sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "$0"; }
wrong_usage() { echo "fault_campaign.sh: $*; see scripts/fault_campaign.sh --help" >&2; exit 2; }
fail() { echo "fault_campaign.sh: $*" >&2; exit 1; }

faults=100 ranks_list="1 2 4" seed=1 jobs=1 time_limit=60 build=build directory=
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --faults | --ranks | --seed | --jobs | --timeout | --build | --directory)
      [ $# -ge 2 ] || wrong_usage "$1 needs a value"
      case $1 in
        --faults) faults=$2 ;;
        --ranks) ranks_list=$2 ;;
        --seed) seed=$2 ;;
        --jobs) jobs=$2 ;;
        --timeout) time_limit=$2 ;;
        --build) build=$2 ;;
        --directory) directory=$2 ;;
      esac
      shift 2 ;;
    *) wrong_usage "unknown argument $1" ;;
  esac
done
for number in "$faults" "$seed" "$jobs" "$time_limit" $ranks_list; do
  [[ $number =~ ^[1-9][0-9]{0,8}$ ]] || wrong_usage "found $number, expected an integer of at least 1"
done
read -r -a ranks_choices <<<"$ranks_list"
[ ${#ranks_choices[@]} -gt 0 ] || wrong_usage "--ranks names no number"
for ranks in "${ranks_choices[@]}"; do
  [[ $ranks = [124] ]] || wrong_usage "--ranks: found $ranks, expected 1, 2 or 4: the ranks share a global batch of 4 rows"
done

root=$(cd "$(dirname "$0")/.." && pwd)
[ -d "$build" ] || build=$root/$build
build=$(realpath -m "$build")
for program in ssa_train ssa_tokenize; do
  [ -x "$build/bin/$program" ] || fail "$build/bin/$program: no such program; build it, or give --build"
done
for ranks in "${ranks_choices[@]}"; do
  [ "$ranks" = 1 ] || command -v mpirun >/dev/null || fail "$ranks ranks need mpirun, which is not installed"
done
if [ -z "$directory" ]; then
  parent=${TMPDIR:-/tmp}
  if [ -z "${TMPDIR:-}" ] && [ -d /dev/shm ] && [ -w /dev/shm ]; then parent=/dev/shm; fi
  directory=$(mktemp -d "$parent/fault_campaign.XXXXXX")
fi
mkdir -p "$directory/results"
directory=$(cd "$directory" && pwd)
cd "$directory"

# Open MPI's files go where they are removed with the rest, also after ranks were killed.
mkdir -p "$directory/mpi"
export OMPI_MCA_btl_vader_backing_directory=$directory/mpi OMPI_MCA_orte_tmpdir_base=$directory/mpi
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
unset SSA_FAULT
readonly steps=12 save_steps=3 eval_steps=4
# The watchdog between ranks ends a job with a stopped rank; a build without it is helped like one rank.
watchdog=false
if [[ $("$build/bin/ssa_train" --print-config-keys) = *distributed.timeout_seconds* ]]; then watchdog=true; fi

# 1. The data: random letters in documents of 20 to 80 bytes, one byte per token.
make_data() {  # NAME DOCUMENTS
  awk -v n="$2" -v seed="$seed" 'BEGIN { srand(seed); for (d = 0; d < n; ++d) { text = ""
    for (i = 20 + int(rand() * 60); i > 0; --i) text = text sprintf("%c", 97 + int(rand() * 26))
    printf "{\"text\": \"%s\"}\n", text } }' >"$1.jsonl"
  "$build/bin/ssa_tokenize" --tokenizer bytes --input "$1.jsonl" --output "$1" >"$1.log" 2>&1 || fail "$(cat "$1.log")"
}
make_data data 200
make_data eval 8

# 2. A launch of a job, in its directory: its log, its exit code in $code, and whether it $hung.
train_command() {  # RANKS ZERO_STAGE ASYNC RESUME
  command=()
  if [ "$1" -gt 1 ]; then command=(mpirun --oversubscribe --bind-to none -n "$1"); fi
  command+=("$build/bin/ssa_train" --config "$root/configs/tiny.json" --device cpu --resume "$4")
  local sets=(output_dir=out data.path="$directory/data" data.eval_path="$directory/eval" model.hidden_size=32
    model.intermediate_size=64 model.num_hidden_layers=2 model.head_dim=16 model.block_counts=2 train.max_length=64
    train.per_device_train_batch_size=1 train.global_batch_size=4 train.max_steps=$steps train.eval_steps=$eval_steps
    checkpoint.save_steps=$save_steps checkpoint.save_total_limit=2 checkpoint.async="$3" distributed.zero_stage="$2")
  if $watchdog; then sets+=(distributed.timeout_seconds=2 distributed.start_timeout_seconds=10
    distributed.save_timeout_seconds=2 distributed.eval_timeout_seconds=2); fi
  local each
  for each in "${sets[@]}"; do command+=(--set "$each"); done
}

end_session() {  # SESSION: every process of it, also those that mpirun put into other process groups
  local entry fields
  for entry in /proc/[0-9]*/stat; do
    read -r fields 2>/dev/null <"$entry" || continue
    # The fields after the name in parentheses: state, parent, process group, session.
    read -r _ _ _ session _ <<<"${fields##*) }"
    entry=${entry%/stat}
    if [ "$session" = "$1" ]; then kill -KILL "${entry#/proc/}" 2>/dev/null || true; fi
  done
}

launch() {  # LOG FAULT COMMAND...
  local log=$1 fault=$2 pid waited=0
  shift 2
  hung=false helped=false
  SSA_FAULT=$fault setsid "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.05
    waited=$((waited + 1))
    if [[ $fault = stop* ]] && [ "$helps_stopped" = true ] && grep -q '^SSA_FAULT: .*stop' "$log"; then
      sleep 0.2
      helped=true
      end_session "$pid"
      break
    fi
    if [ "$waited" -gt $((time_limit * 20)) ]; then
      hung=true
      end_session "$pid"
      break
    fi
  done
  code=0
  wait "$pid" 2>/dev/null || code=$?
}

metrics_of() { sed -E 's/"(tokens_per_second|step_ms|host_memory_gb)":[^,}]*,?//g' "$1/out/metrics.jsonl"; }
last_step=$(printf 'step-%08d' $steps)

# 3. Undisturbed jobs.
for ranks in "${ranks_choices[@]}"; do
  for stage in 0 1 2; do
    if [ "$stage" != 0 ] && [ "$ranks" = 1 ]; then continue; fi
    reference=$directory/reference-$ranks-$stage
    mkdir -p "$reference"
    train_command "$ranks" "$stage" false auto
    (cd "$reference" && "${command[@]}" >log 2>&1) || fail "the undisturbed job failed: $(tail -n 3 "$reference/log")"
  done
done

# 4. Random faults. Numbers come from RANDOM, seeded per job.
below() { drawn=$((RANDOM % $1)); }
pick() { shift $((RANDOM % $#)); picked=$1; }

draw_fault() {  # RANKS NEWEST_STEP: sets $kind and $fault
  local ranks=$1 left=$((steps - $2)) saves place operation= rank= more=
  saves=$(((left + save_steps - 1) / save_steps))
  pick kill kill kill stop nan slow enospc read bitflip bitflip
  kind=$picked
  case $kind in
    kill | stop | read) pick start step save eval step save ;;
    slow) pick start step save save ;;
    enospc) pick step save save save ;;
    nan) picked=step ;;
    bitflip) picked=save ;;
  esac
  place=$picked
  if [ "$kind/$place" = read/eval ]; then place=step; fi
  case $place in
    step) below $left; place=step:$(($2 + 1 + drawn)) ;;
    save) below $saves; place=save:$((drawn + 1)) ;;
    eval) below $((left / eval_steps + 1)); place=eval:$((drawn + 1)) ;;
  esac
  # How many operations a place has at least is measured; rank 0 has more than the others.
  below 2
  if [ $drawn = 1 ] && [ "$kind" != slow ]; then
    case $kind/$place in
      kill/save* | stop/save*) below 24 ;;
      kill/start | stop/start | read/start) below 8 ;;
      kill/step* | stop/step*) below 3 ;;
      enospc/save*) below 4 ;;
      bitflip/save*) below 5 ;;
      *) drawn=0 ;;
    esac
    operation=,operation:$((drawn + 1))
  fi
  below "$ranks"
  rank=,rank:$drawn
  case $kind/$place in
    */save* | enospc/* | read/start) rank=,rank:0 ;;
    kill/*) below 3; if [ $drawn = 0 ]; then rank=; fi ;;
  esac
  if [ "$kind" = slow ]; then more=,seconds:0.3; fi
  if [ "$kind" = bitflip ]; then more=,bit:$((RANDOM * 32768 + RANDOM)); fi
  fault=$kind@$place$rank$operation$more
}

# 5. A job: one to four launches with a fault, then resumed until it completes.
identity() { stat -c %i-%y "$1/manifest.json" | tr ' ' _; }  # changes when the checkpoint is written anew

newest_intact() {  # the newest completed checkpoint that no bit was flipped in; 0: none
  newest=0
  local path step
  for path in out/checkpoints/step-*; do
    [ -e "$path/manifest.json" ] || continue
    step=$((10#${path##*step-}))
    case " $damaged " in *" $(identity "$path") "*) continue ;; esac
    if [ "$step" -gt "$newest" ]; then newest=$step; fi
  done
}

read_log() {  # LOG: what a launch resumed from, and which checkpoints it damaged
  resumed=0
  local line step flipped=
  while IFS= read -r line; do
    case $line in
      *"resuming from "*) step=${line##*step-}; resumed=$((10#${step:0:8})) ;;
      *"SSA_FAULT: rank"*"bitflip"*) step=${line##*step-}; flipped=out/checkpoints/step-${step:0:8} ;;
    esac
  done <"$1"
  if [ -n "$flipped" ] && [ -e "$flipped/manifest.json" ]; then damaged="$damaged $(identity "$flipped")"; fi
}

run_job() {  # INDEX
  local index=$1 launches=0 wanted lost= none=false happened=() resume=auto stage=0 async ranks expected
  RANDOM=$(((seed * 7919 + index * 104729) % 32768))
  mkdir -p "job-$index"
  cd "job-$index"
  pick "${ranks_choices[@]}"
  ranks=$picked
  if [ "$ranks" -gt 1 ]; then below 3; stage=$drawn; fi
  pick false false true
  async=$picked
  below 4
  wanted=$((drawn + 1))
  helps_stopped=true
  if [ "$ranks" -gt 1 ] && $watchdog; then helps_stopped=false; fi
  damaged= code=1
  while :; do
    newest_intact
    expected=$newest
    fault=
    if [ "$launches" -lt "$wanted" ] && [ "$expected" -lt $steps ]; then draw_fault "$ranks" "$expected"; fi
    launches=$((launches + 1))
    train_command "$ranks" "$stage" "$async" "$resume"
    launch "log-$launches" "$fault" "${command[@]}"
    echo "launch $launches: SSA_FAULT='$fault' --resume $resume: exit code $code" >>launches
    read_log "log-$launches"
    local fired=false
    if [ -n "$fault" ] && grep -q '^SSA_FAULT: rank' "log-$launches"; then fired=true; fi
    if $fired; then happened+=("$kind $ranks $hung $helped"); fi
    if [ "$hung" = true ]; then
      lost="launch $launches hung"
      if ! $fired; then happened+=("none $ranks true false"); fi
      break
    fi
    # A run that got as far as training must have started from the newest intact checkpoint.
    if [ $resume = auto ] && [ "$resumed" -lt "$expected" ] && grep -q ' steps \| step ' "log-$launches"; then
      lost="launch $launches resumed from step $resumed, but step $expected was complete"
      break
    fi
    resume=auto
    if [ $code = 0 ] && [ -z "$fault" ]; then break; fi
    if [ $code = 0 ] && ! $fired; then break; fi
    if [ $code != 0 ] && [ -z "$fault" ]; then
      newest_intact
      if [ "$newest" = 0 ] && [ -n "$damaged" ] && grep -q -e '--resume none' "log-$launches"; then
        resume=none none=true
        continue
      fi
      lost="launch $launches could not resume: $(tail -n 1 "log-$launches")"
      break
    fi
    if [ "$launches" -gt $((wanted + 4)) ]; then lost="not complete after $launches launches"; break; fi
  done
  local reference=$directory/reference-$ranks-$stage file
  if [ -z "$lost" ]; then
    for file in model.safetensors optimizer.safetensors; do
      cmp -s "out/checkpoints/$last_step/$file" "$reference/out/checkpoints/$last_step/$file" ||
        lost+="$file of the last step differs from the undisturbed job's; "
    done
    cmp -s <(metrics_of .) <(metrics_of "$reference") || lost+="metrics.jsonl differs from the undisturbed job's"
  fi
  local outcome=resumed each
  if [ -n "$lost" ]; then outcome=lost; fi
  cd ..
  {
    for each in ${happened[@]+"${happened[@]}"}; do echo "$each $outcome $none"; done
    if [ -n "$lost" ] && [ ${#happened[@]} = 0 ]; then echo "none $ranks false false lost $none"; fi
  } >"results/$index.new"
  if [ -n "$lost" ]; then
    {
      echo "$directory/job-$index ($ranks ranks, zero_stage $stage, async $async): $lost"
      cat "job-$index/launches"
    } >"results/$index.lost"
  else
    rm -rf "job-$index"
  fi
  mv "results/$index.new" "results/$index.table"
}

begun=$SECONDS index=0 done_faults=0
count_faults() { done_faults=$(cat results/*.table 2>/dev/null | grep -c -v '^none' || true); }
while [ "$done_faults" -lt "$faults" ]; do
  while [ "$(jobs -rp | wc -l)" -lt "$jobs" ]; do
    index=$((index + 1))
    (run_job $index) 2>"results/$index.err" &
  done
  wait -n || true
  count_faults
done
wait
for job in $(seq $index); do
  if [ ! -f "results/$job.table" ]; then fail "job $job: the script failed: $(tail -n 3 "results/$job.err")"; fi
done
seconds=$((SECONDS - begun))

# 6. The table.
cat results/*.lost >&2 2>/dev/null || true
cat results/*.table | awk -v seconds=$seconds -v jobs=$index '
  { key = $1 " " $2; ++faults[key]; if ($3 == "true") ++hung[key]; else if ($5 == "lost") ++lost[key]
    else ++resumed[key]; if ($6 == "true") ++restarted
    if ($1 == "stop") { if ($4 == "true") ++killed; else ++ended } }
  function row(name, ranks, a, b, c, d) { printf "| %s | %s | %d | %d | %d | %d |\n", name, ranks, a, b, c, d }
  END {
    print "| kind | ranks | faults | resumed | lost | hung |\n|---|---|---|---|---|---|"
    split("kill stop nan slow enospc read bitflip none", kinds)
    for (k = 1; k <= 8; ++k) for (r = 1; r <= 4096; ++r) {
      key = kinds[k] " " r
      if (!(key in faults)) continue
      row(kinds[k], r, faults[key], resumed[key], lost[key], hung[key])
      f += faults[key]; s += resumed[key]; l += lost[key]; h += hung[key]
    }
    row("all", "", f, s, l, h)
    printf "\n%d jobs in %d s; %d faults left no intact checkpoint, and the job started over with --resume none\n",
      jobs, seconds, restarted
    printf "%d stopped jobs were killed by this script, %d were ended by the watchdog between ranks\n", killed, ended
    exit l + h > 0
  }' && status=0 || status=1
if [ $status = 0 ]; then rm -rf "$directory"; else echo "the files are in $directory" >&2; fi
exit $status
