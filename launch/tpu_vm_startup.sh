# The rest of the start-up script of a TPU VM, behind the settings that launch/tpu_vm.py writes above it. Every host
# runs it at every boot, as root: it mounts the bucket, reads who this host is, unpacks the code and hands over to
# launch/worker.sh. Log: /var/log/masksearch.log, copied to <workdir>/launch/log-<host>.txt each minute.
set -uo pipefail
export HOME=${HOME:-/root} DEBIAN_FRONTEND=noninteractive
log=${MASKSEARCH_LOG:-/var/log/masksearch.log}
exec >>"$log" 2>&1

metadata() {
    curl -sSf --retry 10 --retry-all-errors -H Metadata-Flavor:Google \
        "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

TPU_WORKER_ID=$(metadata agent-worker-number) || exit 1
# Either host names, or triples name:id:address.
TPU_WORKER_HOSTNAMES=$(metadata worker-network-endpoints | tr , '\n' | sed 's/.*://' | paste -sd, -) || exit 1
export TPU_WORKER_ID TPU_WORKER_HOSTNAMES

if ! command -v gcsfuse >/dev/null; then
    keyring=/usr/share/keyrings/cloud.google.asc
    curl -sSf --retry 10 --retry-all-errors -o "$keyring" https://packages.cloud.google.com/apt/doc/apt-key.gpg
    echo "deb [signed-by=$keyring] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" \
        >/etc/apt/sources.list.d/gcsfuse.list
    for _ in 1 2 3 4 5 6 7 8 9 10; do # unattended upgrades hold apt's lock after a boot
        apt-get update -q && apt-get install -qy gcsfuse && break
        sleep 30
    done
fi
if ! mountpoint -q "$MASKSEARCH_MOUNT"; then
    mkdir -p "$MASKSEARCH_MOUNT"
    # Orbax finishes a checkpoint by renaming its folder, which gcsfuse refuses in a flat bucket without a limit. No
    # metadata cache: a host must see at once what another one wrote.
    gcsfuse --implicit-dirs --rename-dir-limit=10000 --metadata-cache-ttl-secs=0 \
        --metadata-cache-negative-ttl-secs=0 "$MASKSEARCH_BUCKET" "$MASKSEARCH_MOUNT" || exit 1
fi

records=$MASKSEARCH_WORKDIR/launch
mkdir -p "$records"
copy_log() { tail -c 10000000 "$log" >"$records/log-$TPU_WORKER_ID.txt"; }
(while sleep 60; do copy_log; done) &
copier=$!

code=${MASKSEARCH_LOCAL:-/opt/masksearch}/$(basename "$MASKSEARCH_CODE" .tar.gz)
if [[ ! -d $code ]]; then
    mkdir -p "$code.partial" && tar -xzf "$MASKSEARCH_CODE" -C "$code.partial" && mv "$code.partial" "$code" || exit 1
fi
bash "$code/launch/worker.sh" "${overrides[@]}"
status=$?
kill "$copier"
copy_log
exit "$status"
