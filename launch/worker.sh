#!/usr/bin/env bash
# What one host of a TPU slice does: installs, trains, and says by its exit status what should happen next.
#
#   0      done
#   75     worth starting again: the trainer asked for it, or this host or another one is being taken away
#   other  stop: a bug, a wrong setting or missing data, which a restart would only repeat
#
# Runs in an unpacked archive of the project. Settings come from the environment (launch/cloud_run.py,
# host_environment), overrides of the trainer as arguments. TPU VMs and GKE both start it; once the run has ended, it
# only repeats the exit status.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# GKE sets TPU_WORKER_ID and TPU_WORKER_HOSTNAMES in the container; launch/tpu_vm_startup.sh reads them from metadata.
host=${TPU_WORKER_ID:-0}
IFS=, read -ra hostnames <<<"${TPU_WORKER_HOSTNAMES:-localhost}"
hosts=${#hostnames[@]}
# Named, since JAX moved its default from 8476, which firewalls know, to 8482.
port=8476
restarts=${MASKSEARCH_RESTARTS:-0} # on this host; GKE restarts all pods of the JobSet instead
pause=${MASKSEARCH_PAUSE:-20}      # seconds between two starts
records=$MASKSEARCH_WORKDIR/launch
# A run that quietly falls back to the CPU costs as much as one on the TPU.
export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu}

say() { printf '%s host %s of %s: %s\n' "$(date -u +%FT%TZ)" "$host" "$hosts" "$*"; }

finish() { # code, reason
    say "$2; exit status $1"
    if (($1 != 75)); then
        mkdir -p "$records" && echo "$host $hosts $1 $(date -u +%FT%TZ) $2" >"$records/exit-$host"
    fi
    exit "$1"
}

# The exit status of a host that has stopped for good, if there is one.
stopped_host() {
    local file code
    for file in "$records"/exit-*; do
        [[ -f $file ]] && read -r _ _ code _ <"$file" && ((code != 0)) && echo "$code" && return
    done
    return 1
}

# Python 3.11 or 3.12 for launch/setup.sh; the images of TPU VMs carry 3.10, and uv brings one.
provide_python() {
    local candidate fits='import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'
    for candidate in python3.12 python3.11 python3; do
        if "$candidate" -c "$fits" 2>/dev/null; then
            export PYTHON=$candidate
            return
        fi
    done
    python3 -m pip install --quiet uv && python3 -m uv python install 3.12 &&
        PYTHON=$(python3 -m uv python find 3.12) && export PYTHON
}

if code=$(stopped_host); then
    say "stopped before with exit status $code (see $records/exit-*)"
    exit "$code"
fi
# One finished host is not enough: the others cannot go on without it.
if [[ $(find "$records" -name 'exit-*' 2>/dev/null | wc -l) -ge $hosts ]]; then
    say "done before"
    exit 0
fi
if ((hosts != ${MASKSEARCH_EXPECTED_HOSTS:-$hosts})); then
    finish 64 "the slice has $hosts hosts and $MASKSEARCH_EXPECTED_HOSTS were expected"
fi

for attempt in 1 2 3; do # the network of a new host is not always there at once
    provide_python && bash launch/setup.sh "$MASKSEARCH_EXTRAS" && break
    ((attempt < 3)) || finish 69 "launch/setup.sh $MASKSEARCH_EXTRAS failed three times"
    sleep "$pause"
done

command=(.venv/bin/python -m masksearch_jax.train "--config=$MASKSEARCH_CONFIG" "--workdir=$MASKSEARCH_WORKDIR")
if ((hosts > 1)); then
    command+=("--config.distributed.coordinator=${hostnames[0]}:$port" "--config.distributed.processes=$hosts"
        "--config.distributed.process_id=$host")
fi
command+=("$@")

trainer=
taken_away=
forward() {
    taken_away=yes
    [[ -n $trainer ]] && kill -TERM "$trainer" 2>/dev/null
}
trap forward TERM INT

for ((start = 0; ; start++)); do
    say "start $start: ${command[*]}"
    "${command[@]}" &
    trainer=$!
    wait "$trainer"
    code=$?
    while kill -0 "$trainer" 2>/dev/null; do # a signal ends `wait`, not the trainer, which may be saving
        wait "$trainer"
        code=$?
    done
    trainer=
    ((code == 0)) && finish 0 "done"
    [[ -n $taken_away ]] && finish 75 "this host is being taken away (the trainer ended with $code)"
    if ((code == 143 || (code == 134 && hosts > 1))); then
        # JAX aborts the processes that have lost another one: 134.
        say "the trainer ended with $code: a host went away"
        code=75
    fi
    ((code == 75)) || finish "$code" "the trainer stopped"
    ((start < restarts)) || finish 75 "started ${start} times again"
    sleep "$pause"
    other=$(stopped_host) && finish "$other" "another host stopped"
done
