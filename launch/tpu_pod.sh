#!/usr/bin/env bash
# The same command on every worker of a Cloud TPU slice; jax.distributed finds the other workers by itself.
#
# A TPU VM that exists:
#   TPU=my-v5e ZONE=us-west4-a bash launch/tpu_pod.sh \
#       --config=configs/math_ift.py:paper --workdir=/mnt/shared/runs/math_ift
#
# A queued resource of that name, asked for where there is none, and asked for again when it is preempted:
#   TPU=my-v5e ZONE=us-west4-a ACCELERATOR=v5litepod-32 SPOT=1 MOUNT="sudo mount 10.0.0.2:/share /mnt" \
#       bash launch/tpu_pod.sh --config=configs/math_ift.py:paper --workdir=/mnt/runs/math_ift
#
#   ACCELERATOR   v5litepod-32, v5p-64, v6e-16, ...: its type; without it TPU names a TPU VM that exists
#   RUNTIME       the TPU software version; by default the one that its type needs
#   SPOT=1        capacity that may be preempted, for less
#   VALID_UNTIL   6h, ...: give up where it is not there by then
#   CREATE_FLAGS  further flags of `gcloud compute tpus queued-resources create`, such as "--reserved"
#   RETRIES       how often it is asked for again after a preemption (default 20)
#   KEEP=1        keep the slice when the run is done; by default the slice that this command asked for is deleted
#   PROJECT       where it is not gcloud's own
#   MOUNT         a command that mounts the shared file system on a worker
#   FETCH         what each worker fetches first (default: smollm2-135m evals)
#   --dry_run     prints the commands and does nothing
#
# It copies the checkout (committed files only) to each worker and runs launch/tpu_worker.sh there, with HF_TOKEN and
# WANDB_API_KEY (in a file), WANDB_MODE, LFL_CACHE and PYTHON where they are set. The workdir must be on a file system
# that all workers share and that outlives the slice. Start it where it can stay (tmux): it waits for the run.
#
# Preempted: the same command runs on the next slice and resumes. Nothing is repeated after a run that is done, after a
# mistake (exit code 2), a loss that is not a number (3), or any end while the slice is still there.
set -euo pipefail
source "$(dirname "$0")/common.sh"
in_checkout "$(dirname "$0")/.."

tpu=${TPU:?set TPU to the name of a TPU VM or queued resource, see bash launch/tpu_pod.sh --help}
zone=${ZONE:?set ZONE to the zone of $TPU}
where=("--zone=$zone" ${PROJECT:+"--project=$PROJECT"})
accelerator=${ACCELERATOR:-}
retries=${RETRIES:-20}
poll=${POLL_SECONDS:-30}

for word in "$@"; do
    [[ $word != --workdir=*://* ]] || fail "$word: a bucket is no directory; mount it on the workers (MOUNT)"
done
# https://cloud.google.com/tpu/docs/runtimes
case $accelerator in
v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
v5p-*) runtime=v2-alpha-tpuv5 ;;
v6e-*) runtime=v2-alpha-tpuv6e ;;
*) runtime="tpu-ubuntu2204-base" ;;
esac

scratch=${TMPDIR:-/tmp}
if [[ ! $dry_run ]]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'say "the workers may still run; the same command says so. To stop them:" \
        "gcloud compute tpus tpu-vm ssh $(quoted "$tpu" "${where[@]}") --worker=all" \
        "--command=\"pkill -TERM -f [l]fl_jax.main\""; exit 130' INT
fi

queued() { run gcloud compute tpus queued-resources "$@" "${where[@]}"; }

ask() {
    local flags=()
    read -r -a flags <<< "${CREATE_FLAGS:-}"
    [[ ! ${SPOT:-} ]] || flags+=(--spot)
    [[ ! ${VALID_UNTIL:-} ]] || flags+=("--valid-until-duration=$VALID_UNTIL")
    queued create "$tpu" "--node-id=$tpu" "--accelerator-type=$accelerator" "--runtime-version=${RUNTIME:-$runtime}" \
        ${flags[@]+"${flags[@]}"}
}

delete() { queued delete "$tpu" --force --quiet; }

# state: ACTIVE, SUSPENDED, ... ; MISSING where there is none, UNKNOWN where gcloud cannot say.
state() {
    local answer node
    if answer=$(queued describe "$tpu" '--format=value(state.state)' 2>"$scratch/describe"); then
        node=$(gcloud compute tpus tpu-vm describe "$tpu" "${where[@]}" '--format=value(state)' 2>/dev/null) || node=""
        # The request may count as active for a while after its VMs are gone.
        if [[ $answer == ACTIVE && ($node == PREEMPTED || $node == TERMINATED) ]]; then answer=SUSPENDED; fi
        echo "${answer:-UNKNOWN}"
    elif grep -qi 'not.found' "$scratch/describe"; then
        echo MISSING
    else
        echo UNKNOWN
    fi
}

# obtain: return when the slice is there, asked for where it is not; 1 where it was lost again meanwhile.
obtain() {
    local now last="" since=$SECONDS shown=0 unknown=0
    while true; do
        now=$(state)
        case $now in
        ACTIVE) return ;;
        FAILED) fail "queued resource $tpu FAILED; why: $(quoted gcloud compute tpus queued-resources describe "$tpu" \
            "${where[@]}")" ;;
        MISSING)
            [[ ! $last ]] || return 1
            say "asking for $tpu: $accelerator${SPOT:+, spot}"
            ask || fail "$tpu cannot be asked for"
            asked=yes
            ;;
        SUSPENDED)
            [[ ! $last ]] || return 1
            say "$tpu was preempted earlier: deleting it"
            delete || fail "$tpu cannot be deleted"
            continue
            ;;
        UNKNOWN)
            ((unknown += 1))
            ((unknown < 10)) || fail "gcloud does not say how $tpu is: $(tail -n 1 "$scratch/describe")"
            ;;
        esac
        # A line when something changes, and every ten minutes.
        if [[ $now != "$last" && $now != MISSING ]] || ((SECONDS - shown >= 600)); then
            say "waiting for $tpu: $now for $(((SECONDS - since) / 60)) min"
            shown=$SECONDS
        fi
        last=$now
        sleep "$poll"
    done
}

# lost: whether the slice is gone. Its state follows a preemption by a minute or two.
lost() {
    local now
    for _ in 1 2 3 4 5; do
        now=$(state)
        case $now in ACTIVE | UNKNOWN) sleep "$poll" ;; *) return 0 ;; esac
    done
    return 1
}

# exports NAME...: the variables that are set, as lines for a shell.
exports() {
    local name
    for name in "$@"; do
        [[ ! ${!name:-} ]] || echo "export $name=$(quoted "${!name}")"
    done
}

# The command for a worker, quoted for the shell at the other end. Arguments of a process are there for every user of
# its machine to see, and gcloud keeps its own in a log: tokens go in a file, which is read once and removed.
remote() {
    echo "set -e; mkdir -p lfl_jax; tar -xzf lfl_jax.tar.gz -C lfl_jax"
    [[ ! $secrets ]] || echo ". ./lfl_jax.env; rm -f lfl_jax.env"
    echo "cd lfl_jax"
    exports WANDB_MODE LFL_CACHE PYTHON FETCH MOUNT
    echo "exec bash launch/tpu_worker.sh $(quoted "$@")"
}

# -p: with its mode, which lets no other user of a worker read it.
send_secrets() {
    [[ $secrets ]] || return 0
    if [[ $dry_run ]]; then
        say "$scratch/lfl_jax.env, for you alone to read, has:"
        while read -r line; do say "    $line"; done <<< "$secrets"
    else
        (umask 077 && echo "$secrets" > "$scratch/lfl_jax.env")
    fi
    run gcloud compute tpus tpu-vm scp "${where[@]}" --worker=all --scp-flag=-p "$scratch/lfl_jax.env" \
        "$tpu:lfl_jax.env"
}

on_workers() {
    run gcloud compute tpus tpu-vm scp "${where[@]}" --worker=all "$scratch/lfl_jax.tar.gz" "$tpu:lfl_jax.tar.gz" &&
        send_secrets &&
        run gcloud compute tpus tpu-vm ssh "${where[@]}" --worker=all "$tpu" --command="$(remote "$@")"
}

secrets=$(exports HF_TOKEN WANDB_API_KEY)
# Once, so that what resumes is what began.
run git archive --format=tar.gz "--output=$scratch/lfl_jax.tar.gz" HEAD

if [[ $dry_run ]]; then
    # Secrets are not for a screen.
    for name in HF_TOKEN WANDB_API_KEY; do [[ ! ${!name:-} ]] || printf -v "$name" '%s' YOUR_TOKEN; done
    secrets=$(exports HF_TOKEN WANDB_API_KEY)
    if [[ $accelerator ]]; then
        ask
        say "until it says ACTIVE:"
        queued describe "$tpu" '--format=value(state.state)'
    fi
    on_workers "$@"
    if [[ $accelerator ]]; then
        say "after a preemption, at most $retries times, this and all of it again; at the end:"
        delete
    fi
    exit
fi
if [[ ! $accelerator ]]; then
    on_workers "$@"
    exit
fi

asked="" preemptions=0
while true; do
    code=0
    if obtain; then
        say "$tpu is there: running the command on all workers"
        on_workers "$@" || code=$?
        case $code in 0 | 2 | 3) break ;; esac
        lost || break
    fi
    if ((preemptions >= retries)); then
        echo "error: $tpu was preempted $((preemptions + 1)) times (RETRIES=$retries); the same command resumes" >&2
        exit 1
    fi
    ((preemptions += 1))
    say "$tpu was preempted ($preemptions of at most $retries times): deleting it and asking again"
    delete || say "not deleted yet"
done

case $code in
0) say "done, after $preemptions preemptions" ;;
130) say "stopped and saved; the same command resumes" ;;
*) say "the run ended with exit code $code while $tpu is there, and is not repeated; its output above says why" ;;
esac
if [[ $code == 0 && $asked && ! ${KEEP:-} ]]; then
    say "deleting $tpu (KEEP=1 keeps it)"
    delete
else
    say "$tpu is still there, and is paid for. To delete it:" \
        "$(quoted gcloud compute tpus queued-resources delete "$tpu" "${where[@]}" --force)"
fi
exit "$code"
