# Sourced by jobs that start the daemon, with $home set to a folder for its files: leaves its configuration in $home/hearthd.toml, and
# functions that start and end it.
# Guests are as small as can be, and everything has the time that an emulated host needs.
run="/run/hearth-${0##*/}"
rm -rf "$run"
mkdir -p "$run"
cat > "$home/hearthd.toml" << END
data = "$home/data"
run = "$run"
burst = 1
launch_timeout_seconds = 120
listen.socket = "$home/hearthd.sock"
paths.vmm = "$HEARTH_VMM"
paths.catalogue = "$HEARTH_CATALOGUE"
builder.memory_mib = 1536
END
if [ -e "$HEARTH_IN/listen.sh" ]; then
    . "$HEARTH_IN/listen.sh"
    chmod 600 "$HEARTH_IN/key.pem"
    cat >> "$home/hearthd.toml" << END
listen.address = "$listen"
listen.certificate = "$HEARTH_IN/certificate.pem"
listen.key = "$HEARTH_IN/key.pem"
endpoint.address = "$endpoint"
aws.address = "$aws"
aws.certificate = "$HEARTH_IN/certificate.pem"
aws.key = "$HEARTH_IN/key.pem"
[[access.keys]]
id = "$key_id"
secret = "$secret"
END
fi

# Runs when a script ends, unless it has a function of its own: no microVM and no daemon is left.
stop() {
    status=$?
    trap - EXIT INT TERM
    "$HEARTH_CLI" --quiet ps | xargs -r "$HEARTH_CLI" rm --wait > /dev/null 2>&1 || true
    end_daemon $status
    exit $status
}
# Starts the daemon, whose process is $daemon then, and waits until it answers. The function `stop` runs when the script ends.
start_daemon() {
    "$HEARTH_HOSTD" --config "$home/hearthd.toml" > "$home/hearthd.log" 2>&1 &
    daemon=$!
    trap stop EXIT INT TERM
    tries=0
    until "$HEARTH_CLI" host > /dev/null 2>&1; do
        kill -0 "$daemon" 2> /dev/null || exit 1
        tries=$((tries + 1))
        [ $tries -lt 300 ] || exit 1
        sleep 0.1
    done
}
# Ends the daemon; with a status of the script that is not 0, the end of its log is shown before.
end_daemon() {
    if [ "$1" -ne 0 ]; then
        echo "--- the end of hearthd's log"
        tail -n 40 "$home/hearthd.log"
    fi
    kill "$daemon" 2> /dev/null || true
    wait "$daemon" || true
}
